"""The page of a report in a real browser: what is drawn, told under the pointer and kept, and that text stays text.

`make browser` installs what it takes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftcli.cli import report
from ftcli.reports import charts
from tests.conftest import REPOSITORY
from tests.reports.folders import HOSTILE, keep_rows, run_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
api = pytest.importorskip("playwright.sync_api", reason="make browser installs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="make browser installs chromium")
SCREENSHOTS = REPOSITORY / "docs" / "images"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, here: Path) -> Iterator[Page]:
    """The page of two runs, one with hostile names; whatever it says to the console or asks of a network is kept."""
    run_folder(here / "runs" / "one")
    run_folder(here / "runs" / "two", "train.learning_rate=3e-5", pace=20, **{HOSTILE: 1.0})
    keep_rows(here / "runs" / "two", HOSTILE)
    report.run(["runs/one", "runs/two", "--to", "both.html"])
    context = browser.new_context(viewport=DESK, accept_downloads=True)
    opened = context.new_page()
    opened.said, opened.asked = [], []  # type: ignore[attr-defined]
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto((here / "both.html").as_uri())
    yield opened
    context.close()


def quiet(page: Page) -> None:
    """Nothing was refused, broken, or asked of a network."""
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("file:", "blob:"))] == []


def test_curves_are_drawn_in_the_colours_of_their_legend(page: Page) -> None:
    figure = page.locator("figure", has=page.locator("figcaption", has_text="loss")).first
    lines = figure.locator(".chart .curve")
    assert lines.count() == 4
    for place in range(4):
        box = lines.nth(place).bounding_box()
        assert box is not None
        assert box["width"] > 200
        stroke = "element => getComputedStyle(element).stroke"
        assert lines.nth(place).evaluate(stroke) == figure.locator(".legend line").nth(place).evaluate(stroke)
    quiet(page)


def test_the_pointer_and_the_arrow_keys_tell_the_values(page: Page) -> None:
    chart, told = page.locator(".chart").first, page.locator("figure output").first
    box = chart.bounding_box()
    assert box is not None
    scale = box["width"] / charts.WIDTH
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2 * scale
    page.mouse.move(box["x"] + middle, box["y"] + box["height"] / 2)
    assert told.inner_text().startswith("step 20: ")
    assert "runs/one: loss 2.1353" in told.inner_text()
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert told.inner_text().startswith("step 21: ")
    page.keyboard.press("Home")
    assert told.inner_text().startswith("step 1: ")
    page.keyboard.press("ArrowLeft")
    assert told.inner_text().startswith("step 1: ")
    page.keyboard.press("End")
    assert told.inner_text().startswith("step 40: ")
    quiet(page)


def test_everything_is_reached_by_the_keyboard_in_the_order_of_the_page_and_shows_where_one_is(page: Page) -> None:
    unfold(page)
    wanted = page.evaluate("document.querySelectorAll('summary, button, [tabindex]').length")
    page.evaluate("document.querySelectorAll('summary, button, [tabindex]').forEach((e, i) => e.dataset.place = i)")
    seen = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
              return [Number(at.dataset.place), at.tagName.toLowerCase(), style.outlineStyle,
                parseFloat(style.outlineWidth), box.bottom > 0 && box.top < innerHeight];
            }"""
        )
        place, tag, outline, width, visible = found
        assert (outline, width, visible) == ("solid", 2, True), found
        seen.append((place, tag))
    assert [place for place, _ in seen] == list(range(wanted))
    assert {"svg", "button", "summary", "pre", "div"} == {tag for _, tag in seen}


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


def test_a_section_is_folded_and_unfolded_by_the_keyboard(page: Page) -> None:
    summary = page.locator("summary", has_text="What the model sees").first
    summary.focus()
    assert not page.locator("pre.tokens").first.is_visible()
    page.keyboard.press("Enter")
    assert page.locator("pre.tokens").first.is_visible()
    page.keyboard.press("Space")
    assert not page.locator("pre.tokens").first.is_visible()


def test_trained_tokens_are_marked_by_more_than_a_colour(page: Page) -> None:
    unfold(page)
    first = page.locator("pre.tokens").first
    assert first.inner_text() == "<|user|> HelloThank you.×0.5"
    assert first.locator("mark").all_inner_texts() == ["Thank you", "."]
    assert first.locator("mark").first.evaluate("each => getComputedStyle(each).textDecorationLine") == "underline"


@pytest.mark.parametrize(("size", "beside"), [(PHONE, False), (DESK, True)], ids=["phone", "desk"])
def test_answers_before_and_after_stand_side_by_side_where_there_is_room(page: Page, size: Any, beside: bool) -> None:
    page.set_viewport_size(size)
    before, after, right = (page.locator(".beside > div").nth(place) for place in range(3))
    assert before.inner_text().split() == ["before,", "reward", "0.25", "No."]
    assert after.inner_text().split() == ["after,", "reward", "1", "Yes.", "Thank", "you"]
    assert right.inner_text().split() == ["right", "answer", "Thank", "you"]
    boxes = [each.bounding_box() for each in (before, after)]
    assert None not in boxes
    assert (boxes[0]["y"] == boxes[1]["y"]) == beside  # type: ignore[index]


def test_warnings_plan_and_settings_are_told(page: Page) -> None:
    for title, text in {
        "Warnings": "the loss leapt", "Command": "ftcli train peft=lora", "Plan and reality": "rows or blocks a step",
        "What differs from the defaults": "train.learning_rate", "Derived settings": "hardware.type",
    }.items():  # fmt: skip
        section = page.locator("details", has=page.locator("summary", has_text=title)).last
        section.evaluate("each => each.open = true")
        assert text in section.inner_text()


@pytest.mark.parametrize("kind", ["svg", "png", "csv"])
def test_a_chart_is_kept_as_a_file(page: Page, here: Path, kind: str) -> None:
    with page.expect_download() as waited:
        page.locator(f"button[data-as={kind}]").first.click()
    file = here / f"chart.{kind}"
    waited.value.save_as(file)
    content = file.read_bytes()
    assert content.startswith({"svg": b"<svg", "png": b"\x89PNG", "csv": b'"run"'}[kind])
    if kind == "png":
        assert int.from_bytes(content[16:20]) == 2 * charts.WIDTH
    if kind == "csv":
        assert len(content.splitlines()) == 1 + 2 * (40 + 4)
    quiet(page)


def test_what_a_stranger_named_is_shown_and_does_nothing(page: Page) -> None:
    page.locator("summary", has_text="Other measures").click()
    assert page.title() == "runs/one · runs/two"
    assert page.locator("figcaption", has_text="</script>").count() == 1
    assert page.locator("img").count() == 0
    quiet(page)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(page: Page, here: Path, size: dict[str, int], scheme: str) -> None:
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    unfold(page)
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) == 0
    assert low_contrast(page) == []
    if os.environ.get("FTCLI_SCREENSHOTS"):
        SCREENSHOTS.mkdir(exist_ok=True)
        page.reload()
        page.evaluate("scrollTo(0, 0)")
        name = "phone" if size is PHONE else "desk"
        page.screenshot(path=SCREENSHOTS / f"report-{name}-{scheme}.png")
        if (size, scheme) == (DESK, "light"):
            section = page.locator("main > section").nth(2)
            for title in ("What the model sees", "What differs from the defaults"):
                section.locator("summary", has_text=title).click()
            section.screenshot(path=SCREENSHOTS / "report-rows.png")


def low_contrast(page: Page) -> list[str]:
    """The texts and curves whose contrast with what lies below them is under that of WCAG's level AA."""
    found = page.evaluate(
        """() => {
          const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
          const light = (colour) => {
            const [red, green, blue] = parts(colour).slice(0, 3).map((value) => value / 255)
              .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
          };
          const ground = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = getComputedStyle(at).backgroundColor;
              if (colour.startsWith("rgb(")) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          const wanting = [];
          const look = (element, colour, least) => {
            const pair = [light(colour), light(ground(element))].sort((one, other) => other - one);
            const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
            if (contrast < least) wanting.push(`${element.tagName} ${colour} on ${ground(element)}: ${contrast}`);
          };
          const all = (which) => document.querySelectorAll(which);
          for (const element of all("h1, h2, h3, p, th, td, figcaption, li, summary, pre, mark, sub, footer, button"))
            look(element, getComputedStyle(element).color, 4.5);
          for (const element of all(".chart text")) look(element, getComputedStyle(element).fill, 4.5);
          for (const element of all(".curve")) look(element, getComputedStyle(element).stroke, 3);
          return wanting;
        }"""
    )
    assert isinstance(found, list), json.dumps(found)
    return found
