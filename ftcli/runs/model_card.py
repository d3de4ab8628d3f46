"""The card of a trained model, README.md beside its weights: what it is, what it learned from, what was measured.

Written from the spec, the ledger and the result alone, as the hub and people read one: YAML between two rules, then
Markdown. Paths of data are told without the folders of the machine that they lay on, and no times are, so that two runs
that train alike have the same card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import PurePath
from typing import Any

from ftcli.core.text import count
from ftcli.core.untrusted.printable import one_line
from ftcli.settings.run_spec import RunSpec

CARD = "README.md"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SETTINGS = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~])")
"""What Markdown takes for more than text."""


def model_card(spec: RunSpec, result: Mapping[str, Any], *, is_adapter: bool) -> str:
    """The card of a run's model.

    Args:
        result: the content of result.json.
        is_adapter: whether the weights are those of an adapter alone.
    """
    parts = (_front(spec, result, is_adapter), _about(spec, result), _measures(result), _use(spec, is_adapter))
    return "\n".join((*(line for part in parts for line in part), ""))


def _front(spec: RunSpec, result: Mapping[str, Any], is_adapter: bool) -> Iterator[str]:
    import yaml

    base = spec.model.name_or_path
    values: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    if _HUB_NAME.fullmatch(base):
        values |= {"base_model": base, "base_model_relation": "adapter" if is_adapter else "finetune"}
    if spec.model.licence:
        values["license"] = spec.model.licence
    values["tags"] = sorted({"ftcli", str(result["method"]), *([str(result["peft"])] if is_adapter else ())})
    if hub := [path for _, path, _ in _sets(result) if _HUB_NAME.fullmatch(path)]:
        values["datasets"] = hub
    yield from ("---", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip(), "---")


def _about(spec: RunSpec, result: Mapping[str, Any]) -> Iterator[str]:
    name, base = str(spec.run.name or "A model"), _name(spec.model.name_or_path)
    yield f"\n# {_text(name)}\n"
    yield f"{_text(base)}, trained by {_text(result['method'])}, peft={_text(result['peft'])}.\n"
    licence = _text(spec.model.licence) if spec.model.licence else "not known here: see where the base comes from"
    parameters = result.get("parameters") or {}
    rows = [("base", _text(base)), ("licence of the base", licence)]
    if revision := spec.model.revision:
        rows.append(("revision of the base", _text(revision)))
    if parameters:
        rows.append(("parameters", f"{count(parameters['trainable'])} of {count(parameters['total'])} trained"))
    rows.append(("steps", f"{result['steps']}, {count(result.get('tokens_trained'))} tokens"))
    settings = {key: spec.train.get(key) for key in _SETTINGS}
    if settings["max_steps"] not in (None, -1):
        settings["num_train_epochs"] = None  # which has no effect then
    rows += [(key.replace("_", " "), _text(value)) for key, value in settings.items() if value not in (None, -1)]
    rows += [("seed", str(spec.seed)), ("made with", f"ftcli {metadata.version('ftcli')}")]
    yield from _table(("", ""), rows)
    yield "\n## Data\n"
    sets = [(_text(_name(path)), _text(kind), kept) for kind, path, kept in _sets(result)]
    yield from _table(("set", "format", "rows"), sets)


def _sets(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Format, path and rows of each set that was trained on."""
    train = (result.get("ledger") or {}).get("train") or {}
    sets = train.get("sets") or ([train] if train else [])
    return [
        (str(each["format"]), str(each["path"]), f"{each['rows_kept']:,} of {each['rows_read']:,}") for each in sets
    ]


def _measures(result: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for title, pair in (("held-out loss", result.get("eval_loss")), (_score(result), result.get("score"))):
        if pair and pair.get("after") is not None:
            before = "not measured" if pair.get("before") is None else f"{pair['before']:.4f}"
            rows.append((title, before, f"{pair['after']:.4f}"))
    yield "\n## Measured on held-out rows\n"
    if rows:
        yield from _table(("", "before", "after"), rows)
    else:
        yield "Nothing was held out, so nothing is known of how well it does."
    for each in result.get("warnings") or ():
        yield f"\n- {'Note' if each['done'] else 'Warning'}: {_text(each['message'])}"
    if kept := result.get("retention"):
        yield from _retention(kept)


def _retention(kept: Mapping[str, Any]) -> Iterator[str]:
    """What it lost of what it knew before, by kind, and whether that passed the gate of its run."""
    yield "\n## What it kept\n"
    told = _text(_name(str(kept["set"])))
    yield f"Mean log-probability of the right answers of {kept['rows']} rows of {told}, in nats a token.\n"
    measured = [("all kinds", kept), *((_text(kind), each) for kind, each in kept["kinds"].items())]
    yield from _table(("kind", "before", "after", "change (95 % interval)"), [_change(*each) for each in measured])
    if gate := kept.get("gate"):
        limits = ", ".join(f"{_text(name)} at least {least:+g}" for name, least in gate.items())
        failed = [_text(each) for each in kept.get("failed") or ()]
        verdict = f"**not passed**: {'; '.join(failed)}" if failed else "passed"
        yield f"\nIts gate ({limits}): {verdict}."


def _change(kind: str, of: Mapping[str, Any]) -> tuple[str, ...]:
    change = of["difference"]
    interval = f"{change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
    return kind, f"{of['before']:.4f}", f"{of['after']:.4f}", interval


def _score(result: Mapping[str, Any]) -> str:
    score = result.get("score") or {}
    return f"{_text(str(score['name']).replace('_', ' '))} over {score['rows']} rows" if score else ""


def _use(spec: RunSpec, is_adapter: bool) -> Iterator[str]:
    yield "\n## Use\n"
    yield "```sh\nftcli chat FOLDER      # this folder"
    base = spec.model.name_or_path
    if is_adapter and _HUB_NAME.fullmatch(base):
        yield f"vllm serve {base} --enable-lora --lora-modules tuned=FOLDER"
    yield "```\n"
    yield "The chat template that it was trained with lies beside the weights, and servers use it from there."


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _name(path: str) -> str:
    """A hub name, or the last part of a path; of several paths, those of each."""
    if _HUB_NAME.fullmatch(path):
        return path
    return ", ".join(PurePath(each.strip()).name or each.strip() for each in path.split(","))


def _text(value: Any) -> str:
    """Text that Markdown takes as it is."""
    return _SIGNS.sub(r"\\\1", one_line(str(value)))
