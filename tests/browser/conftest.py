"""A real browser on a real service with calls in it. The fixtures fail a test that leaves an error behind.

The browser is Debian's Chromium, driven by Playwright. Playwright keeps an event loop running in this thread, so it is
ended with each module: no other test would get a loop of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.conftest import missing, wait_until
from tests.processes import ServiceProcess, serving

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
VOICES = ("en-us", "de", "hi")
DAYS = 12

TWO_WEEKS = "last=14d&interval=day&tz=UTC"
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"]}
UNDRAWN = "[data-chart]:not([data-drawn])"

OpenPage = Callable[..., Page]


def numbers(page: Page, table: str) -> list[list[float]]:
    """A table's numbers, exact; what is none counts as 0."""
    rows: list[list[str]] = page.locator(f"{table} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('td.n')].map("
        "cell => cell.querySelector('data')?.value ?? cell.textContent))"
    )
    return [[float(cell.replace(",", "").replace("–", "0")) for cell in row] for row in rows]


def record(service: ServiceProcess, **event: Any) -> None:
    """A call that ends now; returns when it is stored."""
    id = event.setdefault("request_id", uuid4().hex)
    event = {"id": id, "source": "browser", "time": datetime.now(UTC).isoformat(), "workspace": "acme"} | event
    httpx.post(f"{service.page}v1/events", json=[event], timeout=30).raise_for_status()
    wait_until(lambda: httpx.get(f"{service.page}v1/requests/{id}").status_code == 200, "the call is stored")


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or missing("Chromium")


def history(now: datetime) -> list[dict[str, Any]]:
    """A few calls a day, at hours that lie on the same day from Kolkata to New York."""
    events = []
    for day in range(DAYS):
        noon = (now - timedelta(days=day + 1)).replace(hour=12, minute=0, second=0, microsecond=0)
        for i, voice in enumerate(VOICES):
            failed = day % 4 == 3 and i == 2
            events.append(
                {
                    "id": f"{day}-{i}", "source": "browser", "time": (noon + timedelta(minutes=7 * i)).isoformat(),
                    "workspace": "acme", "user": ("alice", "bob")[i % 2], "voice": voice, "product": "text_to_speech",
                    "model": ("large", "flash")[i % 2], "method": "POST", "route": "/v1/text-to-speech/{voice_id}",
                    "path": f"/v1/text-to-speech/{voice}", "status": 500 if failed else 200,
                    "credits": str(100 * (i + 1) + day) + ".25", "quantities": {"characters": 100 * (i + 1)},
                    "duration_ms": 100 + 50 * i + day, "ttfb_ms": 40 + i, "request_id": f"request-{day}-{i}",
                    "api_key": f"key-{i}",
                }
            )  # fmt: skip
    return events


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with twelve days of calls, and Vega's script made. Of each file its own: some add calls to it."""
    chromium()
    with serving(tmp_path_factory.mktemp("browser")) as running:
        events = history(datetime.now(UTC))
        httpx.post(f"{running.page}v1/events", json=events, timeout=30).raise_for_status()
        wait_until(lambda: running.total("requests", last="30d") == len(events), "the calls are stored")
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield started
        started.close()


class Watch:
    """What a page must not do: say an error, break its policy, ask another host."""

    def __init__(self, home: str) -> None:
        self._home = home
        self.faults: list[str] = []

    def follow(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._home, "data:", "blob:")):
            self.faults.append(f"asked {request.url}")


@pytest.fixture
def open_page(browser: Browser, service: ServiceProcess, tmp_path: Path) -> Iterator[OpenPage]:
    """Opens an address of the service in a fresh browser profile, and waits until its charts are drawn."""
    contexts: list[BrowserContext] = []
    watch = Watch(service.page)

    def open_it(address: str = "/usage", *, drawn: bool = True, expected: int = 200, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 900}, "timezone_id": "UTC"} | options
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        if expected == 200:
            watch.follow(page)
        response = page.goto(service.page + address.lstrip("/"))
        assert response
        assert response.status == expected
        if drawn:
            expect(page.locator(UNDRAWN)).to_have_count(0, timeout=60_000)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not watch.faults
