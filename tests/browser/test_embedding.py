"""Who sees what, and the pages inside another company's page, in a real browser."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from aggregator.tokens import Principal, Tokens
from tests.browser.conftest import TWO_WEEKS, UNDRAWN, history, numbers
from tests.conftest import wait_until
from tests.processes import ServiceProcess, serving

SECRET = "a secret of the browser tests, long enough"
ADMIN, MEMBER = Principal("admin", "acme", "alice"), Principal("member", "acme", "alice")
TABLE = "table[id^=table-usage-]"


class Company(BaseHTTPRequestHandler):
    """A page of the company's, with the address behind `?` in a frame."""

    def do_GET(self) -> None:
        html = f'<!doctype html><title>Acme</title><iframe src="{self.path.partition("?")[2]}" height="700"></iframe>'
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(html.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the company's page is; `127.0.0.1` may frame ours, and `localhost`, another site to a browser, may not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Company)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[ServiceProcess]:
    """A service with a secret, which one site may frame."""
    settings = {"AGGREGATOR_SECRET": SECRET, "AGGREGATOR_FRAME_ANCESTORS": f"http://127.0.0.1:{port}"}
    with serving(tmp_path_factory.mktemp("guarded"), settings=settings) as running:
        headers = bearer(Principal("operator"))
        events = history(datetime.now(UTC))
        httpx.post(f"{running.page}v1/events", json=events, headers=headers, timeout=30).raise_for_status()
        wait_until(lambda: sum(requests(running, ADMIN, "workspace")) == len(events), "the calls are stored")
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(timezone_id="UTC")
    yield context.new_page()
    context.close()


def token(principal: Principal) -> str:
    return Tokens(SECRET).make(principal, days=1)


def bearer(principal: Principal) -> dict[str, str]:
    return {"authorization": f"Bearer {token(principal)}"}


def requests(service: ServiceProcess, principal: Principal, scope: str) -> list[float]:
    address = f"{service.page}v1/usage?{TWO_WEEKS}&metric=requests&scope={scope}"
    return list(httpx.get(address, headers=bearer(principal), timeout=30).json()["series"][0]["values"])


def sign_in(page: Page, service: ServiceProcess, principal: Principal) -> None:
    page.goto(f"{service.page}login?token={token(principal)}&next=/usage%3Flast%3D14d%26metric%3Drequests%26tz%3DUTC")
    expect(page.locator(UNDRAWN)).to_have_count(0, timeout=60_000)


def test_an_admin_goes_from_the_own_account_to_the_workspace(page: Page, guarded: ServiceProcess) -> None:
    sign_in(page, guarded, ADMIN)

    assert "token" not in page.url
    assert [row[0] for row in numbers(page, TABLE)] == requests(guarded, ADMIN, "account")
    page.get_by_text("Workspace", exact=True).click()
    page.wait_for_url("**scope=workspace**")

    assert [row[0] for row in numbers(page, TABLE)] == requests(guarded, ADMIN, "workspace")
    page.select_option("select[name=breakdown]", "user")
    page.wait_for_url("**breakdown=user**")
    assert set(page.locator("table.series tbody th").all_inner_texts()) == {"alice", "bob"}


def test_a_member_sees_the_own_account_and_no_other(page: Page, guarded: ServiceProcess) -> None:
    sign_in(page, guarded, MEMBER)

    assert [row[0] for row in numbers(page, TABLE)] == requests(guarded, MEMBER, "account")
    expect(page.locator("[name=scope]")).to_have_count(0)
    expect(page.locator("select[name=breakdown] option[value=user]")).to_have_count(0)
    refused = page.goto(f"{guarded.page}usage?scope=workspace&tz=UTC")
    assert refused
    assert refused.status == 403
    expect(page.get_by_role("heading", name="Not for this account")).to_be_visible()


def test_a_company_shows_the_page_to_its_customer_in_a_frame(page: Page, guarded: ServiceProcess, port: int) -> None:
    next = "/usage%3Fcompact%3Dtrue%26theme%3Ddark%26last%3D14d"
    page.goto(f"http://127.0.0.1:{port}/developers?{guarded.page}login?token={token(MEMBER)}&next={next}")
    frame = page.frame_locator("iframe")

    expect(frame.locator("[data-drawn]").first).to_be_visible(timeout=60_000)
    expect(frame.locator(".brand")).to_be_hidden()
    expect(frame.locator("body")).to_have_css("background-color", "rgb(12, 13, 16)")
    frame.get_by_role("link", name="Request Log").click()
    expect(frame.locator("table.calls tbody tr").first).to_be_visible()
    assert "compact=true" in page.frames[1].url
    assert "token" not in page.frames[1].url


def test_nobody_else_may_frame_the_page(page: Page, guarded: ServiceProcess, port: int) -> None:
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text, timeout=60_000):
        page.goto(f"http://localhost:{port}/developers?{guarded.page}login?token={token(MEMBER)}")
