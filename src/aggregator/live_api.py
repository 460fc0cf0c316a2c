"""What happens right now over HTTP: one look, the same as a stream of events, and the live tail of the log.

A stream looks again and again on its reader's behalf, so their number is bounded. The tail looks back a little each
time: a row's insert time is older than the moment at which the row can be seen.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from aggregator import export
from aggregator.api import AUTHENTICATION, PrincipalOf
from aggregator.dimensions import Filter
from aggregator.errors import BusyError
from aggregator.http import openapi
from aggregator.http.delivery import json_response
from aggregator.labels import Labels, Names
from aggregator.live import Live, Top
from aggregator.measures import exact
from aggregator.parameters import requests_query
from aggregator.query import Audience, UsageQuery
from aggregator.reader import Reader
from aggregator.request_log import RequestsQuery
from aggregator.tokens import Principal
from usage_meter import keys
from usage_meter.event import MICRO

TOP = 10  # of each list: what fits beside a chart
LIVE_SECONDS = 2.0  # between two looks of the live stream
TAIL_SECONDS = 0.5  # between two looks of the tail
QUIET_SECONDS = 15.0  # after which a stream says that it is still there: proxies cut silent connections
LOOK_BACK_US = 5_000_000  # longer than any insert takes
REMEMBERED = 20_000  # calls already sent: more than arrive within LOOK_BACK_US
STREAMS = 200  # at once: each costs a question every half second
MINUTE_US = 60_000_000
DAY_US = 86_400 * 1_000_000


def router(
    reader: Reader, live: Live, labels: Labels, principal: PrincipalOf, now: Callable[[], float] = time.time
) -> APIRouter:
    """The endpoints over these collaborators; `now` in Unix seconds."""
    routes = APIRouter(prefix="/v1", dependencies=AUTHENTICATION)
    places = threading.BoundedSemaphore(STREAMS)

    def now_us() -> int:
        return int(now() * 1_000_000)

    def look(request: Request) -> dict[str, Any]:
        who = principal(request)
        return _look(reader, live, labels, who, request.query_params.get("workspace"), now_us())

    @routes.get("/live", **openapi.LIVE)
    def once(request: Request) -> Response:
        """Calls in flight, the last minute, and the top lists of this hour and month, before any of it is rolled up."""
        return json_response(request, look(request))

    @routes.get("/live/stream", **openapi.LIVE_STREAM)
    async def stream(request: Request) -> StreamingResponse:
        """The same as server-sent events, every two seconds."""
        first = await run_in_threadpool(look, request)

        async def looks() -> AsyncIterator[bytes]:
            yield _event(first)
            while True:
                await asyncio.sleep(LIVE_SECONDS)
                yield _event(await run_in_threadpool(look, request))

        return _streaming(looks(), places)

    @routes.get("/requests/stream", **openapi.TAIL)
    async def tail(request: Request) -> StreamingResponse:
        """The live tail: each call as it is stored, as server-sent events; the log's filters apply."""
        items = [*request.query_params.multi_items(), ("last", "48h"), ("limit", "1000")]
        query = requests_query(items, await run_in_threadpool(principal, request), now_us() + DAY_US)
        since_us = await run_in_threadpool(reader.now_us)
        return _streaming(_tail(reader, query, since_us), places)

    return routes


def _look(
    reader: Reader, live: Live, labels: Labels, who: Principal, workspace: str | None, now_us: int
) -> dict[str, Any]:
    audience = who.widest_audience()
    whose = workspace if who.is_operator else audience.workspace
    audience = Audience(whose, audience.user)
    in_flight = _in_flight(live, audience, reader, now_us)
    names = labels.of(whose, keys.LIVE_DIMENSIONS)
    return {
        "in_flight": sum(in_flight.values()),
        "in_flight_by_api_key": [
            {"value": key, "label": names["api_key"].get(key, key), "requests": count}
            for key, count in sorted(in_flight.items(), key=lambda one: (-one[1], one[0]))[:TOP]
        ],
        "last_minute": _last_minute(reader, audience, now_us),
        "hour": None if whose is None else _shown(live.top(whose, "hour", _read(audience)), audience, names),
        "month": None if whose is None else _shown(live.top(whose, "month", _read(audience)), audience, names),
    }


def _read(audience: Audience) -> int:
    """A member's own place may be far down the list, so it is looked for in all that is read."""
    return TOP if audience.user is None else 1000


def _in_flight(live: Live, audience: Audience, reader: Reader, now_us: int) -> dict[str, int]:
    """By API key; a member's are the keys of the own calls of the last 30 days."""
    own = None
    if audience.user is not None:
        query = UsageQuery(
            now_us - 30 * DAY_US, now_us + 1, UTC, interval="total", metrics=("requests",),
            breakdown=("api_key",), audience=audience, top=1000,
        )  # fmt: skip
        own = {one.key["api_key"] for one in reader.usage(query).series} - {""}
    counts: dict[str, int] = {}
    for (workspace, key), count in live.in_flight().items():
        if audience.workspace in (None, workspace) and (own is None or key in own):
            counts[key] = counts.get(key, 0) + count
    return counts


def _last_minute(reader: Reader, audience: Audience, now_us: int) -> dict[str, Any]:
    metrics = ("requests", "credits", "errors")
    query = UsageQuery(
        now_us - MINUTE_US, now_us + 1, UTC, interval="total", metrics=metrics,
        filters=(Filter("kind", ("request",)),), audience=audience,
    )  # fmt: skip
    return {one.metric: one.total for one in reader.usage(query).series}


def _shown(top: Top, audience: Audience, names: Names) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What this audience may see of the workspace's lists: a member only the own line."""
    return {
        metric: {
            dimension: [
                {"value": value, "label": names[dimension].get(value, value), "total": _amount(metric, amount)}
                for value, amount in found
                if audience.user is None or (dimension == "user" and value == audience.user)
            ][:TOP]
            for dimension, found in lists.items()
        }
        for metric, lists in top.items()
    }


def _amount(metric: str, amount: int) -> Any:
    return exact(Decimal(amount) / MICRO) if metric == "credits" else amount


async def _tail(reader: Reader, query: RequestsQuery, since_us: int) -> AsyncIterator[bytes]:
    sent: OrderedDict[tuple[str, int], None] = OrderedDict()
    quiet = 0.0
    yield b": tail\n\n"
    while True:
        arrived = await run_in_threadpool(reader.arrived, query, since_us)
        fresh = [one for one in arrived if (one["id"], one["version"]) not in sent]
        for one in fresh:
            sent[one["id"], one["version"]] = None
            yield _event(one)
        while len(sent) > REMEMBERED:
            sent.popitem(last=False)
        if len(arrived) >= query.limit:
            yield b"event: skipped\ndata: {}\n\n"  # more came than anybody can read: the log has them all
        quiet = 0.0 if fresh else quiet + TAIL_SECONDS
        if quiet >= QUIET_SECONDS:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(TAIL_SECONDS)
        since_us = max(since_us, await run_in_threadpool(reader.now_us) - LOOK_BACK_US)


def _event(value: object) -> bytes:
    return b"data: " + export.to_json(value) + b"\n\n"


def _streaming(events: AsyncIterator[bytes], places: threading.BoundedSemaphore) -> StreamingResponse:
    if not places.acquire(blocking=False):
        raise BusyError(f"{STREAMS} streams are open: try again when one has ended")

    async def held() -> AsyncIterator[bytes]:
        try:
            async for event in events:
                yield event
        finally:
            places.release()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(held(), media_type="text/event-stream", headers=headers)
