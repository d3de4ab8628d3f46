"""Axolotl: the prompt strategy of each set, as `axolotl preprocess` applies it; preferences through its own trainers.

Where it drops rows or cuts them up, they go through one by one: those that are dropped leave no trace among the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import of_trl

Request = dict[str, Any]
Row = dict[str, Any]

_TRAINERS = {"dpo": "DPO", "ipo": "DPO", "kto": "KTO", "orpo": "ORPO", "simpo": "CPO"}
_UNLIMITED = 1_000_000
_LEFT_OUT: Row = {"dropped": "it is too long, too short, or filtered by its strategy"}


def configuration(settings: dict[str, Any], folder: Path) -> Any:
    """The tool's own, checked configuration of a training that only prepares its rows.

    Args:
        settings: keys of a configuration, among them the model and the data sets.
        folder: where it may write.
    """
    from axolotl.cli.config import load_cfg
    from axolotl.utils.dict import DictDefault

    fixed = {
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-4,
    }
    return load_cfg(DictDefault({**settings, **fixed}), is_preprocess=True)


def tokenise(request: Request) -> dict[str, Any]:
    """The tokens of every row of every set."""
    from axolotl.loaders import load_tokenizer
    from datasets import load_dataset

    found = []
    for number, row_set in enumerate(request["sets"]):
        folder = Path(request["folder"]) / str(number)
        entry: dict[str, Any] = {**row_set["settings"], "path": row_set["rows"], "ds_type": "json"}
        settings = {**request["settings"], "base_model": request["model"], "datasets": [entry]}
        if request["whole"]:
            settings["sequence_len"] = _UNLIMITED  # texts are cut into blocks, and one row's length says nothing
        cfg = configuration(settings, folder)
        rows = load_dataset("json", data_files=row_set["rows"], split="train")
        prepare = _preferences if request["method"] in _TRAINERS else _answers
        found.append(prepare(request, cfg, load_tokenizer(cfg), rows))
    return {"version": metadata.version("axolotl"), "sets": found}


def _answers(request: Request, cfg: Any, tokenizer: Any, rows: Any) -> list[Row]:
    from axolotl.utils.data.utils import handle_long_seq_in_dataset
    from axolotl.utils.data.wrappers import get_dataset_wrapper

    named = cfg.datasets[0]
    base, _, style = str(named.type).partition(":") if isinstance(named.type, str) else ("", "", "")
    how: dict[str, Any] = {"dataset_config": named, "tokenizer": tokenizer, "cfg": cfg}
    how |= {"dataset_base_type": base or None, "dataset_prompt_style": style or None}

    def kept(some: Any) -> Any:
        wrapped, _ = get_dataset_wrapper(dataset=some, **how)
        if len(wrapped) != len(some) and len(some) > 1:
            raise ValueError("rows are filtered or cut up, so that their places are lost")
        numbers = range(len(some)) if len(wrapped) == len(some) else [0] * len(wrapped)
        return handle_long_seq_in_dataset(wrapped.add_column(of_trl.NUMBER, list(numbers)), cfg.sequence_len, cfg)

    try:
        together = kept(rows)
    except Exception:  # one by one, what is wrong with a row is said of that row alone
        return [_alone(kept, rows.select([index])) for index in range(len(rows))]
    found = [dict(_LEFT_OUT) for _ in range(len(rows))]
    for row in together:
        found[row[of_trl.NUMBER]] = {"sequences": _pair(row) or {"": _sequence(row["input_ids"], row["labels"])}}
    return found


def _alone(kept: Callable[[Any], Any], row: Any) -> Row:
    try:
        rows = list(kept(row))
        if rows and (pair := _pair(rows[0])):
            return {"sequences": pair}
        parts = [_sequence(part["input_ids"], part["labels"]) for part in rows]
    except Exception as error:  # where the whole training would end with it
        return {"dropped": f"it ends with {type(error).__name__}: {error}"}
    if not parts:
        return dict(_LEFT_OUT)
    return {"sequences": {f"part {i}" if len(parts) > 1 else "": part for i, part in enumerate(parts, 1)}}


def _pair(row: Row) -> dict[str, Any]:
    """Both answers of a row of a reward model, which are scored whole; nothing of another row."""
    named: dict[str, list[int]] = {
        side: row.get(f"{side}_ids") or row.get(f"{side}_input_ids") or [] for side in ("chosen", "rejected")
    }
    return {side: _sequence(ids, [0] * len(ids)) for side, ids in named.items()} if all(named.values()) else {}


def _sequence(ids: list[int], labels: list[int]) -> dict[str, Any]:
    return {"ids": ids, "trained": [label != -100 for label in labels]}


def _preferences(request: Request, cfg: Any, tokenizer: Any, rows: Any) -> list[Row]:
    """Texts by the strategy, cut or dropped by their tokens, and prepared by the tool's trainer of the method."""
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
    from axolotl.core.trainers.trl import AxolotlCPOTrainer, AxolotlKTOTrainer, AxolotlORPOTrainer
    from axolotl.core.training_args import AxolotlCPOConfig, AxolotlKTOConfig, AxolotlORPOConfig
    from datasets import Dataset

    texts, numbers = list[Row](), list[int]()
    found: list[Row] = [{"dropped": "it is too long"} for _ in range(len(rows))]
    for number, row in enumerate(rows):
        try:
            sample = _text(cfg, tokenizer, row)
        except Exception as error:  # as above
            found[number] = {"dropped": f"it ends with {type(error).__name__}: {error}"}
            continue
        if sample is not None:
            texts.append({**sample, of_trl.NUMBER: number})
            numbers.append(number)
    if not texts:
        return found
    kinds = {
        "DPO": (AxolotlDPOConfig, AxolotlDPOTrainer),
        "KTO": (AxolotlKTOConfig, AxolotlKTOTrainer),
        "ORPO": (AxolotlORPOConfig, AxolotlORPOTrainer),
        "CPO": (AxolotlCPOConfig, AxolotlCPOTrainer),
    }
    limited = {**request, "settings": {"max_length": cfg.sequence_len}}
    trainer = of_trl.trainer_of(limited, Dataset.from_list(texts), tokenizer, kinds[_TRAINERS[request["method"]]])
    for number, sequences in of_trl.sequences_of(trainer):
        found[number] = {"sequences": sequences}
    return found


def _text(cfg: Any, tokenizer: Any, row: Row) -> Row | None:
    """A row as prompt and answers in text; None where it is too long."""
    from axolotl.prompt_strategies.dpo import load as load_dpo
    from axolotl.prompt_strategies.kto import load as load_kto
    from axolotl.prompt_strategies.orpo import load as load_orpo
    from axolotl.utils.data import rl
    from axolotl.utils.schemas.enums import RLType

    kind = cfg.datasets[0]["type"]
    name = kind if isinstance(kind, str) else "user_defined.default"
    load = {RLType.KTO: load_kto, RLType.ORPO: load_orpo}.get(cfg.rl, load_dpo)
    transform = load(name, cfg, dataset_idx=0) if kind else dict
    transform = transform[0] if isinstance(transform, tuple) else transform
    further = {"tokenizer": tokenizer} if kind and "tokenizer" in inspect.signature(transform).parameters else {}
    names = ("prompt", "completion", "label") if cfg.rl is RLType.KTO else ("prompt", "chosen", "rejected")
    sample = {**row, **transform(dict(row), **further)}
    sample = {name: sample[name] for name in names}
    limits = (cfg.rl, tokenizer, cfg.sequence_len)
    if (cfg.excess_length_strategy or "drop").lower() == "truncate":
        sample = rl._truncate_long_sequences_rl(sample, *limits)
    return sample if rl._drop_long_sequences(sample, *limits) else None
