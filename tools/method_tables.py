"""The tables of the methods and pipelines, and a section for each of them."""

from __future__ import annotations

from typing import Any

from ftcli.build.checks.field_checks import choices_of
from ftcli.config.group_fields import method_fields
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.core.text import table
from ftcli.methods import Method, Pipeline, all_methods, all_pipelines
from ftcli.settings import library_fields
from ftcli.settings.fields import field_table
from ftcli.settings.limits import Limit


def methods() -> str:
    """The method table: what to choose when, and what it needs."""
    rows = [
        (f"`method={m.name}`", m.summary, ", ".join(m.kinds), f"`{_class_name(m.trainer)}`", _score(m), m.paper)
        for m in all_methods().values()
    ]
    rows += [
        (f"`method={p.name}`", p.summary, "those of its stages", _graph(p), _measure(p), p.paper)
        for p in all_pipelines().values()
    ]
    rows.sort()
    return table(("Choose", "For", "Rows", "Trained by", "Held-out score", "Paper"), rows)


def _graph(pipeline: Pipeline) -> str:
    """The stages in their order."""
    return " → ".join(stage.name for stage in pipeline.stages)


def _measure(pipeline: Pipeline) -> str:
    """The metric by which its policies are compared."""
    if not pipeline.measured_by:
        return "that of its last stage"
    return _score(all_methods()[pipeline.stage(pipeline.measured_by).method])


def _class_name(path: str) -> str:
    return path.rpartition(":")[2]


def _score(method: Method) -> str:
    return "the loss" if method.score == "none" else method.score.replace("_", " ")


def method_pages() -> str:
    """A section for each method: its defaults, and its own options."""
    pages = {method.name: _method_page(method) for method in all_methods().values()}
    pages |= {pipeline.name: _pipeline_page(pipeline) for pipeline in all_pipelines().values()}
    return "\n".join(pages[name] for name in sorted(pages))


def _pipeline_page(pipeline: Pipeline) -> str:
    """A pipeline's stages: what each produces, and from what."""
    rows = [
        (
            f"`stages.{stage.name}`",
            f"`method={stage.method}`" if stage.method else f"`{stage.task}`, asks `{stage.role}=`",
            stage.summary,
            ", ".join(f"`{name}` from {source}" for name, source in stage.takes.items()),
        )
        for stage in pipeline.stages
    ]
    head = f"## {pipeline.name}\n\n{pipeline.summary} ({pipeline.paper})\n\n"
    stages = table(("Stage", "Run or synthesis task", "Produces", "Takes"), rows)
    if not pipeline.options:
        return head + stages
    options = [(f"`method.{name}`", str(each.default), each.text) for name, each in pipeline.options.items()]
    head += table(("Option", "Default", "Meaning"), options) + "\nIts stages with these defaults:\n\n"
    return head + stages


_OVER = {
    None: "answers that it samples; it has no held-out loss",
    "tokens": "trained tokens",
    "pairs": "pairs",
    "answers": "answers",
}


def _method_page(method: Method) -> str:
    facts = [
        ("rows", ", ".join(method.kinds)),
        ("models in memory", ", ".join(method.roles)),
        ("trained by", f"`{_class_name(method.trainer)}` with `{_class_name(method.config)}`"),
        ("training", f"[its defaults by adapter and size](defaults.md#{method.name}), with their sources"),
        ("longest row", _longest(method)),
        ("losses are means over", f"the {_OVER[method.loss_over]}"),
        ("held-out score", _score(method)),
        ("paper", method.paper),
    ]
    preset = ", ".join(f"`method.{name}={value}`" for name, value in _preset(method).items())
    facts.insert(-1, ("defaults set by ftcli", preset or "none"))
    fields = method_fields(method)
    names = [name for name in sorted(fields) if f"method.{name}" not in {**field_table.OWNERS, **field_table.REFUSED}]
    options = [(f"`method.{name}`", f"`{fields[name].type_text}`", _values(method, fields[name])) for name in names]
    head = f"## {method.name}\n\n{method.summary}\n\n"
    return head + table(("", ""), facts) + "\n" + table(("Option", "Type", "Limit"), options)


def _longest(method: Method) -> str:
    length = f"blocks of {method.block_tokens} tokens" if method.block_tokens else "auto, from the rows"
    return f"{length}, or the model's limit; longer: {method.overflow}"


def _preset(method: Method) -> dict[str, Any]:
    """The values that the group file and the declaration set."""
    given = load(assets.choices("method")[method.name]).data
    return {name: value for name, value in {**method.defaults, **given}.items() if name != "name"}


def _values(method: Method, field: library_fields.Field) -> str:
    """The bounds of a number, or the words of a choice."""
    limit, row = method.limit_of(field.name), field_table.row_of(f"method.{field.name}", field)
    return bounds(limit) or ", ".join(choices_of(field, limit, row))


def bounds(limit: Limit | None) -> str:
    """The least and the most that a number may be, in words."""
    if limit is None:
        return ""
    low = "" if limit.low is None else f"above {limit.low:g}" if limit.open_low else f"from {limit.low:g}"
    high = "" if limit.high is None else f"below {limit.high:g}" if limit.open_high else f"to {limit.high:g}"
    return " ".join(filter(None, [low, high]))
