"""A picture of every page, light and dark: the README's, and what to look at after a change of the pages.

    python -m benchmarks.screenshots [--out DIRECTORY] [--data DIRECTORY] [--page ADDRESS]

By default of a service of its own that has the demo's sixty days (`--data` keeps its store for another run); `--page`
takes a running one's, such as the demo's. Writes `NAME-light.png` and `NAME-dark.png`; with
`--readme` only `docs/usage.png`.
"""

import argparse
import tempfile
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import httpx
from playwright.sync_api import Browser, expect, sync_playwright

from benchmarks.page import calls, fill
from tests.browser.conftest import ARGUMENTS, UNDRAWN, chromium
from tests.processes import serving

ZONE = "Europe/Berlin"
DAYS = 60
README_PICTURE = Path(__file__).parents[1] / "docs" / "usage.png"
VIEWS = {
    "usage": f"usage?last=60d&interval=day&breakdown=voice&tz={ZONE}",
    "usage-lines": f"usage?last=7d&interval=hour&breakdown=product&metric=requests&chart=lines&scale=log&tz={ZONE}",
    "usage-total": f"usage?last=30d&interval=total&breakdown=user&tz={ZONE}",
    "usage-filter": f"usage?last=30d&voice=de&pick=voice&tz={ZONE}",
    "analytics": f"analytics?last=60d&interval=day&tz={ZONE}",
    "requests": f"requests?last=30d&tz={ZONE}",
    "call": "",
    "nothing": f"usage?voice=nobody&tz={ZONE}",
    "wrong": "usage?tz=Mars&interval=fortnight",
}
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


def picture(
    browser: Browser, address: str, file: Path, scheme: Scheme, *, height: int = 900, full: bool = True
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": height}, color_scheme=scheme, timezone_id=ZONE)
    page = context.new_page()
    page.goto(address)
    expect(page.locator(UNDRAWN)).to_have_count(0, timeout=60_000)
    page.screenshot(path=file, full_page=full)
    context.close()
    print(file)


def views(page: str) -> dict[str, str]:
    """The addresses by name; of a call, the newest that took long enough to have a waterfall."""
    found = httpx.get(f"{page}v1/requests", params={"last": "30d", "limit": 1, "min_latency": 100, "outcome": "ok"})
    newest = found.json()["requests"]
    call = {"call": f"{page}requests/{newest[0]['id']}?tz={ZONE}"} if newest else {}
    return {name: page + path for name, path in VIEWS.items() if path} | call


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--data", type=Path, help="directory of the store, kept for another run")
    parser.add_argument("--page", help="address of a running service, such as http://127.0.0.1:8080/")
    parser.add_argument("--readme", action="store_true", help="make the README's picture instead")
    given = parser.parse_args()
    with ExitStack() as stack:
        page = given.page
        if not page:
            directory = given.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            service = stack.enter_context(serving(directory))
            _ = calls(service) or fill(service, DAYS)
            page = service.page
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        stack.callback(browser.close)
        if given.readme:
            # Whole days only: what the picture is taken on has just begun, or has the traffic of whoever tried things.
            today = datetime.now(ZoneInfo(ZONE)).date()
            whole = f"start={today - timedelta(DAYS)}&end={today - timedelta(1)}"
            address = page + VIEWS["usage"].replace(f"last={DAYS}d", whole)
            picture(browser, address, README_PICTURE, "light", height=960, full=False)
            return
        given.out.mkdir(parents=True, exist_ok=True)
        for name, address in views(page).items():
            for scheme in SCHEMES:
                picture(browser, address, given.out / f"{name}-{scheme}.png", scheme)


if __name__ == "__main__":
    main()
