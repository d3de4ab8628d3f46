"""The data sets of Axolotl: lists of them, each with a prompt strategy that is known here or refused as code."""

from __future__ import annotations

import re
from typing import Any

from ftcli.config.conversion import common, rows
from ftcli.config.conversion.draft import OFF, Draft, Occurrence
from ftcli.config.conversion.rows import Rows

TEXT = ("completion", "pretrain")
_ALPACA = ("alpaca", "alpaca_chat", "alpaca_instruct", "alpaca_w_system", "oasst", "gpteacher", "reflection",
           "jeopardy", "concisechoice", "summarizetldr", "creative_acr")  # fmt: skip
_TURNS = ("chat_template", "sharegpt", "input_output", "pygmalion", "metharme", "orcamini", "llama2_chat", "context_qa",
          "chatml", "llama3", "passthrough", "zephyr", "messages")  # fmt: skip
_NAMED_BY_DEFAULT = ("dpo", "ipo", "simpo")
_LEFT_OUT = "Axolotl 0.19 leaves it out of a set of pairs, looks for role and content, and ends with a KeyError"
"""What becomes of the names of turns and speakers in sets of pairs."""
_PREFERENCES = ("bradley_terry", "dpo", "kto", "orpo")
_PROMPT_WORDS = (
    "the rows, as turns through the model's chat template; Axolotl puts the words of its own prompt around them"
)


def types_of(draft: Draft) -> list[str]:
    """The type of each data set, `user_defined` for one that is a mapping."""
    found = []
    for name in ("datasets", "pretraining_dataset"):
        for item in items(draft.file.data.get(name)):
            found.append(str(item.get("type", "")) if not isinstance(item.get("type"), dict) else "user_defined")
    return found


def items(value: Any) -> list[dict[str, Any]]:
    """The data sets that a key lists."""
    if isinstance(value, str):
        return [{"path": value}]
    value = [value] if isinstance(value, dict) else value
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def strategy(kind: str) -> str:
    """The prompt strategy of a type: `alpaca` of `alpaca:chat`."""
    return re.split(r"[.:]", kind)[0] if kind else ""


def read_set(draft: Draft, outer: str, index: int, item: dict[str, Any]) -> Rows | None:
    """One data set, and what became of its keys; None if it names no rows."""
    path = item.get("path")
    keys = [
        k
        for k in draft.keys
        if k.path[0] == outer and (k.path[1:2] in ((str(index),), ()) or k.path[1:2] == (k.path[-1],))
    ]
    if len(items(draft.file.data.get(outer))) > 1 or isinstance(draft.file.data.get(outer), list):
        keys = [k for k in keys if k.path[1:2] == (str(index),)]
    if not isinstance(path, str):
        return None
    found = Rows(path=path)
    local = path in ("json", "csv", "parquet", "text") and item.get("data_files")
    for key in keys:
        name = ".".join(key.path[2:] if isinstance(draft.file.data.get(outer), list) else key.path[1:])
        _set_key(draft, found, item, key, name, bool(local))
    return found


def _set_key(draft: Draft, found: Rows, item: dict[str, Any], key: Occurrence, name: str, local: bool) -> None:
    """One key of a data set."""
    value = key.value
    if value is None or key.inside:
        return
    if name == "path":
        draft.mapped(key, f"data.path={value}")
    elif name == "type":
        _type(draft, found, key, str(value))
    elif name == "split":
        change = rows.sliced(found, str(value))
        if change:
            draft.changed(key, f"split={found.split}", change)
        else:
            draft.mapped(key, f"data.split={found.split}")
    elif name == "name":
        found.subset = str(value)
        draft.mapped(key, f"data.subset={value}")
    elif name == "revision":
        found.revision = str(value)
        draft.mapped(key, f"data.revision={value}")
    elif name == "data_files":
        _files(draft, found, key, local)
    elif name == "shards" or name == "shards_idx":
        share = item.get("shards")
        found.share_of_set = 1 / share if isinstance(share, int) and share > 0 else None
        draft.changed(key, "share_of_set", "that share of the rows, drawn by seed")
    else:
        _set_columns(draft, found, item, key, name)


def _files(draft: Draft, found: Rows, key: Occurrence, local: bool) -> None:
    files = [str(each) for each in (key.value if isinstance(key.value, list) else [key.value])]
    base = str(found.path)
    if local:
        found.path = files[0] if len(files) == 1 else files
        draft.mapped(key, "data.path")
        return
    addresses = [f"https://huggingface.co/datasets/{base}/resolve/main/{each}" for each in files]
    if base.count("/") == 1 and not rows.is_local(base):
        found.path = addresses[0] if len(files) == 1 else addresses
        draft.mapped(key, "data.path", "the address of the file in its hub set")
    else:
        found.path = [f"{base.rstrip('/')}/{each}" for each in files]
        draft.mapped(key, "data.path")


def _set_columns(draft: Draft, found: Rows, item: dict[str, Any], key: Occurrence, name: str) -> None:
    """Names of columns and of speakers."""
    value = str(key.value)
    columns = {"field": "text", "field_chosen": "chosen", "field_rejected": "rejected", "field_tools": "tools",
               "field_system": "system", "field_messages": "messages", "type.field_instruction": "instruction",
               "type.field_input": "input", "type.field_output": "output", "type.field_system": "system"}  # fmt: skip
    if name in columns:
        known = {"messages": ("messages", "conversations", "conversation")}.get(columns[name], (columns[name],))
        if value not in known:
            found.columns = {**(found.columns or {}), columns[name]: value}
        draft.mapped(
            key, f"data.columns.{columns[name]}={value}" if value not in known else "", "recognised by its name"
        )
    elif name.startswith("message_property_mappings.") or name in ("message_field_role", "message_field_content"):
        if value in ("from", "value") and draft.get("rl") in _NAMED_BY_DEFAULT:
            draft.changed(key, "", f"recognised by its name; {_LEFT_OUT}")
        elif value in ("from", "value", "role", "content"):
            draft.mapped(key, "", "recognised by its name")
        else:
            draft.dropped(key, "the turns' own keys are role and content, or from and value")
    elif name.startswith("roles.") and isinstance(key.value, list):
        ours = name.partition(".")[2]
        named = {str(each): ours for each in key.value if str(each) != ours}
        if named:
            found.roles = {**(found.roles or {}), **named}
        after = f"data.roles={named}" if named else ""
        if named and draft.get("rl") in _NAMED_BY_DEFAULT:
            draft.changed(key, after, _LEFT_OUT)
        else:
            draft.mapped(key, after, "recognised by its name")
    elif name in ("roles_to_train", "train_on_eos", "conversation", "ds_type", "chat_template", "trust_remote_code",
                  "field_thinking", "template_thinking_key", "field_human", "field_model", "type.format",
                  "type.no_input_format", "type.system_prompt"):  # fmt: skip
        _set_meaning(draft, key, name)


def _set_meaning(draft: Draft, key: Occurrence, name: str) -> None:
    if name == "trust_remote_code" and key.value:
        draft.dropped(key, "refused: a data set's own script would run; ftcli reads files only")
    elif name == "ds_type":
        draft.mapped(key, "", "the type of a file is known by its name")
    elif name == "roles_to_train" and key.value in (["assistant"], ["gpt"], ["assistant", "gpt"]):
        draft.mapped(key, "", "answers are trained, and nothing else")
    elif name == "chat_template" and key.value in ("tokenizer_default",):
        draft.mapped(key, "", "the model's own template")
    elif name.startswith("type."):
        draft.changed(key, "", _PROMPT_WORDS)
    else:
        draft.changed(key, "", "answers and their ends are trained, through the model's own chat template")


def _type(draft: Draft, found: Rows, key: Occurrence, kind: str) -> None:
    first = strategy(kind)
    if first in TEXT:
        draft.mapped(key, f"method={draft.choices['method']}")
    elif first in _TURNS or first in _PREFERENCES:
        draft.mapped(key, "", "recognised by its columns")
    elif first in _ALPACA:
        draft.changed(key, "", _PROMPT_WORDS)
    elif "." in kind:
        draft.dropped(key, f"refused: {kind} names Python code to be imported; bring the rows into a format of ftcli")
        draft.unsupported.append(f"the rows go through code of their own ({kind})")
    else:
        draft.changed(key, "", "recognised by its columns; the words that Axolotl puts around the rows are left out")


def held_out(draft: Draft) -> bool:
    """Write the rows that are held out; whether there are any."""
    tests = items(draft.get("test_datasets"))
    if tests:
        paths = [str(each["path"]) for each in tests if "path" in each]
        draft.put("data.eval_path", paths[0] if len(paths) == 1 else paths)
        for key in [
            k for k in draft.keys if k.name.startswith("test_datasets.") and k.value is not None and not k.inside
        ]:
            if key.name == "test_datasets.path":
                draft.mapped(key, "data.eval_path")
            else:
                draft.changed(key, "data.eval_path", "held-out rows are read like the rows that are trained")
    for key in common.each(draft, "val_set_size"):
        value = key.value
        if value in OFF or (isinstance(value, float) and value == 0.0):
            draft.mapped(key, why="nothing is held out")
        elif tests:
            draft.silent(key, "test_datasets is set, so it does nothing")
        elif isinstance(value, (int, float)) and 0 < value < 1:
            draft.put("data.eval_share", value)
            draft.mapped(key, f"data.eval_share={value}")
        else:
            draft.put("data.eval_share", 0.05)
            draft.changed(key, "data.eval_share=0.05", f"a share of the rows here, a number of them there ({value})")
    return bool(tests) or "data.eval_share" in draft.settings
