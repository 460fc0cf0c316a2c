"""Nobody sees another's: whatever is asked, the answer is the same whether or not others' calls are there.

Each example stores what the asker may see, asks, stores what others have, and asks again: the answers must be equal to
the last digit, and must hold nothing of the others that was not in the question. `ISOLATION_EXAMPLES` makes the search
longer, and then a failure is shrunk as well.
"""

import difflib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import httpx
import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aggregator.audit import Audit
from aggregator.dimensions import DIMENSIONS
from aggregator.labels import Labels
from aggregator.limits import Limit, Limits
from aggregator.measures import METRICS
from aggregator.query import Statement
from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import call
from tests.aggregator.service import TestedService, listening
from tests.conftest import RedisServer
from usage_meter import keys
from usage_meter.event import UsageEvent

EXAMPLES = int(os.environ.get("ISOLATION_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 8,
    phases=tuple(phase for phase in Phase if EXAMPLES or phase is not Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

ALICE = Principal("member", "acme", "alice")
ADMIN = Principal("admin", "acme", "alice")
OPERATOR = Principal("operator")
TABLES = ("events", "labels", "limits", "audit")
LABELLED = ("voice", "api_key", "user", "group", "route")

Pairs = list[tuple[str, str]]


def secret(serial: int) -> str:
    """What marks every value of one call, and stands nowhere else."""
    return f"xq{serial:04}zj"


@st.composite
def calls_of(draw: st.DrawFn, workspace: str, user: str, serial: int) -> UsageEvent:
    """A call each of whose texts is its own, or one that everybody's calls have."""
    mark = secret(serial)

    def text(name: str) -> str:
        return f"{name}-{mark}" if draw(st.booleans()) else f"{name}-common"

    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=draw(st.integers(2, 2 * 1440)))
    status = draw(st.sampled_from((200, 200, 404, 500)))
    return call(
        moment,
        draw(st.integers(1, 10**6)),
        workspace=workspace,
        user=user,
        groups=tuple({text("group"), text("group")}),
        api_key=text("api_key") if workspace != "acme" else text(f"api_key-{user}"),  # who has a key is its user
        **{name: text(name) for name in ("product", "voice", "model", "region", "source", "route")},
        path=f"/{text('path')}",
        api_key_hint=mark[-4:],
        status=status,
        outcome="ok" if status == 200 else "client_error",
        error="" if status == 200 else text("error"),
        duration_us=draw(st.sampled_from((0, 250_000, 3_600_000_000))),
        ttfb_us=draw(st.none() | st.just(0)),
        quantities={"characters": float(draw(st.integers(1, 10**6))), f"quantity-{mark}": 1.0},
        attributes={"tier": text("tier"), f"attribute-{mark}": mark},
        request_id=text("request"),
        trace_id=text("trace"),
        instance=f"instance-{mark}",
        kind=draw(st.sampled_from(("request", "request", "webhook"))),
    )


@dataclass
class World:
    """Who asks; the calls that this one may see, and those of others."""

    asker: Principal
    visible: list[UsageEvent]
    hidden: list[UsageEvent]

    def values(self) -> list[str]:
        """What a question may hold: values of everybody's calls, and things that nobody has."""
        found = {"", "common", "globex", "acme", "bob", "alice", "x' OR 1=1 --", "%", "*"}
        for one in (*self.visible, *self.hidden):
            found |= {one.voice, one.api_key, one.user, one.route, one.product, one.model, one.region, *one.groups}
            found |= {one.request_id, one.trace_id, one.path, str(UUID(bytes=one.id)), one.attributes["tier"]}
        return sorted(found)

    def secrets(self) -> list[str]:
        marks = re.findall(r"xq\d{4}zj", repr(self.hidden))
        names = ["globex", "mallory"] + (["bob"] if self.asker.role == "member" else [])
        return sorted({*marks, *names})


@st.composite
def worlds(draw: st.DrawFn) -> World:
    asker = draw(st.sampled_from((ALICE, ALICE, ADMIN)))
    mine, others = [("acme", "alice")], [("globex", "alice"), ("globex", "mallory")]
    (others if asker.role == "member" else mine).append(("acme", "bob"))
    visible = [draw(calls_of(*draw(st.sampled_from(mine)), serial)) for serial in range(draw(st.integers(1, 4)))]
    hidden = [draw(calls_of(*draw(st.sampled_from(others)), 100 + i)) for i in range(draw(st.integers(1, 5)))]
    if draw(st.booleans()):  # one event id in two workspaces, at the same moment
        stolen = next((i for i, one in enumerate(hidden) if one.workspace != "acme"), None)
        if stolen is not None:
            changed = {"id": visible[0].id, "started_us": visible[0].started_us, "version": 9}
            hidden[stolen] = UsageEvent(**(_fields(hidden[stolen]) | changed))
    return World(asker, visible, hidden)


def _fields(event: UsageEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in UsageEvent.__struct_fields__}


@dataclass
class Asked:
    method: str
    path: str
    parameters: Pairs = field(default_factory=list)
    body: object = None
    steady: bool = True
    """Whether two answers to it are equal while nothing happens."""


def _range() -> Pairs:
    """Two days back to now, at full hours, so that the same question a moment later is the same."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [("start", (hour - timedelta(days=3)).isoformat()), ("end", (hour + timedelta(hours=2)).isoformat())]


def filters(world: World) -> st.SearchStrategy[tuple[str, str]]:
    values = st.sampled_from(world.values())
    names = st.sampled_from((*DIMENSIONS, "attribute.tier", "attribute.x"))
    return st.tuples(st.sampled_from(("", "", "not.")), names, values).map(lambda one: (one[0] + one[1], one[2]))


def attacks(world: World) -> st.SearchStrategy[tuple[str, str]]:
    """Parameters by which one might try to see more."""
    names = st.sampled_from(("workspace", "not.workspace", "scope", "audience", "user", "not.user", "role"))
    return st.tuples(names, st.sampled_from((*world.values(), "workspace", "operator")))


@st.composite
def usage_parameters(draw: st.DrawFn, world: World) -> Pairs:
    metric = st.sampled_from((*METRICS, "quantity.characters", f"quantity.quantity-{secret(100)}"))
    breakdown = st.sampled_from((*DIMENSIONS, "attribute.tier", f"attribute.attribute-{secret(100)}"))
    return [
        *_range(),
        *(("metric", one) for one in draw(st.lists(metric, max_size=4))),
        *(("breakdown", one) for one in draw(st.lists(breakdown, max_size=2, unique=True))),
        ("interval", draw(st.sampled_from(("hour", "day", "month", "total")))),
        ("top", draw(st.sampled_from(("1", "2", "20")))),
        ("scope", draw(st.sampled_from(("account", "account", "workspace")))),
        *draw(st.lists(filters(world), max_size=2)),
    ]


@st.composite
def log_parameters(draw: st.DrawFn, world: World) -> Pairs:
    texts = draw(st.lists(st.sampled_from(world.values()), max_size=1))
    return [
        *_range(),
        *(("q", one) for one in texts),
        ("limit", draw(st.sampled_from(("1", "2", "100")))),
        ("order", draw(st.sampled_from(("asc", "desc")))),
        ("scope", draw(st.sampled_from(("account", "account", "workspace")))),
        *draw(st.lists(filters(world), max_size=2)),
    ]


@st.composite
def bodies(draw: st.DrawFn, world: World, table: str) -> dict[str, Any]:
    columns = ("voice_id", "user_id", "hashed_xi_api_key", "reporting_workspace_id", "group", "product_type", "model")
    facts = ("request_id", "trace_id", "path", "error_code", "endpoint")
    filter = st.fixed_dictionaries(
        {
            "column": st.sampled_from((*columns, *facts)),
            "operation": st.sampled_from(("in", "not_in", "neq", "ge", "lt")),
            "values": st.lists(st.sampled_from(world.values()), min_size=1, max_size=1),
        }
    )
    (_, start), (_, end) = _range()
    start_ms, end_ms = (int(datetime.fromisoformat(one).timestamp() * 1000) for one in (start, end))
    body: dict[str, Any] = {"start_time": start_ms, "end_time": end_ms, "filters": draw(st.lists(filter, max_size=2))}
    if table == "requests":
        search = {"search": draw(st.sampled_from(world.values()))} if draw(st.booleans()) else {}
        return body | search | {"sort": draw(st.sampled_from(("asc", "desc")))}
    grouping = draw(st.lists(st.sampled_from(columns), max_size=3, unique=True))
    return body | {"group_by": grouping, "interval_seconds": draw(st.sampled_from((60, 3600, 5000, 86_400)))}


@st.composite
def questions(draw: st.DrawFn, world: World) -> list[Asked]:
    """Every endpoint that answers with what was recorded, each with parameters of its own."""
    value = st.sampled_from([one for one in world.values() if re.fullmatch(r"[\w-]+", one)])
    dimension = st.sampled_from((*DIMENSIONS, "attribute.tier", f"attribute.attribute-{secret(100)}", "workspace"))
    (_, start), (_, end) = _range()
    stats = [
        ("start_unix", str(int(datetime.fromisoformat(start).timestamp() * 1000))),
        ("end_unix", str(int(datetime.fromisoformat(end).timestamp() * 1000))),
        ("breakdown_type", draw(st.sampled_from(("none", "voice", "groups", "api_keys", "user", "attribute.tier")))),
        ("metric", draw(st.sampled_from(("credits", "request_count", "concurrency", "ttfb_avg", "success_rate")))),
        ("include_workspace_metrics", draw(st.sampled_from(("false", "false", "true")))),
        *draw(st.lists(filters(world), max_size=1)),
    ]
    listed = [pair for pair in draw(log_parameters(world)) if pair[0] in ("start", "end", "q", "scope")]
    asked = [
        Asked("GET", "/v1/usage", draw(usage_parameters(world))),
        Asked("GET", "/v1/usage.csv", [*draw(usage_parameters(world)), ("layout", draw(_layouts))]),
        Asked("GET", "/v1/requests", draw(log_parameters(world))),
        Asked("GET", "/v1/requests.csv", draw(log_parameters(world))),
        Asked("GET", f"/v1/requests/{draw(value)}"),
        Asked("GET", f"/v1/dimensions/{draw(dimension)}", listed),
        Asked("GET", f"/v1/labels/{draw(dimension)}"),
        Asked("GET", "/v1/limits"),
        Asked("GET", f"/v1/dimensions/{draw(dimension)}.csv", listed),
        Asked("GET", f"/v1/labels/{draw(dimension)}.csv"),
        Asked("GET", "/v1/limits.csv"),
        *(Asked("GET", f"/v1/usage.{suffix}", draw(usage_parameters(world))) for suffix in ("parquet", "arrow")),
        *(Asked("GET", f"/v1/requests.{suffix}", draw(log_parameters(world))) for suffix in ("parquet", "arrow")),
        Asked("GET", "/v1/audit", steady=False),
        Asked("GET", "/v1/audit.csv", steady=False),
        Asked("GET", "/v1/live"),
        Asked("GET", "/v1/usage/character-stats", stats),
        Asked("POST", f"{_ANALYTICS}/query/usage-by-product-over-time", body=draw(bodies(world, "usage"))),
        Asked("POST", f"{_ANALYTICS}/requests", body=draw(bodies(world, "requests"))),
        Asked("GET", "/v1/user"),
        Asked("GET", "/v1/user/subscription"),
        Asked("GET", "/v1/workspace/groups"),
        Asked("GET", "/v1/workspace/groups/search", [("name", draw(value))]),
        Asked("GET", "/v1/workspace/members"),
        Asked("GET", "/usage", draw(usage_parameters(world))),
        Asked("GET", "/metrics/../v1/usage", draw(usage_parameters(world))),
    ]
    for one in asked:
        if draw(st.integers(0, 4)) == 0:
            one.parameters = [*one.parameters, draw(attacks(world))]
    return asked


_ANALYTICS = "/v1/workspace/analytics"
_layouts = st.sampled_from(("long", "wide"))

# What says nothing of a single customer, says nothing at all, or is asked for elsewhere (the streams: below).
WITHOUT_CALLS = {"/healthz", "/readyz", "/metrics", "/v1/events", "/v1/tokens/{token_id}/revoke"}
STREAMS = {"/v1/live/stream", "/v1/requests/stream"}


class SharedService(TestedService):
    """Also remembers its Redis, which every example empties. Its clock stands still, from one `clear` to the next."""

    def __init__(self, store: Store, client: "redis.Redis") -> None:
        super().__init__(store, client, now=lambda: self.moment)
        self.redis = client
        self.moment = time.time()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    directory = tmp_path_factory.mktemp("isolation")
    server = RedisServer(directory)
    server.start()
    with Store(f"chdb://{directory}/store") as store, server.client() as client:
        tested = SharedService(store, client)
        with tested.http:
            yield tested
    server.kill()


def clear(service: SharedService) -> None:
    service.moment = time.time()
    service.redis.flushall()
    for table in TABLES:
        service.store.select(Statement(f"TRUNCATE TABLE {table}", {}))


def record(service: SharedService, events: Iterable[UsageEvent]) -> None:
    """The calls, with what else there is of them: names, limits, and what is kept for the live view."""
    events = list(events)
    service.store.insert(events)
    periods = [keys.period_name(period, service.moment) for period in _PERIODS]
    service.redis.zadd(keys.INSTANCES, {"web-1": service.moment})
    labels, limits = Labels(service.store), Limits(service.store)
    for workspace in {one.workspace for one in events}:
        theirs = [one for one in events if one.workspace == workspace]
        for dimension in LABELLED:
            values = {
                one for call in theirs for one in (call.groups if dimension == "group" else [_of(call, dimension)])
            }
            names = {value: f"Name of {value}" for value in values if "common" not in value}
            labels.put(workspace, dimension, names)
        new = {Limit("user", one.user, Decimal(77)) for one in theirs}
        new |= {Limit("api_key", one.api_key, None, 7) for one in theirs if "common" not in one.api_key}
        if {one.user for one in theirs} != {"bob"}:
            new.add(Limit("workspace", "", Decimal(777)))
        limits.put(workspace, list(new))
        Audit(service.store).record(OPERATOR, "labels", repr(theirs), workspace)
    with service.redis.pipeline() as pipeline:
        for one in events:
            for dimension, period, metric in itertools.product(keys.LIVE_DIMENSIONS, periods, keys.LIVE_METRICS):
                live = keys.live(0, metric, dimension, period, one.workspace)
                pipeline.zincrby(live, one.credits_micro, _of(one, dimension))
            pipeline.hincrby(keys.inflight(0, "web-1"), keys.inflight_field(one.workspace, one.api_key), 1)
        pipeline.execute()


_PERIODS: tuple[keys.Period, ...] = get_args(keys.Period)


def _of(event: UsageEvent, dimension: str) -> str:
    return str(getattr(event, dimension))


def answer(service: SharedService, asker: Principal, asked: Asked) -> tuple[int, str]:
    response = service.http.request(
        asked.method, asked.path, params=[*asked.parameters], json=asked.body, headers=service.headers(asker)
    )
    text = response.text
    if response.is_error:  # each has an id of its own
        text = re.sub(r'"request_id":"[^"]*"', "", text)
    return response.status_code, text


def changes(before: str, after: str) -> list[str]:
    """The lines that are not in both, for a page is too long to be read as a whole."""
    if before == after:
        return []
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"] or ["endings"]


@pytest.mark.timeout(120 + 10 * EXAMPLES)  # seconds: an example takes four
@given(st.data())
@PROFILE
def test_an_answer_does_not_depend_on_what_others_have(service: SharedService, data: st.DataObject) -> None:
    world = data.draw(worlds())
    asked = data.draw(questions(world))
    clear(service)
    record(service, world.visible)
    before = [answer(service, world.asker, one) for one in asked]

    record(service, world.hidden)

    for one, expected in zip(asked, before, strict=True):
        found = answer(service, world.asker, one)
        assert found[0] < 500, (one, found)
        if one.steady:
            assert (found[0], changes(expected[1], found[1])) == (expected[0], []), one
        # The audit log holds the asker's own questions for files.
        question = repr(asked) if "audit" in one.path else f"{one.path} {one.parameters} {one.body}"
        assert [secret for secret in world.secrets() if secret in found[1] and secret not in question] == [], one


@given(st.data())
@settings(PROFILE, max_examples=1)
def test_everything_that_can_be_asked_is_asked_there(service: SharedService, data: st.DataObject) -> None:
    asked = {
        re.sub(r"/(requests|dimensions|labels)/[^/]+?(\.csv)?$", r"/\1/{}\2", one.path)
        for one in data.draw(_any_questions)
    }

    documented = {re.sub(r"\{.*\}", "{}", path) for path in service.app.openapi()["paths"].keys() - WITHOUT_CALLS}
    assert documented - STREAMS <= asked


_any_questions = worlds().flatmap(questions)


def test_what_is_the_askers_own_does_appear(service: SharedService) -> None:
    """Answers that are empty would be equal too."""
    now = datetime.now(UTC)
    mine = {name: f"{name}-{secret(1)}" for name in LABELLED if name not in ("user", "group")}
    clear(service)
    record(
        service, [call(now, groups=(f"group-{secret(1)}",), attributes={"tier": secret(1)}, request_id="r1", **mine)]
    )

    by_voice = [("breakdown", "voice")]
    stats = [("start_unix", "1767225600"), ("end_unix", str(int(now.timestamp()) + 100)), ("breakdown_type", "voice")]
    since = {"start_time": 1767225600000, "end_time": int(now.timestamp() * 1000) + 100_000}
    daily = {"interval_seconds": 86_400, "group_by": ["voice_id"]}
    for asker in (ALICE, ADMIN):
        for asked in (
            Asked("GET", "/v1/usage", by_voice),
            Asked("GET", "/v1/usage.csv", by_voice),
            Asked("GET", "/v1/requests"),
            Asked("GET", "/v1/requests.csv"),
            Asked("GET", "/v1/requests/r1"),
            Asked("GET", "/v1/dimensions/attribute.tier"),
            Asked("GET", "/v1/labels/voice"),
            Asked("GET", "/v1/usage/character-stats", stats),
            Asked("POST", f"{_ANALYTICS}/query/usage-by-product-over-time", body=since | daily),
            Asked("POST", f"{_ANALYTICS}/requests", body=since),
            Asked("GET", "/v1/workspace/groups"),
            Asked("GET", "/v1/workspace/groups/search", [("name", f"group-{secret(1)}")]),
            Asked("GET", "/usage", by_voice),
        ):
            status, text = answer(service, asker, asked)
            assert (status, secret(1) in text) == (200, True), (asked, text)
        for path in ("/v1/workspace/members", "/v1/live", "/v1/user", "/v1/limits"):
            assert "alice" in answer(service, asker, Asked("GET", path))[1]


@pytest.mark.parametrize("asker", [ALICE, ADMIN], ids=["member", "admin"])
@pytest.mark.parametrize(
    "attack", [{}, {"user": ["bob", "alice"]}, {"not.user": ["root"]}, {"q": ["xq"]}, {"kind": ["webhook", "request"]}]
)
def test_the_tail_shows_nobody_elses_calls(
    service: SharedService, asker: Principal, attack: dict[str, list[str]]
) -> None:
    clear(service)
    now = datetime.fromtimestamp(service.moment - 1, UTC)
    others = [call(now, workspace="globex", user=user, request_id="xq") for user in ("alice", "bob", "root", "")]
    bobs, own = call(now, user="bob", request_id="xq-bobs"), call(now, request_id="xq-own")
    expected = ["xq-own"] if asker is ALICE else ["xq-bobs", "xq-own"]
    parameters = attack | ({"scope": ["workspace"]} if asker is ADMIN else {})

    with listening(service) as address, httpx.Client(headers=service.headers(asker), timeout=20) as client:
        with client.stream("GET", f"{address}/v1/requests/stream", params=parameters) as response:
            lines = response.iter_lines()
            assert next(lines) == ": tail"
            for batch in (others, [bobs], [own]):  # what comes last is the asker's, so that all else were there before
                service.store.insert(batch)
            events = (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
            seen = [one["request_id"] for one in itertools.islice(events, len(expected))]
        with client.stream("GET", f"{address}/v1/live/stream") as response:
            first = next(line for line in response.iter_lines() if line.startswith("data: "))

    assert seen == expected
    assert json.loads(first.removeprefix("data: "))["last_minute"]["requests"] == len(expected)
