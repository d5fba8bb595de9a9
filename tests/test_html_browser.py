"""The page in headless Chromium: it loads clean, methods switch, tables sort, themes change, nothing is clipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_runs import suite, write_suite
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from benchmarks.html import write_html

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WIDTHS = (390, 1280)
METHODS = ("uniform", "gradnorm", "famo", "coba")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_suite(tmp_path_factory.mktemp("browser") / "fake", suite(seeds=(0, 1), languages=2, methods=METHODS))
    return write_html(folder, "Which one?").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"expected Chromium at {CHROMIUM}, found none: apt-get update && apt-get install -y chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 900}, color_scheme="light")
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    def requested(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            asked.append(request.url)

    opened.on("console", heard)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", requested)
    opened.goto(address)
    opened.wait_for_selector(".plot .main-svg")
    yield opened
    assert said == []
    assert asked == []
    context.close()


def test_every_chart_is_drawn_and_nothing_is_wider_than_the_window(page: Page) -> None:
    assert page.locator(".plot").count() == page.locator(".plot:has(.main-svg)").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    clipped = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,figcaption,dd,label,.plot')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.textContent.slice(0, 40))"
    )
    assert clipped == []


def test_a_method_can_be_switched_off_and_on_with_the_keyboard(page: Page) -> None:
    box = page.locator("#methods input[value=famo]")
    lines = "document.querySelector('#chart-pictures-0').data.filter(t => t.meta.method === 'famo'"
    shown = f"{lines} && t.visible !== false).length"
    rows = page.locator("tr[data-method=famo]")
    assert page.evaluate(shown) > 0
    box.focus()
    page.keyboard.press("Space")
    assert page.evaluate(shown) == 0
    assert all(not rows.nth(row).is_visible() for row in range(rows.count()))
    assert not page.locator("figure:has(> h3:text-is('Weights: famo'))").first.is_visible()
    page.keyboard.press("Space")
    assert page.evaluate(shown) > 0
    assert rows.first.is_visible()


def column(page: Page, place: int) -> list[float]:
    cells = page.locator("table").first.locator("tbody tr")
    return [
        float(cells.nth(row).locator("td").nth(place).get_attribute("data-value") or "nan") for row in range(cells.count())
    ]


def test_tables_sort_by_click_and_by_key_and_say_so(page: Page) -> None:
    header = page.locator("table").first.locator("th").nth(2)
    before = column(page, 2)
    assert before != sorted(before)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, 2) == sorted(before)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 2) == sorted(before, reverse=True)


def test_the_theme_changes_the_page_and_the_charts(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    chart = "document.querySelector('#chart-pictures-0').layout.paper_bgcolor"
    line = "document.querySelector('#chart-pictures-0').data.find(t => t.name === 'uniform').line.color"
    light = (page.evaluate(ground), page.evaluate(chart), page.evaluate(line))
    page.locator("#theme").click()
    dark = (page.evaluate(ground), page.evaluate(chart), page.evaluate(line))
    assert all(before != after for before, after in zip(light, dark, strict=True))
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    page.emulate_media(color_scheme="light")
    # The browser tells the page of its new preference when it gets round to it.
    page.wait_for_function(f"{chart} === '{light[1]}'")


def test_values_can_be_read_under_the_pointer(page: Page) -> None:
    plot = page.locator("#chart-pictures-0")
    plot.scroll_into_view_if_needed()
    place = plot.locator(".nsewdrag").first.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.wait_for_selector("#chart-pictures-0 .hoverlayer .legend, #chart-pictures-0 .hoverlayer .hovertext")
    assert "famo" in (page.locator("#chart-pictures-0 .hoverlayer").text_content() or "")


def test_the_first_stop_of_the_keyboard_skips_to_the_verdict(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"
