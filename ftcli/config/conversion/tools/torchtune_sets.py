"""torchtune's data sets, by the Python names of their components, none of which is imported."""

from __future__ import annotations

from typing import Any

from ftcli.config.conversion import common, rows
from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.rows import Rows
from ftcli.config.conversion.table import put

_SETS = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "stack_exchange_paired_dataset": "lvwerra/stack-exchange-paired",
    "samsum_dataset": "Samsung/samsum",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "grammar_dataset": "liweili/c4_200m",
    "wikitext_dataset": "EleutherAI/wikitext_document_level",
    "cnn_dailymail_articles_dataset": "ccdv/cnn_dailymail",
    "hh_rlhf_helpful_dataset": "RLHFlow/HH-RLHF-Helpful-standard",
}
_BY_SOURCE = ("instruct_dataset", "chat_dataset", "preference_dataset", "text_completion_dataset")
TEXT_SETS = ("text_completion_dataset", "wikitext_dataset", "cnn_dailymail_articles_dataset")
_TRAINS_PROMPTS = ("alpaca_dataset", "alpaca_cleaned_dataset", "instruct_dataset", "grammar_dataset", "samsum_dataset")


def names(draft: Draft) -> list[str]:
    """The names of its sets' components."""
    value = draft.file.data.get("dataset")
    items = value if isinstance(value, list) else [value]
    return [str(each.get("_component_", "")).rpartition(".")[2] for each in items if isinstance(each, dict)]


def data(draft: Draft) -> None:
    """The sets that are trained on, and what is held out."""
    sets = []
    value = draft.file.data.get("dataset", draft.file.data.get("datasets"))
    outer = "dataset" if "dataset" in draft.file.data else "datasets"
    listed = isinstance(value, list)
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(item, dict):
            continue
        keys = [k for k in draft.keys if k.path[0] == outer and (not listed or k.path[1:2] == (str(index),))]
        found = _set(draft, item, keys)
        if found is not None:
            sets.append(found)
    _held_out(draft, sets)
    if sets:
        rows.write(draft, sets, "interleave")
    else:
        rows.missing(draft)
    for key in common.each(draft, "tokenizer.max_seq_len dataset.max_seq_len"):
        put(draft, key, "data.max_length_tokens", key.value)
    for key in common.each(draft, "dataset.packed"):
        put(draft, key, "method.packing", key.value)


def _held_out(draft: Draft, sets: list[Rows]) -> None:
    """The evaluation set, which torchtune reads only where its interval is set."""
    every, item = draft.get("run_val_every_n_steps"), draft.get("dataset_val")
    if every in OFF or not isinstance(item, dict):
        for key in draft.keys:
            if key.path[0] in ("dataset_val", "batch_size_val") and key.value is not None and not key.inside:
                draft.silent(key, "run_val_every_n_steps is not set, so nothing is measured")
        return
    source = item.get("source") or _SETS.get(str(item.get("_component_", "")).rpartition(".")[2])
    part = Rows(path=str(source))
    change = rows.sliced(part, str(item.get("split", "")))
    if not (len(sets) == 1 and sets[0].path == source and part.share_of_set and part.share_of_set < 1):
        for key in [each for each in draft.keys if each.path[0] == "dataset_val" and not each.inside]:
            draft.dropped(key, "name the rows that are held out with data.eval_path=FILE, or as data.eval_share")
        return
    sets[0].share_of_set = None
    share = round(part.share_of_set, 4)
    draft.put("data.eval_share", share)
    for key in [each for each in draft.keys if each.path[0] == "dataset_val" and not each.inside]:
        draft.changed(key, f"data.eval_share={share}", change)
    for key in common.each(draft, "dataset.split"):
        draft.recast(key, f"data.eval_share={share}", "all rows but those that are held out, drawn by seed")
    draft.put("train.eval_strategy", "steps")
    for key in common.each(draft, "run_val_every_n_steps"):
        put(draft, key, "train.eval_steps", every)
    for key in common.each(draft, "batch_size_val"):
        put(draft, key, "train.per_device_eval_batch_size", key.value)


def _set(draft: Draft, item: dict[str, Any], keys: list[Occurrence]) -> Rows | None:
    component = str(item.get("_component_", ""))
    name = component.rpartition(".")[2]
    source = item.get("source") or _SETS.get(name)
    for key in keys:
        if key.name.endswith("._component_") and key.name.count(".") == 1:
            _set_component(draft, key, name, item, source)
    if source is None:
        draft.unsupported.append("its rows are images or another set that ftcli does not know")
        for key in keys:
            if key.value is not None and not key.inside:
                draft.dropped(key, "belongs to a set that is not known here")
        return None
    if source in ("json", "csv", "text", "parquet") and item.get("data_files"):
        source = item["data_files"]
    found = Rows(path=str(source) if not isinstance(source, list) else [str(each) for each in source])
    for key in keys:
        _set_key(draft, found, key, name)
    return found


def _set_component(draft: Draft, key: Occurrence, name: str, item: dict[str, Any], source: Any) -> None:
    if name not in _SETS and name not in _BY_SOURCE and not str(key.value).startswith("torchtune."):
        draft.dropped(
            key, f"refused: {key.value} names Python code to be called; bring the rows into a format of ftcli"
        )
    elif source is None:
        draft.dropped(key, "a set of torchtune's that is not known here: name the rows with data.path")
    elif name in _TRAINS_PROMPTS and item.get("train_on_input", name != "instruct_dataset"):
        draft.changed(
            key, f"data.path={source}", "torchtune trains prompts too here, by default; ftcli trains answers only"
        )
    else:
        draft.mapped(key, f"data.path={source}")


def _set_key(draft: Draft, found: Rows, key: Occurrence, name: str) -> None:
    last, value = key.name.rpartition(".")[2], key.value
    if value is None or key.inside or key.path in draft.entries:
        return
    if last in ("source", "data_files"):
        draft.mapped(key, "data.path")
    elif last == "split" and key.name.count(".") == 1:
        change = rows.sliced(found, str(value))
        if change:
            draft.changed(key, f"split={found.split}", change)
        else:
            draft.mapped(key, f"data.split={found.split}")
    elif last in ("subset", "name") and key.name.count(".") == 1:
        found.subset = str(value)
        draft.mapped(key, f"data.subset={value}")
    elif last in ("column", "conversation_column"):
        ours = "text" if name in TEXT_SETS else "messages"
        known = ("messages", "conversations") if ours == "messages" else ("text",)
        if value not in known:
            found.columns = {ours: str(value)}
        draft.mapped(key, f"data.columns.{ours}={value}")
    elif ".column_map." in key.name:
        ours = {"input": "prompt", "output": "completion"}.get(last, last)
        if ours != value:
            found.columns = {**(found.columns or {}), ours: str(value)}
        draft.mapped(key, f"data.columns.{ours}={value}")
    elif last == "conversation_style":
        draft.mapped(key, "", "recognised by its columns")
    elif last == "train_on_input" and value:
        draft.changed(key, "", "prompts are read and never trained")
    elif last in ("add_eos", "weight"):
        draft.changed(key, "", "documents and answers end with the end token; sets are mixed as they are")
    elif last in ("new_system_prompt", "prompt_template"):
        draft.changed(key, "", "a system turn is part of its row, and the template is the model's own")
