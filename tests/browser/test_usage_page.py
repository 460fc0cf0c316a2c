"""The Usage page as people use it, in a real browser."""

import csv
import re
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from tests.browser.conftest import TWO_WEEKS, VOICES, WCAG, OpenPage, numbers
from tests.processes import ServiceProcess

CHART = "[data-chart^=usage-]"
TABLE = "table[id^=table-usage-]"


def heights(page: Page) -> list[float]:
    """The heights in pixels of the bars that are drawn, in their order."""
    paths: list[str] = page.locator(f"{CHART} .mark-rect.layer_1_marks path").evaluate_all(
        "paths => paths.map(path => path.getAttribute('d'))"
    )
    return [abs(float(found[1])) for path in paths if (found := re.search(r"v(-?[\d.]+)", path))]


def chosen(page: Page, name: str) -> str:
    value: str = page.locator(f"#controls select[name={name}]").input_value()
    return value


def test_the_drawn_numbers_are_those_of_the_api(open_page: OpenPage, service: ServiceProcess) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}")
    values = service.get("/v1/usage", last="14d", interval="day")["series"][0]["values"]

    drawn = heights(page)

    assert numbers(page, TABLE) == [[value] for value in values]
    assert len(drawn) == len(values)
    scale = max(drawn) / max(values)
    assert drawn == pytest.approx([value * scale for value in values], abs=0.1)


def test_every_series_is_drawn_and_named(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}&breakdown=voice")

    expect(page.locator(".legend").first.locator("li")).to_have_count(len(VOICES))
    assert len(heights(page)) == len(VOICES) * page.locator(f"{TABLE} tbody tr").count()


def test_a_choice_changes_the_view_and_its_address_without_a_new_page(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}")
    page.evaluate("window.stayed = true")

    page.select_option("select[name=metric]", "requests")
    page.wait_for_url("**metric=requests**")
    page.focus("select[name=breakdown]")
    page.select_option("select[name=breakdown]", "voice")
    page.wait_for_url("**breakdown=voice**")

    expect(page.locator(".figure h2").first).to_have_text("API requests per day")
    expect(page.locator(".legend").first.locator("li")).to_have_count(len(VOICES))
    page.wait_for_selector("[data-drawn]")
    assert page.evaluate("window.stayed")
    assert "range=" not in page.url
    assert "chart=" not in page.url
    assert page.evaluate("document.activeElement.name") == "breakdown"


def test_back_and_forward_go_from_view_to_view(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}")
    first = page.url
    page.select_option("select[name=breakdown]", "voice")
    page.wait_for_url("**breakdown=voice**")
    second = page.url

    page.go_back()
    page.wait_for_url(first)
    expect(page.locator(f"{CHART} + .legend")).to_have_count(0)
    assert chosen(page, "breakdown") == ""

    page.go_forward()
    page.wait_for_url(second)
    expect(page.locator(".legend").first.locator("li")).to_have_count(len(VOICES))


def test_the_zone_is_the_browsers_own_until_another_is_chosen(open_page: OpenPage) -> None:
    page = open_page("/usage", timezone_id="Europe/Berlin")

    assert "tz=Europe%2FBerlin" in page.url
    assert "(Europe/Berlin)" in page.locator(CHART).inner_html()

    page.fill("input[name=tz]", "America/New_York")
    page.press("input[name=tz]", "Enter")
    page.wait_for_url("**tz=America%2FNew_York**")
    page.wait_for_selector("[data-drawn]")
    assert "(America/New_York)" in page.locator(CHART).inner_html()


def test_a_zone_that_does_not_exist_is_said_at_its_control(open_page: OpenPage) -> None:
    page = open_page("/usage?last=7d&tz=Mars", drawn=False, expected=422)

    expect(page.locator("#problem-tz")).to_contain_text("must be an IANA name")
    expect(page.locator("input[name=tz]")).to_have_attribute("aria-invalid", "true")


def test_the_presets_and_the_custom_range(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}")

    expect(page.locator(".dates")).to_be_hidden()
    page.select_option("#range", "7d")
    page.wait_for_url("**last=7d**")
    page.select_option("#range", "custom")
    expect(page.locator(".dates")).to_be_visible()
    page.fill("input[name=start]", "2026-01-01")
    page.wait_for_url("**start=2026-01-01**")

    assert "last=" not in page.url


def test_the_pointer_shows_the_numbers_of_a_bucket(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}&breakdown=voice")
    row = page.locator(f"{TABLE} tbody tr").nth(7)
    bar = page.locator(f"{CHART} .mark-rect.layer_0_marks path").nth(7)

    bar.hover(force=True)

    tip = page.locator(f"{CHART} .tip")
    expect(tip).to_be_visible()
    expect(tip.locator("b")).to_have_text(row.locator("th").inner_text())
    assert tip.locator("dd").all_inner_texts() == row.locator("td").all_inner_texts()


def test_the_arrow_keys_read_the_chart_and_enter_looks_closer(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}")
    page.locator(CHART).focus()

    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")

    name = page.locator(f"{TABLE} tbody tr").nth(-2).locator("th").inner_text()
    expect(page.locator(f"{CHART} .tip b")).to_have_text(name)
    page.keyboard.press("Escape")
    expect(page.locator(f"{CHART} .tip")).to_be_hidden()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_url("**interval=hour**")


def test_a_click_on_a_bar_looks_closer_and_one_on_a_name_narrows(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}&breakdown=voice")

    page.locator(".legend a", has_text="de").click()
    page.wait_for_url("**voice=de**")
    assert "breakdown" not in page.url
    expect(page.locator(".chips")).to_contain_text("Voice is de")

    page.wait_for_selector("[data-drawn]")
    page.locator(f"{CHART} .mark-rect.layer_0_marks path").nth(5).click(force=True)
    page.wait_for_url("**interval=hour**")
    assert "voice=de" in page.url

    page.locator(".chips a").click()
    page.wait_for_url(re.compile("^(?!.*voice=de)"))


def test_the_export_is_exactly_the_current_view(open_page: OpenPage, service: ServiceProcess, tmp_path: Path) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}&breakdown=voice&metric=requests&chart=lines")

    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)

    query = page.url.partition("?")[2].replace("&chart=lines", "")
    assert file.read_bytes() == httpx.get(f"{service.page}v1/usage.csv?{query}").content
    rows = list(csv.reader(file.read_text().splitlines()))
    in_the_file = sorted(float(row[-1]) for row in rows[1:])
    assert in_the_file == sorted(value for row in numbers(page, TABLE) for value in row)
    assert file.name.startswith("usage-requests-by-voice-per-day-")


def test_dark_mode_follows_the_system_and_the_toggle_and_is_kept(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}", color_scheme="dark")
    background = "() => getComputedStyle(document.querySelector('.card')).backgroundColor"
    chart = "() => document.querySelector('.chart svg').style.backgroundColor"

    assert page.evaluate(background) == page.evaluate(chart) == "rgb(21, 23, 28)"
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator(".chart svg").first).to_have_css("background-color", "rgb(255, 255, 255)")
    page.reload()
    page.wait_for_selector("[data-drawn]")

    assert page.evaluate(background) == page.evaluate(chart) == "rgb(255, 255, 255)"


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        (f"/usage?{TWO_WEEKS}&breakdown=voice&pick=voice", "light"),
        (f"/usage?{TWO_WEEKS}&breakdown=voice", "dark"),
        (f"/usage?{TWO_WEEKS}&voice=nobody", "light"),
        (f"/analytics?{TWO_WEEKS}", "light"),
        (f"/analytics?{TWO_WEEKS}", "dark"),
        (f"/requests?{TWO_WEEKS}", "light"),
        ("/requests/request-3-2", "dark"),
    ],
)
def test_axe_finds_nothing(open_page: OpenPage, address: str, scheme: str) -> None:
    page = open_page(address, color_scheme=scheme)

    found = Axe().run(page, options=WCAG)

    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("address", ["/usage", "/analytics", "/requests", "/requests/request-0-0"])
def test_nothing_sticks_out_of_the_screen(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}?{TWO_WEEKS}", viewport={"width": 2560, "height": 900})

    for width in (2560, 768, 360):
        page.set_viewport_size({"width": width, "height": 900})
        expect(page.locator("html")).to_have_js_property("scrollWidth", width)
        for chart in page.locator(".chart svg").all():
            assert chart.evaluate("svg => svg.getBoundingClientRect().right") <= width


def test_nothing_moves_when_the_chart_is_drawn(open_page: OpenPage) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}&breakdown=voice")

    reserved = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.plot')).minHeight)")
    assert page.locator(f"{CHART} .chart").bounding_box()["height"] <= reserved  # type: ignore[index]  # it is visible
    shifted = page.evaluate(
        "new Promise(done => new PerformanceObserver(list => done(list.getEntries().reduce((a, e) => a + e.value, 0)))"
        ".observe({type: 'layout-shift', buffered: true}) || setTimeout(() => done(0), 100))"
    )
    assert shifted < 0.02


def test_without_a_script_tables_form_and_export_work(open_page: OpenPage, service: ServiceProcess) -> None:
    page = open_page(f"/usage?{TWO_WEEKS}", java_script_enabled=False, drawn=False)

    page.locator("select[name=breakdown]").select_option("voice")
    page.get_by_role("button", name="Show").click()

    assert "breakdown=voice" in page.url
    assert "range=" not in page.url
    assert page.locator("table.series tbody th").all_inner_texts() == ["hi", "de", "en-us"]
    address = page.get_by_role("link", name="Export as CSV").get_attribute("href") or ""
    assert httpx.get(service.page + address.lstrip("/")).text.startswith("bucket,voice,credits")
    image = page.locator(f"{CHART} img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
