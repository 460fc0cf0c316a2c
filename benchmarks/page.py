"""How soon a page shows its chart: the demo's sixty days, a warm server, a browser that has never seen the page.

    python -m benchmarks.page [--rounds 7] [--days 60] [--data DIRECTORY]

Server time is what one request takes over a connection that is open already. In Chromium each round is a fresh profile:
from the start of the navigation until the first chart, and until the last one, is drawn; bytes are those on the wire,
the page's scripts and styles among them (a second view has them in its cache). Medians; the best beside them, since
whatever else the machine does only ever slows things down. `--data` keeps the store for another run.
"""

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, expect, sync_playwright

from aggregator.app import connect
from aggregator.entry import fields_of
from aggregator.rollup import MARGIN_SECONDS, PAUSE_SECONDS
from tests.browser.conftest import ARGUMENTS, UNDRAWN, chromium
from tests.conftest import wait_until
from tests.processes import ServiceProcess, serving
from usage_meter import keys
from usage_meter.event import encode_row

BAR_SERVER_MS, BAR_DRAWN_MS = 100, 1000
VIEWS = {
    "Usage": "usage?last=60d&interval=day&tz=Europe/Berlin",
    "Usage by voice": "usage?last=60d&interval=day&tz=Europe/Berlin&breakdown=voice",
    "Analytics": "analytics?last=60d&interval=day&tz=Europe/Berlin",
    "Request Log": "requests?last=60d&tz=Europe/Berlin",
}
WIDTH = 17
KEY = b"of the benchmark"

# When the first and the last chart were drawn, in milliseconds since the navigation began.
WATCH = """
new MutationObserver(() => {
  const now = performance.now(), all = document.querySelectorAll('[data-chart]');
  if (document.querySelector('[data-drawn]')) window.first ??= now;
  if (all.length && !document.querySelector('[data-chart]:not([data-drawn])')) window.last ??= now;
}).observe(document, {subtree: true, childList: true, attributeFilter: ['data-drawn']});
"""


@dataclass
class Times:
    """Of one view; milliseconds and bytes, one per round."""

    server: list[float]
    html: int
    first: list[float]
    last: list[float]
    bytes: list[int]


def fill(service: ServiceProcess, days: int) -> int:
    """The demo's history, the way that every event goes; how many calls there are."""
    caller: Any = importlib.import_module("usage_meter.caller")
    history: Any = importlib.import_module("examples.speech_api.history")
    past = history.History(lambda key: caller.hash_key(KEY, key))
    sent = 0
    with connect(service.redis_url) as client:
        for events in past.until(datetime.now(UTC), days):
            fields: Any = fields_of(list(map(encode_row, events)))
            client.xadd(keys.events(0), fields)
            sent += len(events)
    wait_until(lambda: calls(service) >= sent, "the history is stored", seconds=300)
    time.sleep(MARGIN_SECONDS + PAUSE_SECONDS)  # before that the rollups' worker leaves alone what has just come
    return sent


def calls(service: ServiceProcess) -> int:
    kinds = (service.total("requests", last="12mo", kind=kind) for kind in ("request", "webhook"))
    return int(sum(kinds))


def waiting(service: ServiceProcess) -> float:
    """Buckets that the rollups have yet to compute."""
    lines = httpx.get(service.page + "metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("usage_meter_rollup_waiting "))


def timed(what: Callable[[], object]) -> float:
    begun = time.perf_counter()
    what()
    return (time.perf_counter() - begun) * 1000


def measure(service: ServiceProcess, browser: Browser, path: str, rounds: int) -> Times:
    address = service.page + path
    with httpx.Client(headers={"accept-encoding": "gzip"}, timeout=60) as client:
        response = client.get(address)
        assert response.status_code == 200, response.text
        html = int(response.headers["content-length"])
        server = [timed(lambda: client.get(address)) for _ in range(rounds)]
    times = Times(server, html, [], [], [])
    for _ in range(rounds):
        view(browser, address, times)
    return times


def view(browser: Browser, address: str, times: Times) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="Europe/Berlin")
    page = context.new_page()
    page.add_init_script(WATCH)
    wire = context.new_cdp_session(page)
    received: list[int] = []
    wire.on("Network.loadingFinished", lambda event: received.append(int(event["encodedDataLength"])))
    wire.send("Network.enable")
    page.goto(address)
    expect(page.locator(UNDRAWN)).to_have_count(0, timeout=60_000)
    first, last = page.evaluate("[window.first, window.last]")
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    times.first.append(first or loaded)
    times.last.append(last or loaded)
    times.bytes.append(sum(received))
    context.close()


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f})"


def kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--data", type=Path, help="directory of the store, kept for another run")
    given = parser.parse_args()
    with ExitStack() as stack:
        directory = given.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(serving(directory))
        count = calls(service) or fill(service, given.days)
        wait_until(lambda: waiting(service) == 0, "the rollups are computed", seconds=300)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        stack.callback(browser.close)
        httpx.get(service.page + "usage", timeout=60)
        print(f"{count:,} calls; median (best) of {given.rounds} rounds\n")
        heads = ("server, ms", "first chart, ms", "all charts, ms", "HTML, kB", "in all, kB")
        print(f"{'':{WIDTH}}" + "".join(f"{head:>{WIDTH}}" for head in heads))
        for name, path in VIEWS.items():
            found = measure(service, browser, path, given.rounds)
            times = map(shown, (found.server, found.first, found.last))
            sizes = map(kilobytes, (found.html, max(found.bytes)))
            print(f"{name:{WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in (*times, *sizes)), flush=True)
        print(f"{'bar':{WIDTH}}{BAR_SERVER_MS:>{WIDTH},}{BAR_DRAWN_MS:>{WIDTH},}")


if __name__ == "__main__":
    main()
