"""The Analytics page as people use it, in a real browser."""

import csv
from pathlib import Path

import httpx
from playwright.sync_api import expect

from tests.browser.conftest import TWO_WEEKS, OpenPage, numbers
from tests.processes import ServiceProcess

ROUTE = "/v1/text-to-speech/{voice_id}"
PATHS = "table.paths"
PANELS = ["paths", "outcomes", "success", "latency", "ttfb", "heat"]


def test_every_panel_is_drawn_and_the_numbers_are_those_of_the_api(
    open_page: OpenPage, service: ServiceProcess
) -> None:
    page = open_page(f"/analytics?{TWO_WEEKS}")
    names = ("requests", "errors", "success_rate", "latency_avg", "latency_p95", "ttfb_avg", "credits")
    answer = service.get("/v1/usage", last="14d", interval="day", metric=names, breakdown="route")

    charts = page.locator("[data-chart]").evaluate_all("all => all.map(one => one.dataset.chart)")
    rects = page.locator("[data-chart=heat] .mark-rect path").count()
    total = {one["metric"]: float(one["total"]) for one in answer["series"]}

    assert charts == PANELS
    assert rects > 0
    shown = numbers(page, PATHS)
    assert shown[0][:2] == [total["requests"], total["errors"]]
    assert page.locator(".tiles strong").first.inner_text() == f"{total['requests']:,.0f}"


def test_the_export_is_the_table_by_path(open_page: OpenPage, service: ServiceProcess, tmp_path: Path) -> None:
    page = open_page(f"/analytics?{TWO_WEEKS}")

    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)

    address = page.get_by_role("link", name="Export as CSV").get_attribute("href") or ""
    assert file.read_bytes() == httpx.get(service.page + address.lstrip("/")).content
    rows = list(csv.DictReader(file.read_text().splitlines()))
    drawn = numbers(page, "#table-paths")
    assert [[float(row["requests"])] for row in rows] == drawn


def test_a_column_sorts_and_a_path_narrows(open_page: OpenPage) -> None:
    page = open_page(f"/analytics?{TWO_WEEKS}")

    page.get_by_role("link", name="Latency, p95").click()
    page.wait_for_url("**sort=-latency_p95**")
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Latency, p95")
    page.locator(f"{PATHS} tbody a").first.click()
    page.wait_for_url("**route=**")

    expect(page.locator(".chips")).to_contain_text(f"Route is {ROUTE}")
    page.go_back()
    expect(page.locator(".chips")).to_have_count(0)


def test_webhooks_are_analysed_like_requests(open_page: OpenPage) -> None:
    page = open_page(f"/analytics?{TWO_WEEKS}")

    page.locator(".segments", has_text="Webhooks").get_by_text("Webhooks").click()
    page.wait_for_url("**kind=webhook**")

    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()
