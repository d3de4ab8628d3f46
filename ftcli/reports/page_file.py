"""The report as one page that needs nothing else: no network, its own script and style alone."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ftcli.core.untrusted.printable import printable
from ftcli.reports import charts
from ftcli.reports.curves import Panel, panels
from ftcli.reports.run_record import RunRecord, told_apart
from ftcli.reports.sections import sections

_PAGE = Path(__file__).with_name("page")
PAGE, SHEET, TABLE = ".html", ".svg", ".csv"
FORMATS = (PAGE, SHEET, TABLE)
"""By the ending of the file: the page, its curves below each other, their points."""


def content(records: Sequence[RunRecord], ending: str, *, rows: bool = True) -> str:
    """The content of a report's file.

    Args:
        ending: one of FORMATS.
        rows: whether a page shows rows and answers of the runs.
    """
    records = told_apart(records)
    drawn = panels({each.name: each.lines for each in records})
    match ending:
        case ".csv":
            return _table(drawn)
        case ".svg":
            return _sheet(drawn, several=len(records) > 1)
    return _page(records, drawn, rows=rows)


def rendered(template: str, **values: Any) -> str:
    """A template under `page/` with values, of which every text is only text, and our style and script."""
    import jinja2  # only here: it takes longer to import than all else
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["drawn"] = Markup  # what charts.py and _embedded wrote, which is escaped
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    own = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return environment.get_template(template).render(**own, **values)


def _page(records: Sequence[RunRecord], drawn: Sequence[Panel], *, rows: bool) -> str:
    several = len(records) > 1
    found = [(panel, charts.svg(panel, number, several=several)) for number, panel in enumerate(drawn)]
    return rendered(
        "page.html.jinja",
        title=" · ".join(each.name for each in records),
        runs=[{"name": each.name, "state": each.state, "sections": sections(each, rows=rows)} for each in records],
        result=_side_by_side(records),
        charts=[
            {"title": panel.title, "main": panel.main, "svg": svg, "legend": _legend(panel, several=several)}
            for panel, svg in found
        ],
        data=_embedded(drawn, several=several),
        written=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        version=metadata.version("ftcli"),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _side_by_side(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The results of all runs, a row for each name that one of them has."""
    results = [dict(each.rows) for each in records]
    names = dict.fromkeys(name for result in results for name in result)
    return [(name, [result.get(name, "") for result in results]) for name in names]


def _legend(panel: Panel, *, several: bool) -> list[dict[str, Any]]:
    return [
        {"label": charts.label(curve, several=several), "hue": hue, "dashed": curve.held_out}
        for curve, hue in zip(panel.curves, charts.hues(panel), strict=True)
    ]


def _embedded(drawn: Sequence[Panel], *, several: bool) -> str:
    """The points for the script, as JSON that no text in it can leave."""
    data = [
        {
            "title": panel.title,
            "plot": [charts.LEFT, charts.WIDTH - charts.RIGHT],
            "curves": [
                {
                    "run": curve.run,
                    "key": curve.key,
                    "label": charts.label(curve, several=several),
                    "points": charts.thinned(curve.points),
                }
                for curve in panel.curves
            ],
        }
        for panel in drawn
    ]
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(drawn: Sequence[Panel]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("run", "measure", "step", "value"))
    for panel in drawn:
        for curve in panel.curves:
            writer.writerows((_inert(curve.run), _inert(curve.key), step, value) for step, value in curve.points)
    return lines.getvalue()


def _inert(text: str) -> str:
    """The text as a cell: a spreadsheet takes what begins like these for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _sheet(drawn: Sequence[Panel], *, several: bool) -> str:
    """All charts below each other, each under its title and legend."""
    row, parts, top = 18, [], 0
    for number, panel in enumerate(drawn):
        top += row + 6
        parts.append(charts.text(panel.title, 8, top, bold=True))
        for curve, hue in zip(panel.curves, charts.hues(panel), strict=True):
            top += row
            parts.append(charts.text(charts.label(curve, several=several), 24, top, colour=hue))
        place = f'<svg y="{top + 6}" width="{charts.WIDTH}" height="{charts.HEIGHT}" '
        parts.append(charts.svg(panel, number, several=several).replace("<svg ", place, 1))
        top += charts.HEIGHT + 12
    size = f'width="{charts.WIDTH}" height="{max(top, 1)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )
