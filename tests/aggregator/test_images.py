"""Charts as images: any view as SVG or PNG, bounded, and kept while it stays the same."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from aggregator.errors import BusyError
from aggregator.limits import Limit
from aggregator.page import drawing
from aggregator.page.colors import CARD
from aggregator.page.drawing import Drawing
from tests.aggregator.events import NOON, call
from tests.aggregator.site import WEEK, Site


def test_a_chart_is_an_image_for_mails_and_documents(site: Site) -> None:
    site.store.insert([call(NOON, credits=5, voice="<b>"), call(NOON, credits=3, voice="de")])

    svg = site.get("/usage/chart.svg?breakdown=voice")
    png = site.get("/usage/chart.png?breakdown=voice&theme=dark&chart=lines&scale=log")

    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert svg.text.startswith("<svg")
    assert "&lt;b&gt;" in svg.text
    assert "Credits per day" in svg.text
    assert svg.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert png.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/usage/chart.svg?panel=requests&past=month", "API requests"),
        ("/usage/chart.svg?panel=concurrency&past=year", "Concurrent requests"),
        (f"/usage/chart.svg?{WEEK}&interval=total&breakdown=voice", "Credits in total"),
        (f"/analytics/chart.svg?{WEEK}", "API requests by path"),
        (f"/analytics/chart.svg?{WEEK}&panel=heat", "95th percentile"),
        (f"/analytics/chart.svg?{WEEK}&panel=ttfb", "Time to first byte"),
    ],
)
def test_every_chart_of_a_page_has_its_image(site: Site, address: str, said: str) -> None:
    site.store.insert([call(NOON - timedelta(hours=hour), ttfb_us=40_000) for hour in range(30)])

    assert said in site.get(address).text


def test_the_limit_is_a_dashed_line_in_the_image_of_concurrency(site: Site) -> None:
    site.store.insert([call(NOON, workspace="acme")])
    site.limits.put("acme", [Limit("workspace", concurrency=5)])

    assert "stroke-dasharray" in site.get("/usage/chart.svg?panel=concurrency&workspace=acme").text
    assert "stroke-dasharray" not in site.get("/usage/chart.svg?panel=concurrency").text


def test_an_image_is_as_wide_as_asked(site: Site) -> None:
    site.store.insert([call(NOON)])

    def width(query: str) -> float:
        text = site.get(f"/usage/chart.svg?{query}").text
        return float(text.split('width="')[1].split('"')[0])

    assert 600 <= width("width=600") < 720
    assert width("") > 960


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/usage/chart.svg?metric=glory", 422, "must be one of credits"),
        ("/usage/chart.png?width=9999", 422, "width: must be a whole number of pixels from 320 to 1920"),
        ("/usage/chart.png?width=wide", 422, "not 'wide'"),
        ("/usage/chart.svg?panel=glory", 404, "there are requests, concurrency"),
        ("/analytics/chart.svg?panel=glory", 404, "there are paths"),
        ("/usage/chart.svg?start=2025-01-01&end=2026-01-01&interval=hour", 422, "too many to draw"),
    ],
)
def test_an_image_that_cannot_be_is_a_line_of_text(site: Site, address: str, status: int, said: str) -> None:
    answer = site.get(address, status)

    assert answer.headers["content-type"].startswith("text/plain")
    assert said in answer.text


def test_an_image_that_stays_the_same_is_drawn_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.store.insert([call(NOON - timedelta(days=2))])
    drawn: list[str] = []
    png = site.drawing.png

    def counted(spec: dict[str, Any], config: dict[str, Any]) -> bytes:
        drawn.append(config["background"])
        return png(spec, config)

    monkeypatch.setattr(site.drawing, "png", counted)

    first = site.get(f"/usage/chart.png?{WEEK}").content
    assert site.get(f"/usage/chart.png?{WEEK}").content == first
    assert site.get(f"/usage/chart.png?{WEEK}&theme=dark").content != first

    assert drawn == [CARD["light"], CARD["dark"]]


def test_no_more_charts_wait_than_the_server_can_spare_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, begun, ended = Drawing(wait_seconds=0), threading.Semaphore(0), threading.Event()

    def ask(_: object) -> bytes:
        begun.release()
        ended.wait(30)
        return b"image"

    monkeypatch.setattr(slow, "_ask", ask)
    threads = [threading.Thread(target=slow.svg, args=({}, {})) for _ in range(drawing.WAITING)]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=30)

    with pytest.raises(BusyError, match="try again in a moment"):
        slow.svg({}, {})

    ended.set()
    for thread in threads:
        thread.join()
    assert slow.svg({}, {}) == b"image"


def test_one_chart_too_many_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, begun, ended = Drawing(wait_seconds=30), threading.Semaphore(0), threading.Event()

    def ask(_: object) -> bytes:
        begun.release()
        ended.wait(30)
        return b"image"

    monkeypatch.setattr(slow, "_ask", ask)
    with ThreadPoolExecutor(drawing.WAITING + 1) as threads:
        images = [threads.submit(slow.svg, {}, {}) for _ in range(drawing.WAITING + 1)]
        for _ in range(drawing.WAITING):
            assert begun.acquire(timeout=30)
        ended.set()

        assert [one.result() for one in images] == [b"image"] * (drawing.WAITING + 1)


def test_the_script_is_made_once_and_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    early, made = Drawing(), threading.Semaphore(0)

    def ask(_: object) -> bytes:
        made.release()
        return b"script"

    monkeypatch.setattr(early, "_ask", ask)
    early.prepare()

    assert made.acquire(timeout=30)
    assert gzip.decompress(early.script) == b"script"
    assert not made.acquire(blocking=False)
