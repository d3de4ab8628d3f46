"""Curves as SVG: whole in itself, so that it is drawn without a script and can be kept as a file.

Colours are attributes, which the page's style overrides by class, since a file of its own has no style.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ftcli.core.untrusted.printable import one_line
from ftcli.reports.curves import HELD_OUT, Curve, Panel

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 38
"""The space around the plot, in the units of the view box."""
COLOURS = ("#0b62c4", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#4b5563")
"""Each has a contrast of 4.5 or more on white; the page's style lightens them on a dark ground."""
_INK, _GRID = "#374151", "#d1d5db"
_MOST_POINTS = 600
"""Of a curve as it is drawn: more than there are pixels."""


def hues(panel: Panel) -> list[int]:
    """The place in COLOURS of each curve: one for what a run measured in training and, dashed, on held-out rows."""
    own: dict[tuple[str, str], int] = {}
    names = [(curve.run, curve.key.removeprefix(HELD_OUT)) for curve in panel.curves]
    return [own.setdefault(name, len(own) % len(COLOURS)) for name in names]


def label(curve: Curve, *, several: bool) -> str:
    """What a curve is called in a legend."""
    return one_line(f"{curve.run}: {curve.key}" if several else curve.key)


def svg(panel: Panel, number: int, *, several: bool) -> str:
    """The chart of a panel.

    Args:
        number: its place on the page, which makes its ids.
        several: whether curves of several runs are in it.
    """
    points = [point for curve in panel.curves for point in curve.points]
    steps, values = ([point[axis] for point in points] for axis in (0, 1))
    x, y = _Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT), _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP)
    floor = HEIGHT - BOTTOM
    parts = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" ',
        'font-family="system-ui, sans-serif" font-size="13" class="chart" role="img" tabindex="0" ',
        f'aria-labelledby="chart-{number}" data-panel="{number}" data-x="{x.low!r} {x.high!r}">',
        f'<title id="chart-{number}">{escape(one_line(panel.title))}</title>',
        *_grid(x, y),
        *(_line(curve, hue, x, y) for curve, hue in zip(panel.curves, hues(panel), strict=True)),
        f'<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{floor}" stroke="{_INK}" visibility="hidden"/>',
        "</svg>",
    )
    return "".join(parts)


class _Axis:
    """From values to places along one side of a chart."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        if low == high:  # a single point, or a constant
            low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
        self.low, self.high, self._begin, self._end = low, high, begin, end

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self._begin + share * (self._end - self._begin), 1)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values along the axis."""
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
        size *= next((factor for factor in (1, 2, 5) if factor * size >= rough), 10)
        first, last = math.ceil(self.low / size), math.floor(self.high / size)
        return [number * size for number in range(first, min(last, first + 2 * most) + 1)]


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    for value in y.ticks():
        at = y.at(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{_GRID}"/>'
        yield f'<text class="ink" x="{LEFT - 6}" y="{at + 4}" text-anchor="end" fill="{_INK}">{_short(value)}</text>'
    for value in x.ticks():
        at = x.at(value)
        yield f'<text class="ink" x="{at}" y="{floor + 16}" text-anchor="middle" fill="{_INK}">{value:g}</text>'
    yield f'<text class="ink" x="{WIDTH - RIGHT}" y="{floor + 33}" text-anchor="end" fill="{_INK}">step</text>'


def _short(value: float) -> str:
    """A number of at most seven characters."""
    plain = f"{value:.4g}"
    return plain if len(plain) <= 6 else f"{value:.1e}"


def _line(curve: Curve, hue: int, x: _Axis, y: _Axis) -> str:
    style = f'class="curve c{hue}" stroke="{COLOURS[hue]}" fill="none" stroke-width="2"'
    points = thinned(curve.points)
    if len(points) == 1:
        (at,) = points
        return f'<circle {style} cx="{x.at(at[0])}" cy="{y.at(at[1])}" r="3"/>'
    dashes = ' stroke-dasharray="6 4"' if curve.held_out else ""
    drawn = " ".join(f"{x.at(step)},{y.at(value)}" for step, value in points)
    return f'<polyline {style}{dashes} points="{drawn}"/>'


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """A curve with fewer points: of each part its lowest and highest, so that no peak is lost; the ends stay."""
    if len(points) <= most:
        return list(points)
    parts = most // 2 - 1
    found = [points[0]]
    for part in range(parts):
        own = points[part * len(points) // parts : (part + 1) * len(points) // parts]
        found += sorted({min(own, key=lambda point: point[1]), max(own, key=lambda point: point[1])})
    return [*dict.fromkeys((*found, points[-1]))]


def text(words: str, x: float, y: float, *, bold: bool = False, colour: int | None = None) -> str:
    """Words beside a chart, in the ink of its axes or in the colour of a curve."""
    ink = _INK if colour is None else COLOURS[colour]
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{ink}"{weight}>{escape(one_line(words))}</text>'
