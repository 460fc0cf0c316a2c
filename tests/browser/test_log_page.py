"""The Request Log as people use it, in a real browser: filters, pages that stay put, the live tail, one call."""

import csv
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import TWO_WEEKS, OpenPage, record
from tests.processes import ServiceProcess

ROWS = "table.calls tbody tr"


def ids(page: Page) -> list[str]:
    found: list[str] = page.locator(ROWS).evaluate_all("rows => rows.map(row => row.id)")
    return found


def test_a_filter_is_found_by_searching_real_values(open_page: OpenPage) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}")

    page.get_by_text("Add filter").click()
    page.locator(".dimensions").get_by_role("link", name="Voice").click()
    expect(page.locator(".picker li")).to_have_count(3)
    page.get_by_placeholder("Search voice").fill("en")
    expect(page.locator(".picker li")).to_have_count(1)
    page.locator(".picker li label").click()
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**voice=en-us**")

    expect(page.locator(".chips")).to_contain_text("Voice is en-us")
    expect(page.locator(ROWS).first).to_contain_text("en-us")
    assert set(page.locator(f"{ROWS} td:nth-child(7)").all_inner_texts()) == {"en-us"}


def test_free_text_finds_the_call_whose_page_shows_everything(open_page: OpenPage) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}")

    page.get_by_label("Search").first.fill("request-3-2")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=request-3-2**")
    expect(page.locator(ROWS)).to_have_count(1)
    page.locator(f"{ROWS} td.path").click()
    page.wait_for_url("**/requests/*")

    expect(page.locator("h1")).to_contain_text("POST /v1/text-to-speech/hi")
    expect(page.locator("h1 + p")).to_contain_text("500 Server error")
    expect(page.locator(".waterfall .waiting")).to_have_count(1)
    expect(page.locator(".timing")).to_contain_text("42 ms")
    expect(page.locator(f"{ROWS}[aria-current]")).to_have_count(1)
    assert page.locator(ROWS).count() > 4  # its neighbours
    page.go_back()
    page.wait_for_url("**q=request-3-2**")


def test_an_older_page_stays_put_while_calls_arrive(open_page: OpenPage, service: ServiceProcess) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}&limit=10")
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**cursor=**")
    expect(page.get_by_role("link", name="Newest")).to_be_visible()
    before = ids(page)

    record(service, voice="de", path="/v1/voices")
    page.reload()

    assert ids(page) == before
    assert len(before) == 10


def test_the_live_tail_shows_a_call_as_it_is_stored(open_page: OpenPage, service: ServiceProcess) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}&voice=de")

    with page.expect_response("**/v1/requests/stream*"):
        page.locator(".live label").click()
    record(service, voice="hi", path="/v1/not-asked-for")
    record(service, voice="de", path="/v1/live-tail")

    expect(page.locator(f"{ROWS}.new")).to_contain_text("/v1/live-tail")
    expect(page.locator(ROWS, has_text="/v1/not-asked-for")).to_have_count(0)
    page.locator(".live label").click()
    record(service, voice="de", path="/v1/after-the-tail")
    expect(page.locator(ROWS, has_text="/v1/after-the-tail")).to_have_count(0)


def test_without_a_script_the_log_is_filtered_paged_and_exported(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}&limit=10", java_script_enabled=False, drawn=False)

    page.get_by_text("Add filter").click()
    page.locator(".dimensions").get_by_role("link", name="Outcome").click()
    page.locator(".picker li label", has_text="Server error").click()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".chips")).to_contain_text("Outcome is Server error")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    file = tmp_path / "log.csv"
    download.value.save_as(file)
    rows = list(csv.DictReader(file.read_text().splitlines()))

    assert [row["outcome"] for row in rows] == ["server_error"] * page.locator(ROWS).count()
    page.locator(".chips a").click()
    page.get_by_role("link", name="Older").click()
    expect(page.locator(ROWS)).to_have_count(10)
    page.locator(f"{ROWS} a").first.click()
    expect(page.get_by_role("heading", name="Timing")).to_be_visible()


def test_on_a_phone_how_a_call_ended_is_seen_without_a_scroll(open_page: OpenPage) -> None:
    page = open_page(f"/requests?{TWO_WEEKS}", viewport={"width": 360, "height": 740})

    edge = page.locator(".log .scroll").evaluate("one => one.getBoundingClientRect().right")
    ends = page.locator(f"{ROWS} td:nth-child(4) .outcome:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    )

    assert ends
    assert max(ends) <= edge


def test_on_a_laptop_the_whole_row_of_a_call_is_seen(open_page: OpenPage, service: ServiceProcess) -> None:
    record(service, voice="en-us", path="/v1/" + "long/" * 20)
    page = open_page(f"/requests?{TWO_WEEKS}")

    assert page.locator(".log .scroll").evaluate("one => one.scrollWidth <= one.clientWidth")
