"""ElevenLabs' SDK, unmodified, sync and async, over a real server: every answer beside `/v1/usage` and plain Python."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import httpx
import pytest
from elevenlabs import AsyncElevenLabs, ElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.errors import UnprocessableEntityError
from elevenlabs.types import BreakdownTypes, ColumnFilter, ColumnFilterOperation, MetricType, UsageAggregationInterval
from elevenlabs.workspace.usage.types import (
    BodyGetWorkspaceUsageV1WorkspaceAnalyticsQueryUsageByProductOverTimePostGroupByItem as GroupBy,
)

from aggregator.buckets import from_us, to_us
from aggregator.elevenlabs.accounts import known_query
from aggregator.query import Audience, Statement
from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator import oracle
from tests.aggregator.events import call, us
from tests.aggregator.oracle import Condition, Question
from tests.aggregator.service import TestedService, listening
from tests.conftest import RedisServer
from usage_meter.event import MICRO, UsageEvent

ALICE = Principal("member", "acme", "alice")
ADMIN = Principal("admin", "acme", "root")
OPERATOR = Principal("operator")

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
END = START + timedelta(days=14)
ACME = Condition("workspace", ("acme",))

# What of theirs has a meaning here, and which; everything else of their enumerations must be refused.
BREAKDOWNS = {
    "none": (), "voice": ("voice",), "user": ("user",), "groups": ("group",), "api_keys": ("api_key",),
    "all_api_keys": ("api_key",), "product_type": ("product",), "model": ("model",), "region": ("region",),
    "request_source": ("source",),
}  # fmt: skip
METRICS = {
    "credits": "credits", "tts_characters": "quantity.characters", "minutes_used": "quantity.audio_seconds",
    "request_count": "requests", "ttfb_avg": "ttfb_avg", "ttfb_p95": "ttfb_p95", "concurrency": "concurrency",
    "concurrency_average": "concurrency_average",
}  # fmt: skip
COLUMNS = {
    "product_type": "product", "model": "model", "voice_id": "voice", "user_id": "user", "region": "region",
    "request_source": "source", "hashed_xi_api_key": "api_key",
}  # fmt: skip


def their(enumeration: Any) -> list[str]:
    """The values of one of the SDK's enumerations, which are open: a union of literals and anything."""
    return [value for one in get_args(enumeration) for value in get_args(one)]


def calls(seed: int, count: int) -> list[UsageEvent]:
    """Calls of two workspaces over two weeks, some with much of what a call can say and some with little."""
    pick = random.Random(seed)
    found = []
    for i in range(count):
        moment = START + timedelta(microseconds=pick.randrange(14 * DAY_US))
        duration_us = pick.choice((0, 250_000, 1_234_567, 40_000_000, 3 * HOUR_US))
        found.append(
            call(
                moment,
                Decimal(pick.randrange(-1000, 10**7)) / pick.choice((1, 1000, MICRO)),
                workspace=pick.choice(("acme", "acme", "acme", "globex")),
                user=pick.choice(("alice", "alice", "bob", "carol", "")),
                groups=tuple(pick.sample(("staff", "beta", "leads"), pick.randrange(3))),
                api_key=pick.choice(("", "k1", "k2", "k3")),
                product=pick.choice(("text_to_speech", "speech_to_text", "")),
                voice=pick.choice(("en", "de", "")),
                model=pick.choice(("v2", "flash")),
                region=pick.choice(("", "eu", "us")),
                source=pick.choice(("", "api", "website")),
                status=(status := pick.choice((200, 200, 200, 404, 500))),
                outcome="ok" if status == 200 else "client_error" if status == 404 else "server_error",
                error="" if status == 200 else f"e{status}",
                duration_us=duration_us,
                ttfb_us=pick.choice((None, pick.randrange(duration_us + 1))),
                quantities=pick.choice(({}, {"characters": 40.0, "audio_seconds": pick.randrange(1, 400) / 4})),
                request_id=pick.choice(("", f"req-{i}")),
                trace_id=f"trace-{i % 7}",
                kind=pick.choice(("request", "request", "request", "webhook")),
            )
        )
    return found


CALLS = calls(seed=7, count=240)


@dataclass
class Served:
    """A running service, and its clients."""

    service: TestedService
    base_url: str
    pool: httpx.Client
    async_pool: httpx.AsyncClient
    runner: asyncio.Runner
    is_filled: bool = False

    def sdk(self, principal: Principal) -> ElevenLabs:
        return ElevenLabs(base_url=self.base_url, api_key=self._token(principal), httpx_client=self.pool)

    def async_sdk(self, principal: Principal) -> AsyncElevenLabs:
        return AsyncElevenLabs(base_url=self.base_url, api_key=self._token(principal), httpx_client=self.async_pool)

    def ask(self, principal: Principal, question: Callable[[Any], Any]) -> Any:
        """The answer that the sync and the async client both give."""
        answer = question(self.sdk(principal))
        assert self.runner.run(question(self.async_sdk(principal))) == answer
        return answer

    def refusal(self, principal: Principal, question: Callable[[Any], Any]) -> ApiError:
        """The error that both raise."""
        with pytest.raises(ApiError) as sync_error:
            question(self.sdk(principal))
        with pytest.raises(ApiError) as async_error:
            self.runner.run(question(self.async_sdk(principal)))
        assert type(sync_error.value) is type(async_error.value)
        assert sync_error.value.status_code == async_error.value.status_code
        return sync_error.value

    def clear(self) -> None:
        self.is_filled = False
        for table in ("events", "labels", "limits"):
            self.service.store.select(Statement(f"TRUNCATE TABLE {table}", {}))

    def _token(self, principal: Principal) -> str:
        return self.service.tokens.make(principal, days=1)


@pytest.fixture(scope="module")
def server(engine: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    redis_server = RedisServer(tmp_path_factory.mktemp("redis"))
    redis_server.start()
    with redis_server.client() as client:
        service = TestedService(engine, client)
        with listening(service) as address, httpx.Client() as pool, asyncio.Runner() as runner:
            async_pool = httpx.AsyncClient()
            yield Served(service, address, pool, async_pool, runner)
            runner.run(async_pool.aclose())
    redis_server.kill()


@pytest.fixture
def empty(server: Served) -> Served:
    """Without a call, a label or a limit."""
    server.clear()
    return server


@pytest.fixture
def filled(server: Served) -> Served:
    """With CALLS, and nothing else."""
    if not server.is_filled:
        server.clear()
        server.service.store.insert(CALLS)
        server.is_filled = True
    return server


def ms(moment: datetime) -> int:
    return us(moment) // 1000


FORTNIGHT = {"start_unix": ms(START), "end_unix": ms(END)}
END_OF_WEEK = START + timedelta(days=7)
WEEK = {"start_unix": ms(START), "end_unix": ms(END_OF_WEEK)}  # the longest of which any concurrency is known


def label(key: Iterable[str]) -> str:
    return " · ".join(value or "(none)" for value in key) or "All"


def expected_stats(question: Question, metric: str) -> dict[str, list[oracle.Expected]]:
    found = oracle.answer(CALLS, question).series
    per_minute = metric == "minutes_used"
    return {
        label(key): [_their_number(value, per_minute) for value in values] for (_, key), (values, _) in found.items()
    }


def _their_number(value: oracle.Expected, per_minute: bool) -> oracle.Expected:
    if value is None:
        return 0
    if per_minute:
        assert isinstance(value, oracle.Float)
        return oracle.Float(value.number / 60)
    return value if isinstance(value, oracle.Float | oracle.Quantile) else oracle.Float(float(value))


@pytest.mark.parametrize("breakdown", BREAKDOWNS)
def test_character_stats_by_every_breakdown_and_metric(filled: Served, breakdown: str) -> None:
    dimensions = BREAKDOWNS[breakdown]
    ours = filled.service.get(
        "/v1/usage",
        ADMIN,
        start=START,
        end=END_OF_WEEK,
        metric=list(METRICS.values()),
        breakdown=dimensions,
        scope="workspace",
    )

    for metric, name in METRICS.items():
        arguments: dict[str, Any] = {"include_workspace_metrics": True, "breakdown_type": breakdown, "metric": metric}
        answer = filled.ask(ADMIN, lambda sdk, more=arguments: sdk.usage.get(**WEEK, **more))  # type: ignore[misc]

        question = Question(
            us(START), us(END_OF_WEEK), metrics=(name,), breakdown=dimensions, conditions=(ACME,), top=99
        )
        assert answer.time == [ms(START + timedelta(days=i)) for i in range(7)]
        assert answer.usage == expected_stats(question, metric)
        share = 60 if metric == "minutes_used" else 1
        assert {label: pytest.approx(values) for label, values in answer.usage.items()} == {
            one["label"]: [(value or 0) / share for value in one["values"]]
            for one in ours["series"]
            if one["metric"] == name
        }


@pytest.mark.parametrize("metric", METRICS)
def test_calls_with_and_without_an_api_key_are_two_series(filled: Served, metric: str) -> None:
    answer = filled.ask(ALICE, lambda sdk: sdk.usage.get(**WEEK, breakdown_type="has_api_key", metric=metric))

    own = (ACME, Condition("user", ("alice",)))
    assert answer.usage.keys() == {"true", "false"}
    for one, negated in (("true", True), ("false", False)):
        conditions = (*own, Condition("api_key", ("",), negated))
        question = Question(us(START), us(END_OF_WEEK), metrics=(METRICS[metric],), conditions=conditions)
        assert {"All": answer.usage[one]} == expected_stats(question, metric)


@pytest.mark.parametrize("breakdown", sorted({*their(BreakdownTypes)} - BREAKDOWNS.keys() - {"has_api_key"}))
def test_a_breakdown_without_a_meaning_here_is_refused(filled: Served, breakdown: str) -> None:
    error = filled.refusal(
        ADMIN, lambda sdk: sdk.usage.get(**FORTNIGHT, include_workspace_metrics=True, breakdown_type=breakdown)
    )

    assert isinstance(error, UnprocessableEntityError)
    (fault,) = error.body["detail"]
    assert fault["loc"] == ["query", "breakdown_type"]
    if breakdown == "reporting_workspace_id":
        assert "must be one of voice, product" in fault["msg"]
    else:
        assert f"take 'attribute.{breakdown}'" in fault["msg"]


def test_every_metric_of_theirs_is_answered_but_money(filled: Served) -> None:
    assert {*their(MetricType)} - METRICS.keys() == {"fiat_units_spent"}

    error = filled.refusal(ADMIN, lambda sdk: sdk.usage.get(**FORTNIGHT, metric="fiat_units_spent"))

    (fault,) = error.body["detail"]
    assert (fault["loc"], "quantity.NAME" in fault["msg"]) == (["query", "metric"], True)


@pytest.mark.parametrize("interval", their(UsageAggregationInterval))
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_every_interval(filled: Served, interval: str, zone: str) -> None:
    start, end = START + timedelta(hours=7, minutes=3), END - timedelta(hours=1)
    more = {"additional_query_parameters": {"tz": zone, "not.voice": "de"}} if zone != "UTC" else {}
    answer = filled.ask(
        ADMIN,
        lambda sdk: sdk.usage.get(
            start_unix=ms(start),
            end_unix=ms(end),
            include_workspace_metrics=True,
            breakdown_type="groups",
            aggregation_interval=interval,
            request_options=more,
        ),
    )

    question = Question(
        us(start), us(end), zone, "day" if interval == "cumulative" else interval, breakdown=("group",), top=99,
        conditions=(ACME, *([Condition("voice", ("de",), negated=True)] if more else [])),
        cumulative=interval == "cumulative",
    )  # fmt: skip
    assert answer.time == [bound // 1000 for bound in oracle.answer(CALLS, question).bounds]
    assert answer.usage == expected_stats(question, "credits")


def in_buckets(those: Iterable[UsageEvent], bounds: list[int], end_us: int) -> list[list[UsageEvent]]:
    those = list(those)
    return [[one for one in those if a <= one.started_us < b] for a, b in itertools.pairwise([*bounds, end_us])]


def credits(those: Iterable[UsageEvent]) -> Decimal:
    return Decimal(sum(one.credits_micro for one in those)) / MICRO


@pytest.mark.parametrize(
    ("seconds", "hours"),
    [(60, 1 / 60), (900, 0.25), (3600, 1), (4 * 3600, 4), (86_400, 24), (604_800, 168), (2 * 86_400, 48)],
)
def test_a_bucket_size_overrides_the_interval(filled: Served, seconds: int, hours: float) -> None:
    end = START + timedelta(days=14 if seconds > 60 else 1)
    answer = filled.ask(
        ADMIN,
        lambda sdk: sdk.usage.get(
            start_unix=ms(START), end_unix=ms(end), include_workspace_metrics=True,
            aggregation_interval="cumulative", aggregation_bucket_size=seconds,
        ),
    )  # fmt: skip

    # The 2nd of March is a Monday, and the 20,514th day: an even one.
    assert answer.time == [ms(START) + i * seconds * 1000 for i in range(len(answer.time))]
    assert len(answer.time) == (end - START) / timedelta(hours=hours)
    acme = (one for one in CALLS if one.workspace == "acme" and one.kind == "request")
    buckets = in_buckets(acme, [moment * 1000 for moment in answer.time], us(end))
    assert answer.usage == {"All": [pytest.approx(float(credits(those))) for those in buckets]}


def test_names_of_ours_may_be_asked_for(filled: Served) -> None:
    answer = filled.ask(ALICE, lambda sdk: sdk.usage.get(**FORTNIGHT, breakdown_type="outcome", metric="success_rate"))

    own = (ACME, Condition("user", ("alice",)))
    question = Question(us(START), us(END), metrics=("success_rate",), breakdown=("outcome",), conditions=own)
    assert answer.usage == expected_stats(question, "success_rate")
    assert answer.usage.keys() == {"ok", "client_error", "server_error"}


def test_a_days_end_as_their_users_write_it_leaves_no_gap(empty: Served) -> None:
    empty.service.store.insert([call(END - timedelta(microseconds=1)), call(END)])

    def total(start: datetime, end_unix: int) -> float:
        found = empty.ask(ALICE, lambda sdk: sdk.usage.get(start_unix=ms(start), end_unix=end_unix))
        return float(sum(found.usage["All"]))

    assert total(END - timedelta(days=1), ms(END) - 1000) == 1
    assert total(END - timedelta(days=1), ms(END) - 1) == 1
    assert total(END - timedelta(days=1), ms(END)) == 1
    assert total(END, ms(END) + 86_399_000) == 1


def test_guides_that_pass_seconds_are_understood(filled: Served) -> None:
    in_seconds = {name: value // 1000 for name, value in FORTNIGHT.items()}

    answer = filled.ask(ALICE, lambda sdk: sdk.usage.get(**in_seconds))

    assert answer == filled.ask(ALICE, lambda sdk: sdk.usage.get(**FORTNIGHT))
    assert any(answer.usage["All"])


def test_series_with_one_name_stay_apart(empty: Served) -> None:
    empty.service.store.insert([call(voice="v1", credits=5), call(voice="v2", credits=3), call(voice="", credits=1)])
    empty.service.http.put(
        "/v1/labels/voice", json={"v1": "Ada", "v2": "Ada"}, headers=empty.service.headers(ADMIN)
    ).raise_for_status()

    answer = empty.ask(
        ALICE, lambda sdk: sdk.usage.get(**FORTNIGHT, breakdown_type="voice", aggregation_bucket_size=14 * 86_400)
    )

    assert {name: sum(values) for name, values in answer.usage.items()} == {"Ada": 5, "Ada (v2)": 3, "(none)": 1}


@pytest.mark.parametrize(
    ("arguments", "parameter", "hint"),
    [
        ({"end_unix": 1}, "end_unix", "is not after start"),
        ({"start_unix": -1}, "start_unix", "must be a whole number from 0"),
        ({"end_unix": 253402300799000}, "end_unix", "must be a whole number from 0"),
        ({"breakdown_type": "user"}, "breakdown_type", "unless include_workspace_metrics is true"),
        ({"breakdown_type": "all_api_keys"}, "breakdown_type", "unless include_workspace_metrics is true"),
        ({"breakdown_type": "colour"}, "breakdown_type", "must be one of none, voice, user"),
        ({"metric": "characters"}, "metric", "must be one of credits, request_count"),
        ({"aggregation_interval": "fortnight"}, "aggregation_interval", "must be one of hour, day"),
        ({"aggregation_interval": "cumulative", "metric": "ttfb_avg"}, "aggregation_interval", "does not add up"),
        ({"aggregation_bucket_size": 0}, "aggregation_bucket_size", "must be a whole number from 1"),
        ({"aggregation_bucket_size": 1}, "aggregation_bucket_size", "more than 50000 buckets"),
        ({"aggregation_interval": "minute", "start_unix": 1577836800000}, "aggregation_interval", "50000 buckets"),
        ({"include_workspace_metrics": "maybe"}, "include_workspace_metrics", "must be true or false"),
        ({"request_options": {"additional_query_parameters": {"voise": "x"}}}, "voise", "is not a parameter"),
        ({"request_options": {"additional_query_parameters": {"start": "x"}}}, "start", "is not a parameter"),
        ({"request_options": {"additional_query_parameters": {"tz": "Mars"}}}, "tz", "must be an IANA name"),
        ({"request_options": {"additional_query_parameters": {"workspace": "x"}}}, "workspace", "is not a parameter"),
    ],
)
def test_a_bad_question_of_character_stats_says_what_would_be_right(
    filled: Served, arguments: dict[str, Any], parameter: str, hint: str
) -> None:
    error = filled.refusal(ADMIN, lambda sdk: sdk.usage.get(**(FORTNIGHT | arguments)))

    assert isinstance(error, UnprocessableEntityError)
    (fault,) = error.body["detail"]
    assert fault["loc"] == ["query", parameter]
    assert hint in fault["msg"]


def test_what_is_missing_is_named_as_theirs_is(filled: Served) -> None:
    response = filled.service.http.get("/v1/usage/character-stats", headers=filled.service.headers(ADMIN))

    assert response.json()["detail"] == [
        {"loc": ["query", "start_unix"], "msg": "Field required", "type": "missing"},
        {"loc": ["query", "end_unix"], "msg": "Field required", "type": "missing"},
    ]


@pytest.mark.parametrize(
    "question",
    [
        lambda sdk: sdk.usage.get(**FORTNIGHT),
        lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(start_time=ms(START), end_time=ms(END)),
        lambda sdk: sdk.workspace.analytics.requests.get(end_time=ms(END)),
        lambda sdk: sdk.workspace.groups.list(),
        lambda sdk: sdk.workspace.groups.search(name="staff"),
        lambda sdk: sdk.workspace.members.list(),
        lambda sdk: sdk.user.get(),
        lambda sdk: sdk.user.subscription.get(),
    ],
)
def test_without_a_valid_token_every_call_raises_their_error(
    filled: Served, question: Callable[[ElevenLabs], object]
) -> None:
    for key, code in ((None, "missing_api_key"), ("sk_nonsense", "invalid_api_key")):
        with pytest.raises(ApiError) as error:
            question(ElevenLabs(base_url=filled.base_url, api_key=key, httpx_client=filled.pool))
        assert (error.value.status_code, error.value.body["detail"]["code"]) == (401, code)
        assert error.value.body["detail"]["status"] == code
    refusal = filled.refusal(Principal("ingest", "acme"), question)
    assert (refusal.status_code, refusal.body["detail"]["type"]) == (403, "authorization_error")


def test_a_member_may_not_ask_for_the_workspace(filled: Served) -> None:
    error = filled.refusal(ALICE, lambda sdk: sdk.usage.get(**FORTNIGHT, include_workspace_metrics=True))

    assert (error.status_code, error.body["detail"]["code"]) == (403, "insufficient_permissions")


# The tables.

THEIR_MEASURES = ["usage_count", "total_minutes", "total_cost", "total_usage"]


def table(answer: Any) -> list[dict[str, Any]]:
    """The rows by column; their widths and types checked on the way, and that JavaScript's SDK would take them."""
    types = {"String": str, "Float": int | float, "Int": int, "DateTime": str, "Bool": bool}
    assert len(answer.columns) == len(answer.column_types) == len(answer.column_units)
    for row in answer.rows:
        for cell, type_name in zip(row, answer.column_types, strict=True):
            assert cell is None or isinstance(cell, types[type_name])
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def iso(moment_us: int) -> str:
    return (oracle.EPOCH + timedelta(microseconds=moment_us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def expected_rows(
    those: Iterable[UsageEvent], bounds: list[int], end_us: int, columns: Iterable[str]
) -> dict[tuple[str | None, ...], tuple[int, float, float]]:
    """By timestamp and group: calls, credits and minutes."""
    columns = list(columns)
    found: dict[tuple[str | None, ...], tuple[int, Decimal, float]] = {}
    for bound, bucket in zip(bounds, in_buckets(those, bounds, end_us), strict=True):
        for one in bucket:
            values = [oracle.values(one, COLUMNS.get(column, column)) for column in columns]
            for group in itertools.product(*values):
                key = (iso(bound), *(value or None for value in group))
                count, paid, minutes = found.get(key, (0, Decimal(0), 0.0))
                seconds = one.quantities.get("audio_seconds", 0)
                found[key] = (count + 1, paid + Decimal(one.credits_micro) / MICRO, minutes + seconds / 60)
    return {key: (count, float(paid), minutes) for key, (count, paid, minutes) in found.items()}


def rows_of(answer: Any, columns: Iterable[str]) -> dict[tuple[str | None, ...], tuple[int, Any, Any]]:
    return {
        (row["timestamp"], *(row[column] for column in columns)): (
            row["usage_count"],
            row["total_usage"],
            pytest.approx(row["total_minutes"]),
        )
        for row in table(answer)
    }


ACME_CALLS = [one for one in CALLS if one.workspace == "acme" and one.kind == "request"]
DAYS = [us(START) + i * DAY_US for i in range(14)]
BY_DAY: dict[str, Any] = {"start_time": ms(START), "end_time": ms(END), "interval_seconds": 86_400}


@pytest.mark.parametrize(
    "columns",
    [*([name] for name in COLUMNS), [], ["group"], ["outcome", "status"], ["voice_id", "user_id", "model", "region"]],
)  # fmt: skip
def test_usage_by_product_over_time_by_every_grouping(filled: Served, columns: list[str]) -> None:
    answer = filled.ask(
        ADMIN, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=columns)
    )

    assert answer.columns[: 5 + len(columns)] == ["timestamp", *columns, *THEIR_MEASURES]
    expected_labels = {"user_id": "user_label", "voice_id": "voice_name", "hashed_xi_api_key": "api_key_name"}
    assert answer.columns[5 + len(columns) :] == [expected_labels[one] for one in columns if one in expected_labels]
    assert answer.column_units[1 + len(columns) :][:4] == [None, "min", None, "credits"]
    assert {row["total_cost"] for row in table(answer)} == {None}
    assert rows_of(answer, columns) == expected_rows(ACME_CALLS, DAYS, us(END), columns)
    if len(columns) in (1, 2):
        breakdown = [COLUMNS.get(one, one) for one in columns]
        ours = filled.service.get(
            "/v1/usage", ADMIN, start=START, end=END, breakdown=breakdown, scope="workspace", top=1000
        )["series"]
        summed: dict[tuple[str, ...], float] = {}
        for row in table(answer):
            key = tuple(row[one] or "" for one in columns)
            summed[key] = summed.get(key, 0) + row["total_usage"]
        assert summed == {tuple(one["key"].values()): pytest.approx(one["total"]) for one in ours}


def test_without_a_grouping_it_is_by_product_and_by_the_minute_and_null_is_as_if_left_out(filled: Served) -> None:
    end = START + timedelta(days=30)
    asked = {"start_time": ms(START), "end_time": ms(end)}
    nothing = dict.fromkeys(("interval_seconds", "group_by", "filters", "time_zone"))

    answer = filled.ask(ADMIN, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**asked))

    minutes = [us(START) + i * 60_000_000 for i in range(30 * 1440)]
    assert rows_of(answer, ["product_type"]) == expected_rows(ACME_CALLS, minutes, us(end), ["product_type"])
    assert answer == filled.ask(
        ADMIN, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**asked, **nothing)
    )


@pytest.mark.parametrize("column", sorted({*their(GroupBy)} - COLUMNS.keys()))
def test_a_grouping_without_a_meaning_here_is_refused(filled: Served, column: str) -> None:
    error = filled.refusal(
        ADMIN, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=["model", column])
    )

    assert isinstance(error, UnprocessableEntityError)
    (fault,) = error.body["detail"]
    assert fault["loc"] == ["body", "group_by", 1]
    assert "take " in fault["msg"] or column == "reporting_workspace_id"


def test_an_operator_sees_workspaces_beside_each_other(filled: Served) -> None:
    answer = filled.ask(
        OPERATOR,
        lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=["reporting_workspace_id"]),
    )
    stats = filled.ask(
        OPERATOR,
        lambda sdk: sdk.usage.get(
            **FORTNIGHT, include_workspace_metrics=True, breakdown_type="reporting_workspace_id", metric="request_count"
        ),
    )

    counts = {
        name: sum(one.workspace == name and one.kind == "request" for one in CALLS) for name in ("acme", "globex")
    }
    assert {name: sum(values) for name, values in stats.usage.items()} == counts
    assert sum(row["usage_count"] for row in table(answer)) == sum(counts.values())


@pytest.mark.parametrize(
    ("seconds", "zone", "expected"),
    [
        (604_800, "Europe/Berlin", ["2026-03-02T00:00:00Z", "2026-03-08T23:00:00Z", "2026-03-15T23:00:00Z"]),
        (86_400, "Asia/Kathmandu", [f"2026-03-{day:02}T18:15:00Z" for day in range(2, 16)]),
        (6 * 3600, "Asia/Kathmandu", [f"2026-03-{d:02}T{h:02}:15:00Z" for d in range(2, 16) for h in (0, 6, 12, 18)]),
        (3600, "Asia/Kathmandu", [f"2026-03-{d:02}T{h:02}:15:00Z" for d in range(2, 16) for h in range(24)]),
        # Sizes that are no whole hour count from 1970 in UTC, whatever the zone.
        (1800, "Asia/Kathmandu", [iso(us(START) + i * HOUR_US // 2) for i in range(14 * 48)]),
    ],
)  # fmt: skip
def test_buckets_are_aligned_as_their_documentation_says(
    filled: Served, seconds: int, zone: str, expected: list[str]
) -> None:
    answer = filled.ask(
        ADMIN,
        lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(
            start_time=ms(START), end_time=ms(END), interval_seconds=seconds, group_by=[], time_zone=zone
        ),
    )

    starts = sorted({iso(us(START)), *expected})
    bounds = [us(datetime.fromisoformat(one)) for one in starts]
    assert rows_of(answer, []) == expected_rows(ACME_CALLS, bounds, us(END), [])


def in_ms(duration_us: int) -> int:
    return (duration_us + 500) // 1000


Held = Callable[[UsageEvent], bool]
FILTERS: list[tuple[str, str, list[Any], Held]] = [
    ("voice_id", "eq", ["en"], lambda one: one.voice == "en"),
    ("voice_id", "neq", ["en"], lambda one: one.voice != "en"),
    ("voice_id", "in", ["en", None], lambda one: one.voice in ("en", "")),
    ("voice_id", "not_in", ["en", None], lambda one: one.voice not in ("en", "")),
    ("voice_id", "lt", ["en"], lambda one: one.voice < "en"),
    ("voice_id", "le", ["en"], lambda one: one.voice <= "en"),
    ("voice_id", "gt", ["de"], lambda one: one.voice > "de"),
    ("voice_id", "ge", ["de"], lambda one: one.voice >= "de"),
    ("hashed_xi_api_key", "eq", [None], lambda one: one.api_key == ""),
    ("product_type", "in", ["text_to_speech"], lambda one: one.product == "text_to_speech"),
    ("group", "in", ["staff"], lambda one: "staff" in one.groups),
    ("status", "in", ["4xx"], lambda one: one.status == 404),
    ("status_code", "eq", [404], lambda one: one.status == 404),
    ("status_code", "neq", ["404"], lambda one: one.status != 404),
    ("status_code", "ge", [404], lambda one: one.status >= 404),
    ("success", "eq", [True], lambda one: one.outcome == "ok"),
    ("success", "not_in", [True], lambda one: one.outcome != "ok"),
    ("response_time_ms", "in", [1235, 250], lambda one: in_ms(one.duration_us) in (1235, 250)),
    ("response_time_ms", "lt", [1234.5], lambda one: in_ms(one.duration_us) < 1234.5),
    ("response_time_ms", "ge", [1234.5], lambda one: in_ms(one.duration_us) >= 1234.5),
    ("response_time_ms", "gt", [10**30], lambda one: False),
    ("ttfb_ms", "eq", [None], lambda one: one.ttfb_us is None),
    ("ttfb_ms", "not_in", [None, 0], lambda one: one.ttfb_us is not None and in_ms(one.ttfb_us) != 0),
    ("ttfb_ms", "neq", [0], lambda one: one.ttfb_us is None or in_ms(one.ttfb_us) != 0),
    ("ttfb_ms", "le", [1000], lambda one: one.ttfb_us is not None and in_ms(one.ttfb_us) <= 1000),
    ("credits", "gt", [Decimal("1000.0000001")], lambda one: one.credits_micro > 1000 * MICRO),
    ("credits", "ge", [Decimal("1e-12")], lambda one: one.credits_micro > 0),
    ("credits", "le", ["-0.5"], lambda one: one.credits_micro <= -MICRO // 2),
    ("credits", "eq", [1e-30], lambda one: False),
    ("timestamp", "lt", [START + timedelta(days=3)], lambda one: one.started_us < us(START) + 3 * DAY_US),
    ("timestamp", "ge", [ms(START) + 3 * 86_400_000], lambda one: one.started_us >= us(START) + 3 * DAY_US),
    ("error_code", "in", ["e404"], lambda one: one.error == "e404"),
    ("endpoint", "eq", ["/v1/text-to-speech/{voice_id}"], lambda one: True),
    ("path", "gt", ["/v1/z"], lambda one: False),
    ("trace_id", "eq", ["trace-3"], lambda one: one.trace_id == "trace-3"),
    ("request_id", "ge", ["req-2"], lambda one: one.request_id >= "req-2"),
    ("attribute.tier", "eq", [None], lambda one: True),
]  # fmt: skip


def jsonable(values: list[Any]) -> list[Any]:
    return [float(value) if isinstance(value, Decimal) else value for value in values]


def test_every_operation_of_theirs_is_tried() -> None:
    assert {operation for _, operation, _, _ in FILTERS} == {*their(ColumnFilterOperation)}


@pytest.mark.parametrize(
    ("column", "operation", "values", "holds"), FILTERS, ids=[f"{one[0]}-{one[1]}-{one[2]}" for one in FILTERS]
)
def test_filters_of_both_tables(filled: Served, column: str, operation: str, values: list[Any], holds: Held) -> None:
    filters = [ColumnFilter(column=column, operation=operation, values=jsonable(values))]
    if column == "request_id":  # a call without one is known by its event's id
        filters.append(ColumnFilter(column="request_id", operation="lt", values=["req-9"]))

    usage = filled.sdk(ADMIN).workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=[], filters=filters)
    log = filled.sdk(ADMIN).workspace.analytics.requests.get(start_time=ms(START), limit=1000, filters=filters)

    expected = [one for one in ACME_CALLS if holds(one)]
    if column == "request_id":
        expected = [one for one in expected if one.request_id < "req-9"]
    assert rows_of(usage, []) == expected_rows(expected, DAYS, us(END), [])
    assert sorted(row["trace_id"] for row in table(log)) == sorted(one.trace_id for one in expected)


def test_filters_must_all_hold(filled: Served) -> None:
    filters = [
        ColumnFilter(column="voice_id", operation="in", values=["en", "de"]),
        ColumnFilter(column="voice_id", operation="neq", values=["de"]),
        ColumnFilter(column="kind", operation="in", values=["request", "webhook"]),
    ]

    answer = filled.ask(
        ADMIN,
        lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=["user_id"], filters=filters),
    )

    expected = [one for one in CALLS if one.workspace == "acme" and one.voice == "en"]
    assert rows_of(answer, ["user_id"]) == expected_rows(expected, DAYS, us(END), ["user_id"])


def _one_filter(column: str, operation: str, *values: Any) -> dict[str, Any]:
    return {"filters": [{"column": column, "operation": operation, "values": list(values)}]}


@pytest.mark.parametrize(
    ("arguments", "location", "hint"),
    [
        ({"start_time": 1}, ["start_time"], "greater than or equal to 1577836800000"),
        ({"end_time": ms(START)}, ["end_time"], "is not after start_time"),
        ({"end_time": 10**15}, ["end_time"], "less than or equal to"),
        ({"interval_seconds": 0}, ["interval_seconds"], "greater than or equal to 1"),
        ({"interval_seconds": 1}, ["interval_seconds"], "more than 50000 buckets"),
        ({"time_zone": "Mars/Olympus"}, ["time_zone"], "must be an IANA name"),
        ({"group_by": ["colour"]}, ["group_by", 0], "must be one of product_type"),
        ({"group_by": ["voice_id", "voice"]}, ["group_by", 1], "grouped by already"),
        ({"group_by": "voice_id"}, ["group_by"], "valid array"),
        (_one_filter("voice_id", "like", "x"), ["filters", 0, "operation"], "should be 'in', 'not_in'"),
        (_one_filter("colour", "eq", "x"), ["filters", 0], "'colour' is unknown"),
        (_one_filter("voice_multiplier", "eq", 1), ["filters", 0], "take 'attribute.voice_multiplier'"),
        (_one_filter("voice_id", "eq", "x", "y"), ["filters", 0], "'eq' takes one"),
        (_one_filter("voice_id", "lt", None), ["filters", 0], "null has no order"),
        (_one_filter("voice_id", "eq", True), ["filters", 0], "must hold text"),
        (_one_filter("voice_id", "in"), ["filters", 0, "values"], "at least 1 item"),
        (_one_filter("group", "lt", "x"), ["filters", 0], "cannot put them in order"),
        (_one_filter("success", "eq", "yes"), ["filters", 0], "must be true or false"),
        (_one_filter("credits", "eq", True), ["filters", 0], "must be a number"),
        (_one_filter("credits", "eq", "many"), ["filters", 0], "is no number"),
        (_one_filter("timestamp", "lt", "noon"), ["filters", 0], "is no time"),
        (_one_filter("outcome", "eq", "fine"), ["filters", 0], "must be one of ok"),
        ({"request_options": {"additional_body_parameters": {"colour": 1}}}, ["colour"], "not permitted"),
    ],
)
def test_a_bad_question_of_the_table_says_what_would_be_right(
    filled: Served, arguments: dict[str, Any], location: list[str | int], hint: str
) -> None:
    error = filled.refusal(
        ADMIN, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**(BY_DAY | arguments))
    )

    assert isinstance(error, UnprocessableEntityError)
    (fault,) = error.body["detail"]
    assert fault["loc"] == ["body", *location]
    assert hint in fault["msg"]


def test_all_faults_of_a_body_are_named_at_once(filled: Served) -> None:
    body = {"group_by": ["colour"], **_one_filter("x", "like"), "end_time": "soon"}

    response = filled.service.http.post(
        "/v1/workspace/analytics/query/usage-by-product-over-time", json=body, headers=filled.service.headers(ADMIN)
    )

    assert response.status_code == 422
    assert {tuple(fault["loc"][1:]) for fault in response.json()["detail"]} == {
        ("start_time",), ("end_time",), ("filters", 0, "operation"), ("filters", 0, "values"),
    }  # fmt: skip


def test_the_request_log_has_what_a_call_says(empty: Served) -> None:
    full = call(
        START + timedelta(milliseconds=1234.567), "2.5", request_id="r1", groups=("staff",), api_key="k1", voice="en",
        product="tts", model="v2", region="eu", source="api", error="late", duration_us=120_500, ttfb_us=80_499,
        trace_id="t1", status=503, outcome="server_error",
    )  # fmt: skip
    bare = call(START, route="", user="", credits=0)
    empty.service.store.insert([full, bare])
    for dimension, names in (
        ("user", {"alice": "Alice A."}),
        ("voice", {"en": "Emma"}),
        ("api_key", {"k1": "website"}),
    ):
        empty.service.http.put(
            f"/v1/labels/{dimension}", json=names, headers=empty.service.headers(ADMIN)
        ).raise_for_status()

    answer = empty.ask(ADMIN, lambda sdk: sdk.workspace.analytics.requests.get(start_time=ms(START)))

    second, first = table(answer)[1], table(answer)[0]
    assert second == {
        "request_id": "r1", "timestamp": "2026-03-02T00:00:01.234Z", "method": "POST",
        "endpoint": "/v1/text-to-speech/{voice_id}", "path": "/v1/text-to-speech/en", "status_code": 503,
        "success": False, "response_time_ms": 121, "ttfb_ms": 80, "product_type": "tts", "model": "v2",
        "voice_id": "en", "user_id": "alice", "hashed_xi_api_key": "k1", "region": "eu", "request_source": "api",
        "credits": 2.5, "error_code": "late", "trace_id": "t1", "user_label": "Alice A.", "voice_name": "Emma",
        "api_key_name": "website",
    }  # fmt: skip
    assert first["endpoint"] == "/v1/text-to-speech/en"
    assert (first["credits"], first["ttfb_ms"], first["user_id"], first["user_label"]) == (0, None, None, None)
    units = dict(zip(answer.columns, answer.column_units, strict=True))
    assert {name: unit for name, unit in units.items() if unit} == {
        "response_time_ms": "ms", "ttfb_ms": "ms", "credits": "credits",
    }  # fmt: skip
    (found,) = empty.service.get("/v1/requests", ADMIN, start=START, end=END, user="", scope="workspace")["requests"]
    assert first["request_id"] == found["id"]


def test_the_order_of_the_log_follows_the_end_that_is_given(filled: Served) -> None:
    def times(**arguments: Any) -> list[str]:
        answer = filled.ask(ADMIN, lambda sdk: sdk.workspace.analytics.requests.get(limit=1000, **arguments))
        return [row["timestamp"] for row in table(answer)]

    rising = sorted(f"{iso(one.started_us)[:-1]}.{one.started_us // 1000 % 1000:03}Z" for one in ACME_CALLS)
    assert times(start_time=ms(START)) == rising
    assert times(end_time=ms(END)) == rising[::-1]
    assert times(start_time=ms(START), end_time=ms(END)) == rising[::-1]
    assert times(end_time=ms(END), sort="asc") == rising
    assert times(start_time=ms(START), sort="desc", filters=None, search=None, end_time=None) == rising[::-1]


def test_paging_by_the_last_rows_time_finds_every_call_once(empty: Served) -> None:
    moments = [START + timedelta(microseconds=400 * i) for i in range(40)]  # two or three in each millisecond
    empty.service.store.insert([call(moment, request_id=f"r{i}") for i, moment in enumerate(moments)])
    requests = empty.sdk(ADMIN).workspace.analytics.requests

    for direction in ("asc", "desc"):
        bound, seen = ms(START) if direction == "asc" else ms(END), list[str]()
        while True:
            at = {"start_time" if direction == "asc" else "end_time": bound}
            rows = table(requests.get(**at, limit=7))
            new = [row["request_id"] for row in rows if row["request_id"] not in seen]
            if not new:
                break
            seen += new
            bound = ms(datetime.fromisoformat(rows[-1]["timestamp"]))
        expected = [f"r{i}" for i in range(40)]
        assert seen == (expected if direction == "asc" else expected[::-1])


def test_the_log_is_searched(filled: Served) -> None:
    answer = filled.ask(
        ADMIN, lambda sdk: sdk.workspace.analytics.requests.get(start_time=ms(START), limit=1000, search="TRACE-5")
    )

    expected = sorted(one.trace_id for one in ACME_CALLS if one.trace_id == "trace-5")
    assert [row["trace_id"] for row in table(answer)] == expected


@pytest.mark.parametrize(
    ("arguments", "location", "hint"),
    [
        ({}, [], "at least one of start_time and end_time"),
        ({"start_time": 2, "end_time": 1}, ["end_time"], "is before start_time"),
        ({"start_time": -1}, ["start_time"], "greater than or equal to 0"),
        ({"start_time": 1, "limit": 1001}, ["limit"], "less than or equal to 1000"),
        ({"start_time": 1, "limit": 0}, ["limit"], "greater than or equal to 1"),
        ({"start_time": 1, "sort": "random"}, ["sort"], "'asc' or 'desc'"),
        ({"start_time": 1, **_one_filter("rows", "eq", 1)}, ["filters", 0], "'rows' is unknown"),
    ],
)
def test_a_bad_question_of_the_log_says_what_would_be_right(
    filled: Served, arguments: dict[str, Any], location: list[str | int], hint: str
) -> None:
    error = filled.refusal(ADMIN, lambda sdk: sdk.workspace.analytics.requests.get(**arguments))

    assert isinstance(error, UnprocessableEntityError)
    (fault,) = error.body["detail"]
    assert fault["loc"] == ["body", *location]
    assert hint in fault["msg"]


def test_a_members_tables_hold_the_own_calls_only(filled: Served) -> None:
    usage = filled.ask(
        ALICE, lambda sdk: sdk.workspace.usage.get_usage_by_product_over_time(**BY_DAY, group_by=["user_id"])
    )
    log = filled.ask(ALICE, lambda sdk: sdk.workspace.analytics.requests.get(start_time=ms(START), limit=1000))

    own = [one for one in ACME_CALLS if one.user == "alice"]
    assert rows_of(usage, ["user_id"]) == expected_rows(own, DAYS, us(END), ["user_id"])
    assert len(log.rows) == len(own)
    assert {row["user_id"] for row in table(log)} == {"alice"}


# Who: quota, groups, members.


def test_the_quota_is_what_is_used_this_month_and_the_limit_where_one_is_set(empty: Served) -> None:
    now = datetime.now(UTC)
    before = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
    next_month = (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
    empty.service.store.insert(
        [call(now, "2.5"), call(now, 4, user="bob"), call(before, 100), call(now, 1, kind="webhook"),
         call(now, 50, workspace="globex")]
    )  # fmt: skip

    unlimited = empty.ask(ALICE, lambda sdk: sdk.user.subscription.get())
    limits = [
        {"subject": "user", "value": "alice", "monthly_credits": 10},
        {"subject": "workspace", "monthly_credits": 99},
    ]
    empty.service.http.put(
        "/v1/limits", json=limits, params={"workspace": "acme"}, headers=empty.service.headers(OPERATOR)
    ).raise_for_status()
    hers = empty.ask(ALICE, lambda sdk: sdk.user.subscription.get())
    whole = empty.ask(ADMIN, lambda sdk: sdk.user.subscription.get())
    one = {"additional_query_parameters": {"workspace": "acme"}}
    operators = empty.ask(OPERATOR, lambda sdk: sdk.user.subscription.get(request_options=one))
    everybodys = empty.ask(OPERATOR, lambda sdk: sdk.user.subscription.get())

    assert (unlimited.character_count, unlimited.character_limit) == (3, 2**53 - 1)
    assert unlimited.max_credit_limit_extension == "unlimited"
    assert (hers.character_count, hers.character_limit, hers.max_credit_limit_extension) == (3, 10, 0)
    assert (whole.character_count, whole.character_limit) == (7, 99)
    assert operators == whole
    assert everybodys.character_count == 57
    assert datetime.fromtimestamp(hers.next_character_count_reset_unix, UTC) == next_month
    ours = empty.service.get("/v1/limits", ADMIN)["limits"]
    assert [entry["credits_used"] for entry in ours] == [6.5, 2.5]


def test_every_field_that_their_models_want_is_there(empty: Served) -> None:
    answer = empty.ask(ALICE, lambda sdk: sdk.user.get())
    subscription = empty.ask(ALICE, lambda sdk: sdk.user.subscription.get())

    for model in (answer, answer.subscription, subscription):
        assert model.model_fields_set >= {name for name, one in type(model).model_fields.items() if one.is_required()}
        assert model.model_extra in (None, {})
    assert (answer.user_id, answer.workspace_id, answer.seat_type) == ("alice", "acme", "workspace_member")
    assert empty.ask(ADMIN, lambda sdk: sdk.user.get()).seat_type == "workspace_admin"


def test_groups_and_members_are_those_who_have_called(empty: Served) -> None:
    now = datetime.now(UTC)
    empty.service.store.insert(
        [
            call(now, "1.5", groups=("staff", "beta")),
            call(now, "1.5", groups=("staff",), user="bob"),
            call(now - timedelta(days=200), 9, groups=("staff",), user="carol"),
            call(now - timedelta(days=400), groups=("old",), user="dan"),
            call(now, user=""),
            call(now, workspace="globex", groups=("other",), user="mallory"),
        ]
    )
    empty.service.http.put(
        "/v1/labels/group", json={"staff": "The Staff"}, headers=empty.service.headers(ADMIN)
    ).raise_for_status()

    groups = empty.ask(ADMIN, lambda sdk: sdk.workspace.groups.list())
    members = empty.ask(ADMIN, lambda sdk: sdk.workspace.members.list())

    assert {id: (one.id, one.name, sorted(one.members), one.character_count) for id, one in groups.items()} == {
        "staff": ("staff", "The Staff", ["alice", "bob", "carol"], 3),
        "beta": ("beta", "beta", ["alice"], 2),
    }
    assert sorted(one.user_id for one in members) == ["alice", "bob", "carol"]
    assert {(one.seat_type, one.is_owner, one.is_locked) for one in members} == {("workspace_member", False, False)}
    by_name = empty.ask(ADMIN, lambda sdk: sdk.workspace.groups.search(name="the staff"))
    by_id = empty.ask(ADMIN, lambda sdk: sdk.workspace.groups.search(name="staff"))
    for (found,) in (by_name, by_id):
        assert (found.name, sorted(found.members_emails)) == ("The Staff", ["alice", "bob", "carol"])
    assert empty.ask(ADMIN, lambda sdk: sdk.workspace.groups.search(name="other")) == []
    assert [one.user_id for one in empty.ask(ALICE, lambda sdk: sdk.workspace.members.list())] == ["alice"]
    hers = empty.ask(ALICE, lambda sdk: sdk.workspace.groups.list())
    assert {id: one.members for id, one in hers.items()} == {"staff": ["alice"], "beta": ["alice"]}
    missing = empty.refusal(ADMIN, lambda sdk: sdk.workspace.groups.search(name=""))
    assert missing.body["detail"][0]["loc"] == ["query", "name"]


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (datetime(2026, 3, 10, 12, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)),
        (datetime(2026, 3, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)),
        (datetime(2025, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),  # a leap year ago: 366 days
        (datetime(1970, 2, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_who_has_called_is_asked_by_whole_months(now: datetime, start: datetime) -> None:
    query = known_query(Audience("acme"), to_us(now), "user")

    assert from_us(query.start_us) == start
    assert query.end_us == to_us(now) + 1, "a call of this very moment is one"
