"""Checks of how conversations are rendered: the chat template, its variables, and tokens added to the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ftcli.build.checks import data
from ftcli.config.compose import Composed
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import load
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data import row_sets
from ftcli.data.formats.text_form import THROUGH_TEMPLATE
from ftcli.models.known_shapes import tokenizer_folder
from ftcli.models.templates.chat_template import (
    CHATML,
    TOKENIZER_FILES,
    model_template,
    named_template,
    renders,
    special_tokens,
    template_file,
)
from ftcli.models.templates.template_rendering import (
    PROBE,
    closing_token,
    control_tokens,
    faults,
    renderer,
    unread_variables,
    variables,
)
from ftcli.peft_methods import PeftMethod
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.run_spec import RunSpec

Where = Callable[[str], str]
_BASE = "-base"


def problems(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The problems of a run's chat template, its variables and its new tokens."""
    spec, stage = run.spec, composed.request.stage
    later = stage is not None and "model.name_or_path" in stage.promised  # an earlier stage has yet to train the model
    folder = None if later else tokenizer_folder(spec.model)
    wrong = [*_template(spec, folder, where)]
    yield from wrong
    if wrong:
        return
    yield from _variables(spec, folder, where)
    yield from _new_tokens(spec, run.peft, folder, where)
    if later and stage is not None:
        if spec.model.new_tokens:
            what = f"model.new_tokens would add tokens to the model of stage {stage.name}, which has them from its base"
            yield Problem(where("model.new_tokens"), what, "set it for the first stage: stages.NAME.model.new_tokens")
        return
    yield from _templateless(run, composed, folder, where)


def _template(spec: RunSpec, folder: Path | None, where: Where) -> Iterator[Problem]:
    """The template that a setting names is there, renders, and is made of tokens that the vocabulary has."""
    value = spec.model.chat_template
    if value is None:
        return
    try:
        file, text = template_file(value), named_template(value)
    except ConfigError as error:
        yield from (
            replace(each, where=where(each.where) or each.where) if each.where == "model.chat_template" else each
            for each in error.problems
        )
        return
    wrong = faults(text, str(file) if file else where("model.chat_template"), folder)
    yield from wrong
    if wrong:
        return
    missing = [token for token in control_tokens(text, folder) if token not in (spec.model.new_tokens or ())]
    missing = _unknown(missing, folder)
    if missing and not _marks_are_text(text, folder, missing):
        what = f"model.chat_template={value} writes {', '.join(missing)}, which this model's tokenizer has no token for"
        yield Problem(where("model.chat_template"), what, f"add {_adding([*(spec.model.new_tokens or ()), *missing])}")


def _marks_are_text(template: str, folder: Path | None, missing: Sequence[str]) -> bool:
    """Whether a template marks turns by ordinary text alone and closes an answer with the tokenizer's own end token.

    Zephyr and Tulu do so: their bases have no `<|user|>`, and none was added.
    """
    if folder is None:
        return False
    own = [token for token in control_tokens(template, folder) if token in template]
    end = special_tokens(folder).get("eos_token", "")
    closes = closing_token(renderer(template, folder)(PROBE, None), [end]) is not None
    return closes and set(own) <= set(missing)


def _variables(spec: RunSpec, folder: Path | None, where: Where) -> Iterator[Problem]:
    """Variables that the template reads; of a template that is not on this machine the worker knows them."""
    values = spec.model.chat_template_kwargs
    if not values:
        return
    try:
        template = model_template(replace(spec.model, chat_template_kwargs=None), folder)
        read = frozenset(values) if template is None else variables(template)
    except ConfigError as error:
        yield from error.problems
        return
    for each in unread_variables(values, read, "model.chat_template_kwargs"):
        yield replace(each, where=where(each.where) or each.where)


def _new_tokens(spec: RunSpec, peft: PeftMethod | None, folder: Path | None, where: Where) -> Iterator[Problem]:
    """New tokens are new, and something trains them."""
    tokens, place = spec.model.new_tokens, where("model.new_tokens")
    if not tokens:
        return
    if odd := [token for token in dict.fromkeys(tokens) if not token.strip() or tokens.count(token) > 1]:
        yield Problem(
            place, f"model.new_tokens lists {odd[0]!r}, which is empty or listed twice", "list each token once"
        )
    unknown = _unknown(tokens, folder)
    if present := [token for token in tokens if token not in unknown and folder is not None]:
        what = f"model.new_tokens lists {', '.join(present)}, which the vocabulary has already: nothing would be added"
        yield Problem(place, what, "remove it from the list")
    if peft is not None and "trainable_token_indices" not in peft.fields():
        what = f"model.new_tokens adds rows to the embeddings, which peft={peft.name} does not train"
        yield Problem(place, what, "choose peft=lora, peft=qlora or peft=none")
    elif spec.peft.get("trainable_token_indices") is not None:
        what = "model.new_tokens and peft.trainable_token_indices both say which rows of the embeddings are trained"
        yield Problem(where("peft.trainable_token_indices"), what, "keep one of them")


def _unknown(tokens: Sequence[str], folder: Path | None) -> list[str]:
    """The tokens that are not in the tokenizer's files; none where those are not on this machine.

    Searches the text of the files: reading a vocabulary of 262,000 tokens as JSON would take longer than the check.
    """
    files = [folder / name for name in TOKENIZER_FILES[:2]] if folder else []
    texts = []
    for file in files:
        with suppress(OSError, ValueError):  # what is damaged is reported where it is read for its content
            texts.append(foreign_files.read_text(file, foreign_files.MAX_TOKENIZER_BYTES))
    if not texts:
        return []

    def known(token: str) -> bool:
        written = {json.dumps(token), json.dumps(token, ensure_ascii=False)}
        return any(each in text for each in written for text in texts)

    return [token for token in tokens if not known(token)]


def _templateless(run: ResolvedRun, composed: Composed, folder: Path | None, where: Where) -> Iterator[Problem]:
    """Rows that are turns need a chat template, which most base models do not have."""
    model = run.spec.model
    try:
        if renders(model, folder):
            return
    except ConfigError as error:  # damaged files of the tokenizer
        yield from error.problems
        return
    sets = row_sets.every_set(run.spec.data, run.method)
    if run.method.refuses_bare:
        what = f"method={run.method.name} renders every row with the chat template"
    elif any(form == THROUGH_TEMPLATE for each in sets for form in data.forms(each, run.method, composed)):
        what = "the rows are conversations"
    else:
        return
    base = "is a base model and " if model.variant == "base" else ""
    what += f", and {model.name_or_path} {base}has no chat template"
    instruct = next(
        (name for name, at in assets.choices("model").items() if _is_base(at, name, model.name_or_path)), ""
    )
    fixes = [f"choose model={instruct.removesuffix(_BASE)}"] if instruct else []
    needed = control_tokens(CHATML, None)
    missing = _unknown(needed, folder) if folder else needed
    adding = f" {_adding(missing)}" if missing else ""
    known = "" if folder or not adding else " (the tokens where its vocabulary lacks them)"
    fixes.append(f"set model.chat_template=chatml{adding}{known}")
    yield Problem(where("model.name_or_path"), what, ", or ".join(fixes))


def _is_base(path: Path, name: str, hub_id: str) -> bool:
    return name.endswith(_BASE) and load(path).data.get("name_or_path") == hub_id


def _adding(tokens: Sequence[str]) -> str:
    """The setting that adds tokens, as it is typed."""
    listed = ",".join(f"'{token}'" for token in tokens)
    setting = f"model.new_tokens=[{listed}]"
    return shell_word(setting) if set(setting) & set('"$`\\!') else f'"{setting}"'
