"""The chat template of a model: the one that `model.chat_template` names, else that beside its tokenizer.

Read from files, without a tokenizer. The names are those of the templates that TRL ships, and `chatml`.

`model.chat_template_kwargs` become part of the template: its first line sets each variable that a request leaves open.
So whoever renders it with nothing but a conversation, a server included, gets what was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.module_source import package_folder
from ftcli.core.paths import home_expanded, is_template_path
from ftcli.core.suggest import suggest
from ftcli.core.untrusted import foreign_files
from ftcli.models.known_shapes import published_card
from ftcli.settings.groups import ModelSettings

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE)
"""The files on which the number of tokens depends."""
GENERATION = "generation_config.json"
"""The file that names the end tokens, which decide whether a conversation is unrolled."""

MAX_TEMPLATE_BYTES = 1 << 20
"""The longest chat template of a known family has some 20 KiB."""

CHATML = """\
{#- A base model was trained to see its BOS token first; where that token is another one by role, there is none. -#}
{%- if bos_token and bos_token not in ('<|im_start|>', eos_token) %}
    {{- bos_token }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
BASE_FIX = "choose the instruct model, or set model.chat_template=chatml"
"""What to do where rows are conversations and the model has no chat template."""
CHATML_NAME = "chatml"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
"""The tokens that ChatML writes, which most base models have to learn first."""
_TRAINING = "_training"  # TRL's twins for training, which mark the answers and ship with no model
_DEFAULTS = re.compile(r"\{#- model\.chat_template_kwargs (?P<json>\{.*?\}) -#\}.*\n")


# --- by name or file --------------------------------------------------------------------------------------------------


@cache
def named_templates() -> Mapping[str, Path]:
    """The files of the templates that the installed TRL ships, by name; without importing it."""
    package = package_folder("trl")
    files = sorted((package / "chat_templates").glob("*.jinja")) if package else []
    return {file.stem: file for file in files if not file.stem.endswith(_TRAINING)}


def template_file(value: str) -> Path | None:
    """The file that `model.chat_template` names; None for `chatml`, which is not a file.

    Raises:
        ConfigError: neither a name nor a file.
    """
    if value == CHATML_NAME:
        return None
    file = Path(home_expanded(value)) if is_template_path(value) else named_templates().get(value)
    if file is None:
        fix = suggest(value, (CHATML_NAME, *named_templates()), "model.chat_template=")
        raise ConfigError(Problem("model.chat_template", f"{value} is not the name of a chat template", fix))
    if not file.is_file():
        fix = f"name a file, or one of {CHATML_NAME}, {', '.join(named_templates())}"
        raise ConfigError(Problem("model.chat_template", f"there is no file {value}", fix))
    return file


def named_template(value: str) -> str:
    """The text of the template that `model.chat_template` names.

    Raises:
        ConfigError: neither a name nor a file, or the file is not text.
    """
    file = template_file(value)
    try:
        return CHATML if file is None else foreign_files.read_text(file, MAX_TEMPLATE_BYTES)
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "save it as UTF-8 text")) from None


# --- variables with a default -----------------------------------------------------------------------------------------


def with_defaults(template: str, values: Mapping[str, Any]) -> str:
    """The template with values for variables that a request may leave open, in addition to those that it has."""
    bare, own = without_defaults(template)
    values = {**own, **values}
    if not values:
        return bare
    stored = json.dumps(values, ensure_ascii=False).replace("#", "\\u0023")
    settings = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in values.items()
    )
    # The first line break after a block is not rendered, so the template's own text starts as before.
    return f"{{#- model.chat_template_kwargs {stored} -#}}{settings}\n{bare}"


def without_defaults(template: str) -> tuple[str, dict[str, Any]]:
    """The template without the line that `with_defaults` wrote, and its values."""
    found = _DEFAULTS.match(template)
    return (template[found.end() :], json.loads(found["json"])) if found else (template, {})


def _literal(value: Any) -> str:
    """A JSON value as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    # A block ends at its first %}, also inside of a text.
    return json.dumps(value, ensure_ascii=False).replace("%", "\\x25").replace("}", "\\x7d").replace("{", "\\x7b")


# --- a model's --------------------------------------------------------------------------------------------------------


def model_template(model: ModelSettings, folder: Path | None) -> str | None:
    """The template that a model renders with, variables set; None where it has none, or is not on this machine.

    Args:
        folder: where its tokenizer is, or None.

    Raises:
        ConfigError: the setting names no template, or the tokenizer's own files are damaged.
    """
    found = chat_template(folder) if model.chat_template is None else named_template(model.chat_template)
    return None if found is None else with_defaults(found, model.chat_template_kwargs or {})


def renders(model: ModelSettings, folder: Path | None) -> bool:
    """Whether a model has a chat template. Where nothing is known of it the answer is yes, as for most models.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    if model.chat_template is not None:
        return True
    if folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        return bool(chat_template(folder))
    said = model.has_template
    if said is None and folder is None:
        said = published_card(model.name_or_path).get("has_template")
    return said is not False


def chat_template(folder: Path | None) -> str | None:
    """The chat template stored beside a tokenizer; of several, the default one.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    if folder is None:
        return None
    if (folder / TEMPLATE_FILE).is_file():
        try:
            return foreign_files.read_text(folder / TEMPLATE_FILE, MAX_TEMPLATE_BYTES)
        except (OSError, ValueError) as error:
            file = str(folder / TEMPLATE_FILE)
            raise ConfigError(Problem(file, f"cannot be read: {error}", "save the tokenizer again")) from None
    found = tokenizer_config(folder).get("chat_template")
    if isinstance(found, list):  # several by name: [{"name": "default", "template": …}, …]
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens by their names in templates: bos_token, eos_token, pad_token and unk_token.

    Raises:
        ConfigError: tokenizer_config.json is damaged.
    """
    raw = tokenizer_config(folder)
    tokens = {key: raw.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items() if token}


def end_tokens(folder: Path) -> list[str]:
    """The tokens at which generation ends by generation_config.json, as text; those that the tokenizer lacks are left
    out.

    Raises:
        ConfigError: the tokenizer's own files are damaged.
    """
    try:
        given = foreign_files.read_json(folder / GENERATION).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    ids = [str(i) for i in (given if isinstance(given, list) else [given]) if i is not None]
    names = added_tokens(folder)
    return [names[i] for i in ids if names.get(i)]


def added_tokens(folder: Path) -> dict[str, str]:
    """The tokens of a tokenizer that are no ordinary text, by their numbers as text.

    Raises:
        ConfigError: tokenizer_config.json is damaged.
    """
    known = tokenizer_config(folder).get("added_tokens_decoder")
    names = {key: each.get("content") for key, each in known.items()} if isinstance(known, dict) else {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        added = foreign_files.read_json(folder / "tokenizer.json", foreign_files.MAX_TOKENIZER_BYTES)["added_tokens"]
        names |= {str(each["id"]): each["content"] for each in added}
    return names


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json; {} where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = folder / "tokenizer_config.json"
    try:
        raw = foreign_files.read_json(file, foreign_files.MAX_TOKENIZER_BYTES) if file.is_file() else {}
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise ConfigError(Problem(str(file), "is not a JSON object", "save the tokenizer again"))
    return raw
