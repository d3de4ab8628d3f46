"""ms-swift: its own arguments, its loading of a data set and its template, as `swift sft`, `pt` and `rlhf` use them."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Row = dict[str, Any]

NUMBER = "row_number_in_the_file"
_MODES = {"sft": "train", "pretrain": "train", "kto": "kto"}
"""The mode in which a template encodes; of all other methods it is `rlhf`, which has two answers a row."""
_UNLIMITED = 1_000_000


def tokenise(request: Request) -> dict[str, Any]:
    """The tokens of every row of every set."""
    found = [_of_set(request, number, each) for number, each in enumerate(request["sets"])]
    return {"version": metadata.version("ms-swift"), "sets": found}


def _of_set(request: Request, number: int, row_set: dict[str, Any]) -> list[Row]:
    from swift.arguments import PretrainArguments, RLHFArguments, SftArguments
    from swift.dataset import load_dataset
    from swift.model import get_processor

    folder, method = Path(request["folder"]) / str(number), request["method"]
    folder.mkdir()
    rows = _numbered(Path(row_set["rows"]), folder / "rows.jsonl")
    kind = {"sft": SftArguments, "pretrain": PretrainArguments}.get(method, RLHFArguments)
    settings = dict(request["settings"])
    if request["whole"]:
        settings["max_length"] = _UNLIMITED  # texts are cut into blocks, and one row's length says nothing
    fixed = {"model": request["model"], "dataset": [str(rows)], "output_dir": str(folder / "out")}
    args = kind(**settings, **fixed, report_to=[], save_strategy="no", bf16=False, fp16=False, use_cpu=True)
    template = args.get_template(get_processor(request["model"], model_type=args.model_type))
    template.set_mode(_MODES.get(method, "rlhf"))
    how = {"columns": settings.get("columns"), "remove_unused_columns": False, "use_hf": True}
    dataset, _ = load_dataset([str(rows)], num_proc=1, load_from_cache_file=False, **how)
    count = len(rows.read_text(encoding="utf-8").splitlines())
    found: list[Row] = [{"dropped": "its preprocessor calls the row invalid"} for _ in range(count)]
    for row in dataset:
        found[int(row.pop(NUMBER))] = _encoded(template, row)
    return found


def _numbered(source: Path, target: Path) -> Path:
    """The rows with their numbers, which its preprocessors keep."""
    lines = source.read_text(encoding="utf-8").splitlines()
    numbered = ({**json.loads(line), NUMBER: number} for number, line in enumerate(lines))
    target.write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    return target


def _encoded(template: Any, row: Row) -> Row:
    try:
        columns = template.encode({key: value for key, value in row.items() if value is not None})
    except Exception as error:  # its trainers skip such a row, and take another in its place
        return {"dropped": f"{type(error).__name__}: {error}"}
    if "input_ids" in columns:
        return {"sequences": {"": _sequence(columns, "")}}
    if "rejected_input_ids" not in columns:
        return {"sequences": {"desirable" if columns["label"] else "undesirable": _sequence(columns, "chosen_")}}
    return {"sequences": {side: _sequence(columns, f"{side}_") for side in ("chosen", "rejected")}}


def _sequence(columns: dict[str, Any], prefix: str) -> dict[str, Any]:
    ids = list(columns[f"{prefix}input_ids"])
    labels = columns.get(f"{prefix}labels") or ids
    return {"ids": ids, "trained": [label != -100 for label in labels]}
