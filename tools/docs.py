"""The tables of the documentation, generated from the declarations, so that no page claims what the code does not do.

A page marks a region with `<!-- generated: NAME -->` and `<!-- end -->`, each on a line of its own.
`python -m tools.docs --write` refreshes the regions of README.md and docs/*.md, `--check` lists the stale pages.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ftcli.build.resume import CHANGEABLE
from ftcli.cli import COMMANDS
from ftcli.cli.output import count
from ftcli.config.importers import Key, all_importers
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_BUG, EXIT_CONFIG, EXIT_DONE
from ftcli.core.strict_yaml import load
from ftcli.core.text import table
from ftcli.data.quality_checks import KINDS
from ftcli.data.row_ledger import KINDS as TOKEN_KINDS
from ftcli.models.known_shapes import model_shape
from ftcli.models.parameters import num_parameters
from ftcli.peft_methods import PEFT_METHODS
from ftcli.settings import library_fields, limits
from ftcli.settings.fields import field_table
from ftcli.settings.groups import OWN_GROUPS, ModelSettings
from ftcli.sweeps.sweep_settings import SweepSettings
from tools import (
    choosing_tables,
    contender_tables,
    default_tables,
    format_tables,
    import_tables,
    matrix_tables,
    method_tables,
    needs_tables,
    peft_tables,
    plan_tables,
    reach_tables,
    recipe_tables,
    reliability_tables,
    result_tables,
    sampling_tables,
    tracker_tables,
)
from tools.house_rules import ORDERS

ROOT = Path(__file__).resolve().parent.parent
DEMO_OUTPUT = Path("docs", "demo-output.txt")
"""The final output of a real run: `ftcli train recipe=demo > docs/demo-output.txt`. Progress goes to stderr."""

_REGION = re.compile(r"(?P<open>^<!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end>^<!-- end -->$)", re.M | re.S)
_OPENING = re.compile(r"^<!-- generated: [\w-]+ -->$", re.M)


def rooms() -> str:
    """The rooms in the order in which they may import each other, each with the first line of its docstring."""
    package = ROOT / "ftcli"
    rows = []
    for room in ORDERS[""]:
        names = [room, *(f"{room}/{inner}" for inner in ORDERS.get(room, ()))]
        rows += [(f"`{name}/`", _first_line(package / name)) for name in names if (package / name).is_dir()]
    return table(("Room", "What it is for"), rows)


def _first_line(package: Path) -> str:
    """The first line of a package's docstring, read without importing it: the worker's would import torch."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def peft() -> str:
    """The ways to train: all parameters, and each parameter-efficient method."""
    none = assets.first_comment(assets.choices("peft")["none"])
    rows = [("`peft=none`", none, "", "")]
    for m in PEFT_METHODS.values():
        preset = [f"`peft.{name}={value}`" for name, value in m.defaults.items()]
        preset += [f"`quantisation={m.implies}`"] if m.implies else []
        rows.append((f"`peft={m.name}`", m.summary, ", ".join(preset), m.paper))
    return table(("Choose", "For", "Defaults set by ftcli", "Paper"), rows)


def owners() -> str:
    """Library settings that another setting owns, and those that are refused."""
    owned = [(f"`{name}`", _code(owner)) for name, owner in field_table.OWNERS.items()]
    refused = [(f"`{name}`", f"refused: {why}") for name, why in field_table.REFUSED.items()]
    return table(("Library's name", "Owned by"), [*owned, *refused])


def _code(owner: str) -> str:
    """Settings, flags and commands in code type; sentences as they are."""
    return f"`{owner}`" if re.fullmatch(r"[\w.*-]+(=\w+)?|--[\w-]+ \w+|ftcli \w+", owner) else owner


def settings() -> str:
    """The settings that ftcli owns, with their defaults."""
    parts = []
    for group, kind in OWN_GROUPS.items():
        fields = library_fields.fields_of(f"ftcli.settings.groups:{kind.__name__}").values()
        rows = [(f"`{group}.{f.name}`", f"`{f.type_text}`", f"`{f.default}`", f.help) for f in fields]
        parts.append(table(("Setting", "Type", "Default", "Meaning"), rows))
    return "\n".join(parts)


def sweep_settings() -> str:
    """The settings of a sweep, with their defaults."""
    fields = library_fields.fields_of(f"{SweepSettings.__module__}:{SweepSettings.__name__}").values()
    rows = [(f"`sweep.{f.name}`", f"`{f.type_text}`", f"`{f.default}`", f.help) for f in fields]
    return table(("Setting", "Type", "Default", "Meaning"), rows)


def models() -> str:
    """The models by name, with their parameter counts."""
    rows = []
    for name, path in assets.choices("model").items():
        model = ModelSettings(**load(path).data)
        shape = model_shape(model)
        size = count(num_parameters(shape) if shape else None)
        rows.append((f"`model={name}`", f"`{model.name_or_path}`", size, assets.first_comment(path)))
    return table(("Choose", "Weights", "Parameters", "When"), rows)


def sets() -> str:
    """The settings of one set of a mix."""
    fields = library_fields.fields_of("ftcli.settings.groups:SetSettings").values()
    rows = [(f"`data.mix.NAME.{f.name}`", f"`{f.type_text}`", f"`{f.default}`", f.help) for f in fields]
    return table(("Setting", "Type", "Default", "Meaning"), rows)


def all_findings() -> str:
    """Every finding of the quality checks, with its meaning."""
    return table(("Finding", "Means"), [(f"`{kind}`", text) for kind, text in {**KINDS, **TOKEN_KINDS}.items()])


def commands() -> str:
    """Every command in one line."""
    return table(("Command", "What it does"), [(f"`ftcli {name}`", line) for name, (_, line) in COMMANDS.items()])


def coming_from(tool: str) -> str:
    """The keys of a foreign tool, and what each is here."""
    keys = all_importers()[tool].keys
    return table(("There", "Here"), [(", ".join(f"`{name}`" for name in key.names), _here(key)) for key in keys])


def _here(key: Key) -> str:
    """What a row of a foreign tool's table is here."""
    parts = [f"`{value}`: `{text}`" for value, text in key.values.items()]
    if key.to:
        settings = dict.fromkeys(key.setting(name) for name in key.names)
        needs = f" with `{key.under}`" if key.under else ""
        text = f"`{key.to.replace('{}', 'X')}`, of the same name" if len(settings) > 1 else f"`{next(iter(settings))}`"
        parts.append(f"{'any other: ' if parts else ''}{text}{needs}")
    return "; ".join([*parts, *([key.note] if key.note else [])])


def changeable() -> str:
    """The settings that a resume may change."""
    return table(
        ("Setting", "Limit"), [(f"`{name}`", method_tables.bounds(limits.LIMITS.get(name))) for name in CHANGEABLE]
    )


REGIONS: dict[str, Callable[[], str]] = {
    "exit-codes": plan_tables.exit_codes,
    "stop-signals": plan_tables.stop_signals,
    "memory-parts": plan_tables.memory_parts,
    "rooms": rooms,
    "methods": method_tables.methods,
    "method-pages": method_tables.method_pages,
    "peft": peft,
    "initialisations": peft_tables.initialisations,
    "stored-formats": peft_tables.stored_formats,
    "owners": owners,
    "settings": settings,
    "sweep-settings": sweep_settings,
    "models": models,
    "formats": format_tables.formats,
    "columns-read": format_tables.columns_read,
    "formats-by-method": format_tables.formats_by_method,
    "sets": sets,
    "findings": all_findings,
    "commands": commands,
    "changeable": changeable,
    "rewards": sampling_tables.rewards,
    "grpo-variants": sampling_tables.variants,
    **{f"coming-from-{tool.replace('_', '-')}": partial(coming_from, tool) for tool in all_importers()},
    **choosing_tables.REGIONS,
    **contender_tables.REGIONS,
    **default_tables.REGIONS,
    **import_tables.REGIONS,
    **needs_tables.REGIONS,
    **reach_tables.REGIONS,
    **recipe_tables.REGIONS,
    **reliability_tables.REGIONS,
    **result_tables.REGIONS,
    **matrix_tables.REGIONS,
    **tracker_tables.REGIONS,
}


def _demo(root: Path, where: str) -> str:
    path = root / DEMO_OUTPUT
    if not path.is_file():
        what = f"{DEMO_OUTPUT} is missing"
        raise ConfigError(Problem(where, what, f"ftcli train recipe=demo > {DEMO_OUTPUT}, then make docs"))
    return f"```text\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


def _region(name: str, root: Path, where: str) -> str:
    if name == "demo":
        return _demo(root, where)
    if name not in REGIONS:
        from ftcli.core.suggest import suggest

        raise ConfigError(Problem(where, f"{name} is not a generated region", suggest(name, (*REGIONS, "demo"), "")))
    return REGIONS[name]()


def rendered(text: str, root: Path, where: str = "") -> str:
    """The text of a page with every region refreshed.

    Raises:
        ConfigError: a region is unknown, or is not closed.
    """
    refreshed = _REGION.sub(lambda m: m["open"] + _region(m["name"], root, where) + m["end"], text)
    opened, closed = len(_OPENING.findall(text)), len(_REGION.findall(text))
    if opened != closed:
        what = f"opens {opened} generated regions and closes {closed}"
        raise ConfigError(Problem(where, what, "end each with a line <!-- end -->"))
    return refreshed


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may hold generated regions.

    Raises:
        ConfigError: this is an installed package without its documentation.
    """
    if not (root / "README.md").is_file():
        raise ConfigError(Problem(str(root), "holds no README.md", "run it in a checkout of the project"))
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def stale(root: Path = ROOT) -> list[Path]:
    """The pages whose regions differ from what the code generates."""
    return [page for page in pages(root) if page.read_text(encoding="utf-8") != _fresh(page, root)]


def write(root: Path = ROOT) -> list[Path]:
    """Refresh every region; returns the pages that changed."""
    changed = stale(root)
    for page in changed:
        page.write_text(_fresh(page, root), encoding="utf-8")
    return changed


def _fresh(page: Path, root: Path) -> str:
    return rendered(page.read_text(encoding="utf-8"), root, page.name)


def main(arguments: list[str]) -> tuple[int, str]:
    """Run `--write` or `--check`; returns the exit code and what to print."""
    if arguments not in (["--write"], ["--check"]):
        return EXIT_CONFIG, "usage: python -m tools.docs --write | --check"
    try:
        names = ", ".join(page.name for page in (write() if arguments == ["--write"] else stale()))
    except ConfigError as error:
        return error.exit_code, str(error)
    if not names:
        return EXIT_DONE, "all pages are fresh"
    if arguments == ["--write"]:
        return EXIT_DONE, f"written: {names}"
    return EXIT_BUG, f"stale: {names}\n  fix: python -m tools.docs --write"


if __name__ == "__main__":
    exit_code, text = main(sys.argv[1:])
    print(text)
    sys.exit(exit_code)
