"""Every answer of `/v1/usage` equals a plain-Python oracle's, whatever the calls, the question and the zone, and
whatever happened before: rollups computed, died in the middle of, taken over by a new process, overtaken by late calls.

Times gather around bucket edges and clock changes. `USAGE_ORACLE_EXAMPLES` makes the search longer, and then a failure
is shrunk as well, which takes minutes.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aggregator.measures import METRICS
from aggregator.rollup import Rollup
from aggregator.store import Store
from tests.aggregator import oracle
from tests.aggregator.crashing import CrashedError, Crashing
from tests.aggregator.events import call
from tests.aggregator.oracle import QUARTER_US, Condition, Question
from tests.aggregator.service import TestedService
from tests.conftest import RedisServer
from usage_meter.event import UsageEvent, new_id

EXAMPLES = int(os.environ.get("USAGE_ORACLE_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 12,
    phases=tuple(phase for phase in Phase if EXAMPLES or phase is not Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

QUESTIONS = 3  # of each history: they cost less than it does

SECOND_US = 1_000_000
DAY_US = 96 * QUARTER_US

# Where clocks change, by an hour, by half an hour, over midnight, over a whole day, and where the offset itself did.
MOMENTS = [
    ("UTC", "2025-03-01T00:00:00+00:00"),
    ("America/Los_Angeles", "2025-03-09T10:00:00+00:00"),
    ("America/Los_Angeles", "2025-11-02T09:00:00+00:00"),
    ("Europe/Berlin", "2024-12-31T23:00:00+00:00"),
    ("Australia/Lord_Howe", "2025-04-05T15:00:00+00:00"),
    ("Australia/Lord_Howe", "2025-10-04T15:30:00+00:00"),
    ("Asia/Kolkata", "2025-06-30T18:30:00+00:00"),
    ("Asia/Kathmandu", "2024-02-28T18:15:00+00:00"),
    ("Pacific/Apia", "2011-12-30T10:00:00+00:00"),
    ("Africa/Cairo", "2023-04-27T22:00:00+00:00"),
    ("Africa/Cairo", "2024-10-31T21:00:00+00:00"),
    ("America/St_Johns", "2006-10-29T02:30:00+00:00"),
    ("Asia/Pyongyang", "2018-05-04T15:00:00+00:00"),
    ("Asia/Beirut", "2022-10-29T21:00:00+00:00"),
]
VALUES = {
    "voice": ("", "amy", "ben", "__odd's \\ value"), "product": ("tts", "stt"), "model": ("", "v1"),
    "api_key": ("k1", "k2", "k3"), "user": ("alice", "bob", ""), "method": ("GET", "POST"), "region": ("", "eu"),
    "route": ("/v1/a", "/v1/b/{id}"),
    "source": ("", "s1"), "kind": ("request", "webhook"), "outcome": ("ok", "client_error", "disconnected"),
}  # fmt: skip
GROUPS = ("", "red", "green", "blue")
STATUSES = (101, 200, 201, 404, 429, 500)
DIMENSIONS = (*VALUES, "group", "status", "attribute.tier")
ALL_METRICS = (*METRICS, "quantity.characters", "quantity.never")

_names = itertools.count()


offsets = st.one_of(
    st.sampled_from((-DAY_US, 0, 0, 0, DAY_US)),
    st.integers(-8, 8).map(lambda n: n * QUARTER_US),
    st.integers(-3 * 96, 3 * 96).map(lambda n: n * QUARTER_US),
    st.integers(-40, 40).map(lambda n: n * DAY_US),
)
jitters = st.one_of(
    st.sampled_from((0, 0, -1, 1, SECOND_US, -SECOND_US)), st.integers(0, QUARTER_US), st.integers(-DAY_US, DAY_US)
)
durations = st.one_of(
    st.sampled_from((0, 1, SECOND_US, QUARTER_US, DAY_US)), st.integers(0, 5 * SECOND_US), st.integers(0, 2 * DAY_US)
)
credits = st.one_of(st.integers(0, 5 * 10**6), st.integers(-(10**6), 10**12), st.just(0))


@st.composite
def calls(draw: st.DrawFn, workspace: str, anchor: int) -> UsageEvent:
    started_us = anchor + draw(offsets) + draw(jitters)
    duration_us = draw(durations)
    texts: dict[str, Any] = {name: draw(st.sampled_from(values)) for name, values in VALUES.items()}
    return UsageEvent(
        id=new_id(started_us),
        workspace=workspace,
        started_us=started_us,
        duration_us=duration_us,
        ttfb_us=draw(st.none() | st.integers(0, duration_us)),
        groups=tuple(draw(st.lists(st.sampled_from(GROUPS[1:]), max_size=3, unique=True))),
        status=draw(st.sampled_from(STATUSES)),
        credits_micro=draw(credits),
        request_bytes=draw(st.integers(0, 2**40)),
        response_bytes=draw(st.integers(0, 2**40)),
        quantities=draw(st.dictionaries(st.just("characters"), st.integers(0, 4000).map(lambda n: n / 4))),
        attributes=draw(st.dictionaries(st.just("tier"), st.sampled_from(("gold", "tin")))),
        **texts,
    )


@st.composite
def deliveries(draw: st.DrawFn, workspace: str, anchor: int) -> list[UsageEvent]:
    """Calls as they come in: in any order, some several times, some corrected, even before what they correct."""
    events = draw(st.lists(calls(workspace, anchor), min_size=1, max_size=25))
    for event in draw(st.lists(st.sampled_from(events), max_size=5)):
        events.append(draw(st.just(event) | corrections(event)))
    return draw(st.permutations(events))


@st.composite
def corrections(draw: st.DrawFn, event: UsageEvent) -> UsageEvent:
    other = draw(calls(event.workspace, event.started_us))
    changed = msgspec.structs.replace(other, id=event.id, started_us=event.started_us)
    # A version of its own: of two corrections with the same one, which of them holds is not promised.
    return msgspec.structs.replace(changed, version=event.version + draw(st.integers(1, 10**6)))


@st.composite
def conditions(draw: st.DrawFn, dimension: str) -> Condition:
    known = {**VALUES, "group": GROUPS, "attribute.tier": ("", "gold", "tin", "none")}
    known["status"] = (*map(str, STATUSES), "2xx", "4xx")
    values = draw(st.lists(st.sampled_from(known[dimension]), min_size=1, max_size=2, unique=True))
    return Condition(dimension, tuple(values), draw(st.booleans()))


@st.composite
def questions(draw: st.DrawFn, zone: str, anchor: int, workspace: str) -> Question:
    interval = draw(st.sampled_from(("minute", "hour", "day", "day", "week", "month", "year", "total")))
    days = {"minute": 0.4, "hour": 6}.get(interval, draw(st.sampled_from((1, 8, 80, 500))))
    first, second = sorted(
        (draw(edges(zone, anchor, int(days * DAY_US))), draw(edges(zone, anchor, int(days * DAY_US))))
    )
    asked = st.lists(st.sampled_from(ALL_METRICS), min_size=1, max_size=4, unique=True)
    metrics = tuple(draw(st.just(list(ALL_METRICS)) | asked))
    narrowed = draw(st.lists(st.sampled_from(DIMENSIONS), max_size=2, unique=True))
    chosen = [draw(conditions(name)) for name in narrowed]
    return Question(
        start_us=first,
        end_us=second if second > first else first + QUARTER_US,
        zone=zone,
        interval=interval,
        metrics=metrics,
        breakdown=tuple(draw(st.lists(st.sampled_from(DIMENSIONS), max_size=2, unique=True))),
        conditions=(*chosen, Condition("workspace", (workspace,))),
        top=draw(st.sampled_from((1, 2, 20))),
        cumulative=all(oracle.is_additive(name) for name in metrics) and draw(st.booleans()),
    )


@st.composite
def edges(draw: st.DrawFn, zone: str, anchor: int, reach: int) -> int:
    """A moment near the anchor: a midnight there, a quarter of an hour, or any."""
    moment = anchor + draw(st.integers(-reach, reach))
    kind = draw(st.sampled_from(("midnight", "quarter", "any")))
    if kind == "any":
        return moment
    if kind == "quarter":
        return moment - moment % QUARTER_US
    local = (oracle.EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(zone))
    midnight = datetime.combine(date(local.year, local.month, local.day), datetime.min.time(), ZoneInfo(zone))
    return oracle.micros(midnight.isoformat())


def check(service: TestedService, events: list[UsageEvent], question: Question) -> None:
    response = service.http.get(f"/v1/usage?{urlencode(question.parameters())}")
    if response.status_code == 422:
        rest = without_concurrency(question)
        assert "concurrency over more than 7 days" in response.text
        if rest.metrics:
            check(service, events, rest)
        return
    assert response.status_code == 200, response.text
    document: dict[str, Any] = json.loads(response.text, parse_float=Decimal)
    expected = oracle.answer(events, question)

    assert [oracle.micros(text) for text in document["buckets"]] == expected.bounds
    found = {}
    for series in document["series"]:
        key = tuple(series["key"][name] for name in question.breakdown)
        assert (series["metric"], key) not in found
        found[series["metric"], key] = (series["values"], series["total"])
    assert found.keys() == expected.series.keys()
    for name, (values, total) in expected.series.items():
        if name[0] == "concurrency" and set(name[1]) == {oracle.OTHER} and is_long(question) and found[name][1] is None:
            continue  # the peak of several together is not kept
        assert found[name][0] == values, name
        assert found[name][1] == total, (name, "total")


def is_long(question: Question) -> bool:
    return question.end_us - question.start_us > 8 * DAY_US


def without_concurrency(question: Question) -> Question:
    """What is left of a question whose concurrency is not kept: over long ranges only that of single dimensions is."""
    assert is_long(question)
    assert any(name.startswith("concurrency") for name in question.metrics)
    return replace(question, metrics=tuple(one for one in question.metrics if not one.startswith("concurrency")))


class Life:
    """A service to which things happen; `received` is what it should count."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self._server = server
        self._url = f"chdb://{directory}/store"
        self._up = ExitStack()
        self.received: list[UsageEvent] = []
        self.service = self._start()

    def _start(self) -> TestedService:
        store = self._up.enter_context(Store(self._url))
        service = TestedService(store, self._up.enter_context(closing(self._server.client())), secret="")
        self._up.enter_context(service.http)
        return service

    def restart(self) -> None:
        self.stop()
        self.service = self._start()

    def stop(self) -> None:
        self._up.close()

    def deliver(self, events: list[UsageEvent]) -> None:
        self.service.store.insert(events)
        self.received += events

    def crash_in_a_rollup(self, writes: int) -> None:
        with suppress(CrashedError):
            while Rollup(Crashing(self.service.store, writes), self.service.freshness, margin_seconds=0).step():
                pass


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    directory = tmp_path_factory.mktemp("oracle")
    server = RedisServer(directory)
    server.start()
    try:
        life = Life(server, directory)
        yield life
        life.stop()
    finally:
        server.kill()


happenings = st.sampled_from(
    ("rollup",) * 8 + ("a step",) * 5 + ("crash",) * 4 + ("again",) * 3 + ("question",) * 3 + ("sweep", "restart")
)


def happen(life: Life, what: str, before: list[UsageEvent], ask: Callable[[], Question], data: st.DataObject) -> None:
    if what == "rollup":
        life.service.roll_up()
    elif what == "a step":
        life.service.rollup.step()
    elif what == "sweep":
        life.service.rollup.sweep()
    elif what == "crash":
        life.crash_in_a_rollup(data.draw(st.integers(0, 12)))
    elif what == "restart":
        life.restart()
    elif what == "again":
        life.deliver(before)
    else:
        check(life.service, life.received, ask())


@pytest.mark.parametrize("interval", ["hour", "day", "week", "month", "total"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_what_no_rollup_answers_is_exact_at_the_edges_of_days(life: Life, zone: str, interval: str) -> None:
    """Given calls around each midnight of a month's end, some of them corrected, I expect the oracle's answer to what
    crosses two cubes: whole days are read by another statement than what lies before and behind them."""
    workspace, first = f"w{next(_names)}", oracle.micros("2026-01-29T00:00:00+00:00")
    moments = [first + day * DAY_US + beside for day in range(6) for beside in (-1, 0, 1, DAY_US // 3)]
    calls = [one_call(workspace, moment, i) for i, moment in enumerate(moments)]
    corrected = [msgspec.structs.replace(one, version=2, voice="en-gb", credits_micro=7) for one in calls[::3]]
    life.received = []
    for events in (calls, corrected, calls[:5]):
        life.deliver(events)

    for start_us, end_us in ((first, first + 5 * DAY_US), (first - 1, first + 5 * DAY_US + 1), (first + 1, moments[9])):
        question = Question(
            start_us,
            end_us,
            zone,
            interval,
            ("credits", "latency_p95"),
            ("voice",),
            (Condition("workspace", (workspace,)), Condition("user", ("alice",))),
        )
        check(life.service, life.received, question)


def one_call(workspace: str, started_us: int, number: int) -> UsageEvent:
    return call(
        datetime.fromtimestamp(0, UTC) + timedelta(microseconds=started_us),
        credits=number + 1,
        workspace=workspace,
        user=("alice", "bob")[number % 5 == 0],
        voice=("en-us", "de-de")[number % 2],
        duration_us=1000 * (number + 1),
    )


@given(st.data())
@PROFILE
def test_every_answer_equals_the_oracle_whatever_happens_before_it(life: Life, data: st.DataObject) -> None:
    zone, moment = data.draw(st.sampled_from(MOMENTS))
    workspace, anchor = f"w{next(_names)}", oracle.micros(moment)
    events = data.draw(deliveries(workspace, anchor))
    life.received = []

    for first in range(0, len(events), 9):
        life.deliver(events[first : first + 9])
        for what in data.draw(st.lists(happenings, min_size=1, max_size=3)):
            happen(life, what, events[: first + 9], lambda: data.draw(questions(zone, anchor, workspace)), data)

    for _ in range(QUESTIONS):
        check(life.service, life.received, data.draw(questions(zone, anchor, workspace)))
