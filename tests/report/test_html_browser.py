"""The page in headless Chromium: it loads clean, methods switch, tables sort, themes change, nothing is clipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_runs import make, suite, write_suite
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.report.html.page import write_html
from benchmarks.report.palette import HALF, MEDIAN, MOST, SPREAD_OPACITY

pytestmark = pytest.mark.slow

WIDTHS = (390, 1280)
METHODS = ("uniform", "gradnorm", "famo", "coba")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_suite(tmp_path_factory.mktemp("browser") / "fake", suite(seeds=(0, 1), languages=2, methods=METHODS))
    return write_html(suite_tables(folder), "Which one?").as_uri()


def show(page: Page, place: str) -> None:
    """Bring a chart into view, which has it drawn."""
    page.locator(place).scroll_into_view_if_needed()
    page.wait_for_selector(f"{place} .main-svg >> nth=0")


@dataclass
class Opened:
    """A page, and what it has said and asked for."""

    page: Page
    said: list[str]
    """Warnings and errors on its console."""
    asked: list[str]
    """What it wanted from elsewhere."""


def opened(browser: Browser, address: str, width: int) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    found = Opened(context.new_page(), [], [])

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.said.append(message.text)

    def requested(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            found.asked.append(request.url)

    found.page.on("console", heard)
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", requested)
    found.page.goto(address)
    show(found.page, "#chart-pictures-0")
    yield found
    context.close()


@pytest.fixture(scope="module", params=WIDTHS)
def shared(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Opened]:
    """Loaded once: that costs more than what is done with it."""
    yield from opened(browser, address, request.param)


@pytest.fixture
def page(shared: Opened) -> Iterator[Page]:
    """As somebody sees it who has not touched it, but for charts that are drawn already."""
    shared.page.mouse.move(0, 0)
    shared.page.evaluate(UNTOUCHED)
    yield shared.page
    assert shared.said == []
    assert shared.asked == []


@pytest.fixture(params=WIDTHS)
def fresh(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """Loaded for one test alone."""
    for found in opened(browser, address, request.param):
        yield found.page
        assert found.said == []
        assert found.asked == []


UNTOUCHED = """() => {
  document.querySelectorAll("#methods input").forEach((box) => { if (!box.checked) box.click(); });
  if (document.documentElement.dataset.theme !== "light") document.getElementById("theme").click();
  document.activeElement.blur();
  window.scrollTo(0, 0);
}"""


def test_every_chart_is_drawn_and_nothing_is_wider_than_the_window(page: Page) -> None:
    plots = page.locator(".plot")
    assert plots.count() > page.locator(".plot:has(.main-svg)").count() > 0
    for place in range(plots.count()):
        show(page, f"#{plots.nth(place).get_attribute('id')}")
    cut = page.evaluate("[...document.querySelectorAll('.plot')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.id)")
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    clipped = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,figcaption,dd,label,li,.plot')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.textContent.slice(0, 40))"
    )
    assert clipped == []


def test_a_method_can_be_switched_off_and_on_with_the_keyboard(page: Page) -> None:
    box = page.locator("#methods input[value=famo]")
    chart = page.locator("#chart-pictures-0")
    shown = "[...document.querySelector('#chart-pictures-0').data].some(t => t.name === 'famo' && t.visible !== false)"
    rows = page.locator("tr[data-method=famo]")
    assert page.evaluate(shown)
    box.focus()
    page.keyboard.press("Space")
    chart.scroll_into_view_if_needed()
    page.wait_for_function(f"!({shown})")
    assert all(not rows.nth(row).is_visible() for row in range(rows.count()))
    assert not page.locator("figure:has(> h3:text-is('Weights: famo'))").first.is_visible()
    page.keyboard.press("Space")
    chart.scroll_into_view_if_needed()
    page.wait_for_function(shown)
    assert rows.first.is_visible()


def test_the_single_task_baseline_can_be_switched_off_too(page: Page) -> None:
    rows = page.locator("tr[data-method=STL]")
    assert rows.first.is_visible()
    page.locator("#methods input[value=STL]").uncheck()
    assert all(not rows.nth(row).is_visible() for row in range(rows.count()))
    entry = page.locator("#chart-pictures-0 + .legend li[data-method=STL]")
    assert entry.count() == 1
    assert not entry.is_visible()
    page.locator("#chart-pictures-0").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#chart-pictures-0').data.find(t => t.name === 'STL').visible === false")


def test_a_chart_not_drawn_yet_heeds_what_is_switched_off(fresh: Page) -> None:
    last = fresh.locator(".plot[id^=chart-pictures]").count() - 1
    place = f"#chart-pictures-{last}"
    assert fresh.locator(f"{place} .main-svg").count() == 0
    fresh.locator("#methods input[value=famo]").uncheck()
    show(fresh, place)
    hidden = fresh.evaluate(f"document.querySelector('{place}').data.filter(t => t.visible === false).map(t => t.name)")
    assert hidden == ["famo"]


def test_every_colour_is_seen_on_a_dark_ground(page: Page) -> None:
    page.locator("#theme").click()
    contrasts = page.evaluate(
        """() => {
          const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
          const light = (colour) => colour.match(/[0-9]+/g).slice(0, 3)
            .reduce((sum, part, place) => sum + linear(part / 255) * [0.2126, 0.7152, 0.0722][place], 0);
          const ground = light(getComputedStyle(document.body).backgroundColor);
          const samples = [...document.querySelectorAll(".sample")];
          return samples.map((e) => (light(getComputedStyle(e).color) + 0.05) / (ground + 0.05));
        }"""
    )
    assert len(contrasts) > len(METHODS)
    assert min(contrasts) >= 3


def column(page: Page, place: int) -> list[float]:
    cells = page.locator("table").first.locator("tbody tr")
    return [
        float(cells.nth(row).locator("td").nth(place).get_attribute("data-value") or "nan") for row in range(cells.count())
    ]


def test_tables_sort_by_click_and_by_key_and_say_so(page: Page) -> None:
    headers = page.locator("table").first.locator("th")
    place = next(place for place, text in enumerate(headers.all_inner_texts()) if text.startswith("change"))
    header = headers.nth(place)
    before = column(page, place)
    assert before != sorted(before)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, place) == sorted(before)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, place) == sorted(before, reverse=True)


def test_the_theme_changes_the_page_and_the_charts(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    chart = "document.querySelector('#chart-pictures-0').layout.paper_bgcolor"
    line = "document.querySelector('#chart-pictures-0').data.find(t => t.name === 'uniform').line.color"
    light = [page.evaluate(each) for each in (ground, chart, line)]

    def becomes(theme: str) -> None:
        # The browser tells the page of a new preference, and of a chart in view, when it gets round to it.
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        page.locator("#chart-pictures-0").scroll_into_view_if_needed()
        page.wait_for_function(f"({chart} === '{light[1]}') === {str(theme == 'light').lower()}")

    page.locator("#theme").click()
    becomes("dark")
    dark = [page.evaluate(each) for each in (ground, chart, line)]
    assert all(before != after for before, after in zip(light, dark, strict=True))
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.locator("#theme").click()
    becomes("light")
    assert [page.evaluate(each) for each in (ground, chart, line)] == light
    for preferred in ("dark", "light"):
        page.emulate_media(color_scheme=preferred)
        becomes(preferred)


def test_values_can_be_read_under_the_pointer(page: Page) -> None:
    plot = page.locator("#chart-pictures-0")
    plot.scroll_into_view_if_needed()
    place = plot.locator(".nsewdrag").first.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.wait_for_selector("#chart-pictures-0 .hoverlayer .legend, #chart-pictures-0 .hoverlayer .hovertext")
    assert "famo" in (page.locator("#chart-pictures-0 .hoverlayer").text_content() or "")


def test_names_are_shown_as_they_are(browser: Browser, tmp_path: Path) -> None:
    odd = "mine<b>&amp;"
    address = write_html(suite_tables(write_suite(tmp_path / "odd", [make("uniform"), make(odd)])), odd).as_uri()
    page = browser.new_page()
    page.goto(address)
    show(page, "#chart-pictures-0")
    place = page.locator("#chart-pictures-0 .nsewdrag").first.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.wait_for_selector("#chart-pictures-0 .hoverlayer .legendtext")
    assert odd in (page.locator("#chart-pictures-0 .hoverlayer").text_content() or "")
    assert odd in (page.locator("#chart-pictures-0 + .legend").text_content() or "")
    page.locator("#methods input").last.uncheck()
    assert page.locator("tbody tr[data-method]").last.is_hidden()
    page.close()


def test_the_focus_is_never_under_the_box_of_methods(page: Page) -> None:
    page.locator("th button").last.focus()
    covered = 0
    for _ in range(25):
        page.keyboard.press("Shift+Tab")
        covered += page.evaluate(
            """() => {
              const [box, stop] = [document.getElementById("methods"), document.activeElement];
              if (getComputedStyle(box).position !== "sticky" || !stop.matches("th button")) return false;
              const [above, own] = [box, stop].map((e) => e.getBoundingClientRect());
              return own.top < above.bottom - 1 && own.bottom > above.top;
            }"""
        )
    assert covered == 0


def test_the_first_stop_of_the_keyboard_skips_to_the_verdict(fresh: Page) -> None:
    fresh.keyboard.press("Tab")
    fresh.keyboard.press("Enter")
    assert fresh.evaluate("document.activeElement.id") == "verdict"


def light(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, as WCAG has it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def through(colour: str, opacity: float, ground: str) -> str:
    """What is seen of a colour through which the ground is seen."""
    mixed = [
        round(opacity * int(colour[place : place + 2], 16) + (1 - opacity) * int(ground[place : place + 2], 16))
        for place in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in mixed)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_spread_of_many_tasks_is_seen_in_both_themes_and_its_ends_have_names(
    width: int, browser: Browser, tmp_path: Path
) -> None:
    runs = [make("famo", seed, tasks=tuple(f"language {index}" for index in range(40))) for seed in (0, 1)]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    page.goto(write_html(suite_tables(write_suite(tmp_path / "fake", runs)), "").as_uri())
    figure = page.locator("figure.chart:has(> h3:text-is('Weights: famo'))")
    place = f"#{figure.locator('.plot').get_attribute('id')}"
    show(page, place)
    assert figure.locator(".legend li").all_text_contents() == [MEDIAN, HALF, MOST]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for theme, ink in (("light", "#000000"), ("dark", "#ffffff")):
        page.wait_for_function(f"document.querySelector('{place}').data[2].line.color === '{ink}'")
        most, half, median = page.evaluate(f"document.querySelector('{place}').data.map(t => t.fillcolor || t.line.color)")
        ground = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ground').trim()")
        outer = through(most, SPREAD_OPACITY[MOST], ground)
        inner = through(half, SPREAD_OPACITY[HALF], outer)
        seen = [light(colour) + 0.05 for colour in (ground, outer, inner, median)]
        ordered = sorted(seen, reverse=theme == "light")
        assert seen == ordered
        # Not the 3 of lines: bands are areas, beside each other and beside the line.
        assert min(max(one, other) / min(one, other) for one, other in itertools.pairwise(seen)) > 1.25
        page.locator("#theme").click()
        page.locator(place).scroll_into_view_if_needed()
    box = page.locator(f"{place} .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(f"{place} .hoverlayer .legendtext")
    said = page.locator(f"{place} .hoverlayer").text_content() or ""
    assert all(words in said for words in (MEDIAN, "highest: language ", "lowest: language "))
    page.close()
