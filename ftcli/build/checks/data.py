"""Checks of a run's data: the files exist, their columns have a known format, the shares of a mix add up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ftcli import tiny
from ftcli.build.checks.field_checks import limit_problem, type_problem
from ftcli.config.compose import WRITERS, Composed
from ftcli.core import paths
from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.core.suggest import suggest
from ftcli.data import row_sets
from ftcli.data.files.delimited import NAMES, delimiter_of
from ftcli.data.files.file_types import has_delimiter
from ftcli.data.files.reader import Row
from ftcli.data.formats.registry import FORMATS, converted_type
from ftcli.data.formats.text_form import form_of
from ftcli.data.formats.unread_columns import speakers, unheard
from ftcli.data.row_ledger import Ledger
from ftcli.data.row_numbers import margin_of
from ftcli.data.row_sets import RowSet
from ftcli.data.scan import Scan, first_rows
from ftcli.data.set_format import SAMPLE_ROWS, SetFormat, renamed, set_format
from ftcli.methods import Method
from ftcli.settings import library_fields
from ftcli.settings.groups import DataSettings
from ftcli.settings.limits import Limit

_SHARE = Limit(low=0, high=1, open_low=True)
_SET_LIMITS: Mapping[str, Limit] = {
    "share_of_set": _SHARE,
    "share_of_mix": _SHARE,
    "rows": Limit(low=1),
    "repeat": Limit(low=0, open_low=True),
}
_WHOLE = 1e-6
_SET_FIELDS = ("revision", "subset", "split", *row_sets.WRITTEN)
_OF_FILES = ("revision", "subset", "split", "format", "columns", "roles")
_FEW_ROWS = 20


def problems(data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    """The problems of the group `data` and of the first rows of each set."""
    faulty = [
        *_nowhere(data, composed),
        *_builtin(data, composed),
        *_of_builtin(data, composed),
        *_mix(data, composed),
        *_streaming(data, composed),
        *_margins(data, method, composed),
        *_delimiters(data, method, composed),
    ]
    yield from faulty
    for key, roles in (("data.roles", data.roles), *_mixed_roles(data)):
        for name, role in (roles or {}).items():
            if role not in ("system", "user", "assistant", "tool"):
                where = composed.where(*key.split("."), name)
                yield Problem(where, f"{key}.{name}={role} is not a role", "use system, user, assistant or tool")
    if faulty:
        return
    for each in row_sets.every_set(data, method):
        yield from _set_problems(each, data, method, composed)
    yield from _unheard(data, method, composed)
    yield from _bare(data, method, composed)


def _nowhere(data: DataSettings, composed: Composed) -> Iterator[Problem]:
    if data.path is None and data.mix is None:
        yield Problem(composed.where("data", "path"), "data.path is null, so the run has no rows", "data.path=FILE")


def _builtin(data: DataSettings, composed: Composed) -> Iterator[Problem]:
    mixed = {f"mix.{name}.path": each.get("path") for name, each in (data.mix or {}).items() if isinstance(each, dict)}
    for key, path in (("path", data.path), ("eval_path", data.eval_path), *mixed.items()):
        if isinstance(path, list):
            yield from _listed(path, key, composed)
            continue
        if key in mixed:
            continue
        name = path.removeprefix(paths.BUILTIN_SETS) if path is not None and paths.is_builtin(path) else ""
        if name and path != paths.BUILTIN and name not in tiny.set_names():
            fix = suggest(name, tiny.set_names(), paths.BUILTIN_SETS)
            yield Problem(composed.where("data", key), f"{path} is not a built-in set", fix)


def _listed(several: list[str], key: str, composed: Composed) -> Iterator[Problem]:
    """What a list of places cannot hold."""
    where = composed.where("data", *key.split("."))
    if not several:
        yield Problem(where, f"data.{key} lists nothing", f"data.{key}=FILE, or data.{key}=[FILE,FILE]")
    if built_in := next(filter(paths.is_builtin, several), None):
        what = f"data.{key} lists {built_in}; a built-in set cannot be one of several files"
        yield Problem(
            where, what, "mix it with your own as data.mix={own: {path: FILE}, builtin: {path: " + built_in + "}}"
        )


def _margins(data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    if method.head == "reward_model":
        return
    mixed = [name for name, each in (data.mix or {}).items() if isinstance(each, dict) and each.get("margin_column")]
    keys = ["data.margin_column"] * bool(data.margin_column) + [f"data.mix.{name}.margin_column" for name in mixed]
    for key in keys:
        what = f"{key} sets the margins of a reward model, which method={method.name} does not train"
        yield Problem(composed.where(*key.split(".")), what, "remove it, or choose method=reward")


def _delimiters(data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    """Delimiters that are none, or that no file of their sets has."""
    mixed = {f"data.mix.{name}": each for name, each in (data.mix or {}).items() if isinstance(each, dict)}
    named = {"data": data.delimiter, **{key: each.get("delimiter", "auto") for key, each in mixed.items()}}
    for key, delimiter in named.items():
        if delimiter == "auto" or not isinstance(delimiter, str):
            continue
        where, setting = composed.where(*key.split("."), "delimiter"), f"{key}.delimiter"
        if delimiter_of(delimiter) is None:
            fix = f"use {', '.join(NAMES.values())}, or one character"
            yield Problem(where, f"{setting}={delimiter!r} is not a delimiter", fix)
        elif not _any_delimited(key, data, method):
            what = f"{setting} has no effect: none of the files is .csv or .tsv"
            yield Problem(where, what, "remove it")


def _any_delimited(key: str, data: DataSettings, method: Method) -> bool:
    """Whether a set under that key has a file with a delimiter, or may have one, since its files are not known here."""
    for each in row_sets.every_set(data, method):
        if each.key in (f"{key}.path", f"{key}.eval_path"):
            with contextlib.suppress(ConfigError):  # reported where the set itself is checked
                files = row_sets.located(each, each.key, fetch=False)
                if files is not None and not any(has_delimiter(file.path) for file in files):
                    continue
            return True
    return False


def _unheard(data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    """Names in `roles` that no row has, where the rows are few enough to have been read; a plan tells of the others."""
    sets: dict[str, list[RowSet]] = {}
    for each in row_sets.every_set(data, method):
        if each.settings.roles:
            sets.setdefault("data" if each.name == "eval" else each.key.removesuffix(".path"), []).append(each)
    for key, own in sets.items():
        heard: set[str] = set()
        whole = True
        for each in own:
            with contextlib.suppress(ConfigError, DataError):  # which the checks of the set have reported
                files = row_sets.located(each, each.key, fetch=False)
                rows = first_rows(files) if files is not None else []
                whole = whole and 0 < len(rows) < SAMPLE_ROWS
                heard |= speakers([row.value for row in renamed(rows, each.settings)]) if rows else set()
        for name in unheard(own[0].settings.roles or {}, heard) if whole and heard else ():
            what = f"{key}.roles names {name}, which no turn of the rows has"
            fix = f"remove it, or write the name as the rows have it: {', '.join(sorted(heard))}"
            yield Problem(composed.where(*key.split("."), "roles", name), what, fix)


def _mixed_roles(data: DataSettings) -> Iterator[tuple[str, Any]]:
    for name, settings in (data.mix or {}).items():
        if isinstance(settings, dict) and isinstance(settings.get("roles"), dict):
            yield f"data.mix.{name}.roles", settings["roles"]


def _of_builtin(data: DataSettings, composed: Composed) -> Iterator[Problem]:
    """Settings of how rows are found and written, beside a built-in set, of which all of that is known."""
    if data.mix is not None or not isinstance(data.path, str) or not paths.is_builtin(data.path):
        return
    own_eval = data.eval_path is not None and not (isinstance(data.eval_path, str) and paths.is_builtin(data.eval_path))
    least = max(WRITERS.index("recipe"), composed.layer("data", "path"))
    for key in _SET_FIELDS[:3] if own_eval else _OF_FILES:
        if composed.tree["data"].get(key) not in (None, "auto") and composed.layer("data", key) >= least:
            what = f"data.{key} does not apply to {data.path}, a built-in set"
            yield Problem(composed.where("data", key), what, "remove it, or name rows of your own with data.path")


def _mix(data: DataSettings, composed: Composed) -> Iterator[Problem]:
    if data.mix is None:
        return
    if not data.mix:
        yield Problem(composed.where("data", "mix"), "data.mix names no set", "data.mix={a: {path: a.jsonl}, …}")
    path, written = composed.origin("data", "path"), composed.origin("data", "mix")
    if path.by != "group" and composed.tree["data"].get("path") is not None:
        yield Problem(path.where, "data.path and data.mix are both set", "keep one; data.path is a mix of one set")
    # With data.eval_path, the others describe the format of its rows.
    for key in _SET_FIELDS[:3] if data.eval_path is not None else _SET_FIELDS:
        if composed.tree["data"].get(key) not in (None, "auto", "all"):
            what = f"data.{key} does not apply to the sets of data.mix"
            yield Problem(composed.where("data", key), what, f"set data.mix.NAME.{key} for each set that needs it")
    faulty = [*mix_problems(data.mix, composed)]
    yield from faulty
    if not faulty and data.mix:
        yield from _shares(data.mix, written.where)


def mix_problems(mix: Mapping[str, Any], composed: Composed) -> Iterator[Problem]:
    """The problems of the settings of each set of a mix."""
    fields = library_fields.fields_of("ftcli.settings.groups:SetSettings")
    for name, settings in mix.items():
        yield from _set_fields(name, settings, fields, composed)


def _set_fields(name: str, settings: Any, fields: Mapping[str, Any], composed: Composed) -> Iterator[Problem]:
    place = f"data.mix.{name}"
    where = composed.where("data", "mix", name)
    if not isinstance(settings, dict):
        yield Problem(where, f"{place} is {settings!r}, not a mapping of settings", f"{place}.path=FILE")
        return
    for key, value in settings.items():
        own = composed.where("data", "mix", name, key)
        if key not in fields:
            yield Problem(own, f"{place}.{key} is not a setting of a data set", suggest(key, fields, f"{place}."))
            continue
        limit = _SET_LIMITS.get(key)
        problem = type_problem(f"{place}.{key}", value, fields[key], limit, own)
        found = problem or limit_problem(f"{place}.{key}", value, limit, own)
        if found:
            yield found
    if "path" not in settings:
        yield Problem(where, f"{place} has no path", f"{place}.path=FILE")
    if settings.get("rows") is not None and settings.get("share_of_set") is not None:
        yield Problem(
            where, f"{place} sets both rows and share_of_set", "keep one; both say how many of its rows are used"
        )


def _shares(mix: Mapping[str, Any], where: str) -> Iterator[Problem]:
    shares = [settings.get("share_of_mix") for settings in mix.values()]
    total = sum(share for share in shares if share is not None)
    if all(share is not None for share in shares):
        if abs(total - 1) > _WHOLE:
            what = f"the sets' share_of_mix add up to {total:g}, not 1"
            yield Problem(
                where, what, "change them, or leave it out for one set, which then contributes all of its rows"
            )
    elif total >= 1:
        what = f"share_of_mix of some sets add up to {total:g}, which leaves nothing for the others"
        yield Problem(where, what, "lower them, or set share_of_mix for every set")


def _streaming(data: DataSettings, composed: Composed) -> Iterator[Problem]:
    where = composed.where("data", "streaming") or "data.streaming"
    if not data.streaming:
        return
    if data.eval_share:
        what = "data.eval_share draws from the whole set, and a stream is read only once"
        yield Problem(composed.where("data", "eval_share"), what, "set data.eval_path=FILE")
    if not composed.tree["train"].get("max_steps"):
        what = "data.streaming cannot tell how many rows there are"
        yield Problem(where, what, "set train.max_steps=N")
    for name, settings in (data.mix or {}).items():
        for key in ("rows", "share_of_set"):
            if isinstance(settings, dict) and settings.get(key) is not None:
                what = f"data.mix.{name}.{key} needs the whole set, and a stream is read only once"
                yield Problem(
                    composed.where("data", "mix", name, key), what, "use share_of_mix, or set data.streaming=false"
                )
    sound = [settings for settings in (data.mix or {}).values() if isinstance(settings, dict)]
    if data.mix and (data.mix_order == "concatenate" or any(s.get("share_of_mix") is None for s in sound)):
        what = "streams are mixed by share_of_mix only"
        yield Problem(
            composed.where("data", "mix"), what, "set share_of_mix for every set, and data.mix_order=interleave"
        )


def _bare(data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    """Problems of `data.template=none`, which is for text pairs and prompts."""
    own = data.template == "none" and (data.mix is None or data.eval_path is not None)
    mixed = [name for name, each in (data.mix or {}).items() if each.get("template") == "none"]
    for key in [*(["data.template"] if own else []), *(f"data.mix.{name}.template" for name in mixed)]:
        origin = composed.origin(*key.split("."))
        if origin.by == "run":  # an earlier run's value, which may stand for rows of any form
            continue
        if method.refuses_bare:
            what = f"{key}=none leaves text bare, and method={method.name} renders every row with the chat template"
            yield Problem(origin.where, what, "remove it, or choose method=sft")
            continue
        sets = [each for each in row_sets.every_set(data, method) if _template_key(each) == key]
        read = {form for each in sets for form in forms(each, method, composed)}
        if read and "" not in read:
            held = " and ".join(sorted("plain text" if "bare" in form else "turns" for form in read))
            what = f"{key}=none has no effect: it is for text pairs and prompts, and the rows are {held}"
            why = "which only the chat template can render" if "turns" in held else "which no template is applied to"
            yield Problem(origin.where, f"{what}, {why}", "remove it")


def _template_key(each: RowSet) -> str:
    """The setting that says how the text of a set is read."""
    return each.key.replace(".path", ".template") if each.key.startswith("data.mix.") else "data.template"


def forms(each: RowSet, method: Method, composed: Composed) -> Iterator[str]:
    """How the first rows of a set are read whatever `data.template` says, "" where it decides; as in `form_of`."""
    promised = composed.request.stage.promised if composed.request.stage else ()
    if each.key in promised:  # the rows of an earlier stage, which does not exist yet
        yield ""
        return
    with contextlib.suppress(ConfigError, DataError):  # which the checks of the set have reported
        files = row_sets.located(each, each.key, fetch=False)
        if files is None:
            yield ""
            return
        how: dict[str, Any] = {"max_rows": _FEW_ROWS, "prompts": False, "normalises": False}
        for example in Scan(files, each.settings, method, Ledger("", ""), **how):
            yield form_of(example.kind, example.value)


def usable_rows(data: DataSettings, method: Method, most: int) -> int | None:
    """How many rows of a run's one set can be used, counted up to `most`; None where they cannot be read here."""
    [each] = row_sets.train_sets(data, method)
    with contextlib.suppress(ConfigError, DataError):  # which the checks of the set have reported
        files = row_sets.located(each, each.key, fetch=False)
        if files is not None:
            how: dict[str, Any] = {"max_rows": data.max_rows, "max_usable": most, "prompts": False, "normalises": False}
            return sum(1 for _ in Scan(files, each.settings, method, Ledger("", ""), **how))
    return None


def _set_problems(each: RowSet, data: DataSettings, method: Method, composed: Composed) -> Iterator[Problem]:
    where, settings = composed.where(*each.key.split(".")) or each.key, each.settings
    if settings.format != "auto" and settings.format not in FORMATS:
        key = each.key.replace(".path", ".format") if each.name != "eval" else "data.format"
        what = f"{settings.format} is not a data format"
        yield Problem(composed.where(*key.split(".")), what, suggest(settings.format, FORMATS, ""))
        return
    try:
        files = row_sets.located(each, where, fetch=False)
        if files is None:  # not on this machine: checked when the run starts
            return
        rows = first_rows(files)
    except ConfigError as error:
        yield from error.problems
        return
    except DataError as error:
        yield from (RowProblem(p.where, p.what, p.fix, field=getattr(p, "field", "")) for p in error.problems)
        return
    row = rows[0]
    if data.eval_group is not None and each.name != "eval" and data.eval_group not in row.value:
        what = f"the rows have no column {data.eval_group!r} to group by; they have {', '.join(row.value)}"
        yield Problem(composed.where("data", "eval_group"), what, suggest(data.eval_group, list(row.value), ""))
    if settings.margin_column is not None:
        try:
            margin_of(row, settings.margin_column)
        except DataError as error:
            yield from error.problems
    key = "data" if each.name == "eval" else each.key.removesuffix(".path")
    try:
        columns = composed.where(*key.split("."), "columns")
        found = set_format(rows, settings, method, where=where, mapping=columns, setting=f"{key}.columns")
    except DataError as error:
        yield from (Problem(problem.where, problem.what, problem.fix) for problem in error.problems)
        return
    yield from _without_effect(found, rows, each, key, method, composed)


def _without_effect(
    found: SetFormat, rows: list[Row], each: RowSet, key: str, method: Method, composed: Composed
) -> Iterator[Problem]:
    """Settings of a set that change nothing in such rows."""
    settings, name = each.settings, found.format.name
    without_turns = settings.roles and not found.format.has_turns
    if without_turns and not any(row.value.get("history") for row in renamed(rows, settings)):
        what = f"{key}.roles names roles, but rows of format {name} have none"
        yield Problem(composed.where(*key.split("."), "roles"), what, "remove it, or set data.format")
    kind = converted_type(found.format.kind, method.kinds)
    turns, answered = settings.trained_turns, ("messages", "pair", "label")
    if turns != "all" and kind not in (answered if turns == "last" else answered[:2]):
        does = "chooses among answers" if turns == "last" else "trains each answer of a conversation apart"
        what = f"{key}.trained_turns={turns} {does}, but a row of format {name} trains no turns"
        if kind in ("preference", "label"):
            those = "preference pairs" if kind == "preference" else "labelled answers"
            what = f"{key}.trained_turns={turns} {does}, but {those} train each answer whole"
        yield Problem(composed.where(*key.split("."), "trained_turns"), what, "remove it")
