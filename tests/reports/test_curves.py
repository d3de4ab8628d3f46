"""Which curves are drawn, and that no peak of them is lost."""

from __future__ import annotations

from xml.etree import ElementTree

from ftcli.reports import charts
from ftcli.reports.curves import Curve, Panel, panels, sparkline

SVG = "{http://www.w3.org/2000/svg}"


def test_a_measure_and_its_held_out_form_lie_over_each_other_the_known_first():
    lines = [
        {"step": 1, "zeta": 1.0, "loss": 2.0, "learning_rate": 1e-5, "epoch": 0.1, "tokens": 7},
        {"step": 2, "eval_loss": 2.5, "eval_runtime": 3.0, "rewards/chosen": 0.1, "rewards/rejected": -0.1},
    ]
    found = panels({"one": lines})
    assert [(panel.title, [curve.key for curve in panel.curves], panel.main) for panel in found] == [
        ("loss", ["eval_loss", "loss"], True),
        ("rewards of the pairs", ["rewards/chosen", "rewards/rejected"], True),
        ("learning rate", ["learning_rate"], True),
        ("zeta", ["zeta"], False),
    ]


def test_what_is_no_finite_number_is_no_point():
    lines = [
        {"step": 1, "loss": float("nan")}, {"step": 2, "loss": "2"}, {"step": 3, "loss": True}, {"step": 4, "loss": 1},
    ]  # fmt: skip
    assert panels({"one": lines})[0].curves[0].points == ((4.0, 1.0),)


def test_runs_lie_over_each_other_and_keep_their_names():
    found = panels({"one": [{"step": 1, "loss": 1.0}], "two": [{"step": 1, "loss": 2.0}]})
    assert [(curve.run, curve.key) for curve in found[0].curves] == [("one", "loss"), ("two", "loss")]


def test_a_step_that_was_written_twice_has_its_last_value():
    lines = [{"step": 1, "loss": 1.0}, {"step": 1, "loss": 3.0}]
    assert panels({"one": lines})[0].curves[0].points == ((1.0, 3.0),)


def test_thinning_keeps_every_peak_and_both_ends():
    points = [(float(step), 1000.0 if step == 5432 else -7.0 if step == 4321 else 0.0) for step in range(10_000)]
    thin = charts.thinned(points, 100)
    assert len(thin) <= 100
    assert {(5432.0, 1000.0), (4321.0, -7.0), points[0], points[-1]} <= set(thin)
    assert thin == sorted(thin)
    assert charts.thinned(points[:100], 100) == points[:100]


def test_a_chart_is_whole_xml_whose_points_are_where_the_values_are():
    curve = Curve("run", "loss", ((0.0, 1.0), (10.0, 3.0), (20.0, 2.0)))
    drawn = ElementTree.fromstring(charts.svg(Panel("loss", (curve,), main=True), 0, several=False))
    (line,) = drawn.iter(f"{SVG}polyline")
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert places == [
        (charts.LEFT, charts.HEIGHT - charts.BOTTOM),
        ((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2, charts.TOP),
        (charts.WIDTH - charts.RIGHT, (charts.TOP + charts.HEIGHT - charts.BOTTOM) / 2),
    ]


def test_what_a_run_measured_in_training_and_held_out_has_one_colour():
    curves = [Curve(run, key, ((1.0, 1.0),)) for run in ("one", "two") for key in ("eval_loss", "loss")]
    assert charts.hues(Panel("loss", tuple(curves), main=True)) == [0, 0, 1, 1]


def test_values_that_never_change_and_single_points_are_drawn_too():
    for points in (((1.0, 0.0),), ((1.0, 5.0), (2.0, 5.0)), ((1.0, 1e-300), (2.0, 1e300)), ((3.0, -1e12),)):
        curve = Curve("run", "loss", points)
        assert "nan" not in charts.svg(Panel("loss", (curve,), main=True), 0, several=False)


def test_colours_can_be_told_from_the_ground():
    def luminance(colour: str) -> float:
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert all(1.05 / (luminance(colour) + 0.05) >= 4.5 for colour in charts.COLOURS)


def test_a_sparkline_shows_rise_and_fall():
    assert sparkline([(step, value) for step, value in enumerate([0, 1, 2, 3, 4, 5, 6, 7])]) == "▁▂▃▄▅▆▇█"
    assert sparkline([(0, 1.0), (1, 1.0)]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([(step, step % 7) for step in range(1000)], 40)) == 40
