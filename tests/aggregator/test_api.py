"""The HTTP API, asked as a client asks it: real application, real store, real Redis."""

import csv
import io
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import redis

from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import NOON, call, us
from tests.aggregator.service import TestedService
from tests.conftest import RedisServer

ALICE = Principal("member", "acme", "alice")
ACME_ADMIN = Principal("admin", "acme", "root")
DAY = {"start": "2026-03-10", "end": "2026-03-10"}
AFTERNOON = {"start": "2026-03-10T12:00Z", "end": "2026-03-10T16:00Z", "interval": "hour"}


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client)
    with tested.http:
        yield tested


def test_usage_gives_credits_by_voice_and_day(service: TestedService) -> None:
    service.store.insert(
        [call(voice="en", credits="1.5"), call(voice="de", credits=2), call(voice="en", credits="0.000001")]
    )

    answer = service.get("/v1/usage", ACME_ADMIN, **DAY, breakdown="voice", scope="workspace")

    assert answer["buckets"] == ["2026-03-10T00:00:00+00:00"]
    assert [(one["label"], one["values"], one["total"]) for one in answer["series"]] == [
        ("de", [2], 2),
        ("en", [1.500001], 1.500001),
    ]


def test_what_is_beyond_the_top_is_one_series_and_totals_add_up(service: TestedService) -> None:
    service.store.insert([call(voice=f"v{i}", credits=i) for i in range(1, 6)])

    answer = service.get("/v1/usage", ACME_ADMIN, **DAY, breakdown="voice", scope="workspace", top=2)

    assert [(one["key"]["voice"], one["total"]) for one in answer["series"]] == [("v5", 5), ("v4", 4), ("__other__", 6)]


def test_a_bucket_without_calls_is_zero_for_sums_and_null_for_averages(service: TestedService) -> None:
    service.store.insert([call()])

    answer = service.get(
        "/v1/usage",
        ACME_ADMIN,
        start="2026-03-09",
        end="2026-03-10",
        metric=["requests", "latency_avg", "success_rate", "ttfb_p95"],
        scope="workspace",
    )

    assert [one["values"] for one in answer["series"]] == [[0, 1], [None, 250], [None, 1], [None, None]]


def test_an_empty_installation_answers_with_zeros(service: TestedService) -> None:
    answer = service.get("/v1/usage", ACME_ADMIN, **DAY)

    assert [(one["label"], one["values"], one["total"]) for one in answer["series"]] == [("All", [0], 0)]


def test_days_are_those_of_the_zone(service: TestedService) -> None:
    service.store.insert([call(NOON.replace(hour=18, minute=29)), call(NOON.replace(hour=18, minute=31))])

    answer = service.get(
        "/v1/usage",
        ACME_ADMIN,
        start="2026-03-10",
        end="2026-03-11",
        tz="Asia/Kolkata",
        metric="requests",
        scope="workspace",
    )

    assert answer["buckets"] == ["2026-03-10T00:00:00+05:30", "2026-03-11T00:00:00+05:30"]
    assert answer["series"][0]["values"] == [1, 1]


def test_cumulative_values_run_up_to_the_total(service: TestedService) -> None:
    service.store.insert([call(NOON + timedelta(hours=i), credits=i) for i in range(4)])

    answer = service.get(
        "/v1/usage",
        ACME_ADMIN,
        start="2026-03-10T12:00Z",
        end="2026-03-10T16:00Z",
        interval="hour",
        cumulative="true",
        scope="workspace",
    )

    assert answer["series"][0]["values"] == [0, 1, 3, 6]
    assert answer["series"][0]["total"] == 6


def test_a_call_in_two_groups_counts_in_both_and_once_in_the_total(service: TestedService) -> None:
    service.store.insert([call(groups=("a", "b")), call(groups=("a",)), call()])

    by_group = service.get("/v1/usage", ACME_ADMIN, **DAY, metric="requests", breakdown="group", scope="workspace")
    total = service.get("/v1/usage", ACME_ADMIN, **DAY, metric="requests", scope="workspace")

    assert {one["key"]["group"]: one["total"] for one in by_group["series"]} == {"a": 2, "b": 1, "": 1}
    assert total["series"][0]["total"] == 3


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"voice": "en"}, 1),
        ({"voice": ["en", "de"]}, 2),
        ({"not.voice": "en"}, 2),
        ({"status": "4xx"}, 1),
        ({"status": ["404", "200"]}, 3),
        ({"outcome": "client_error"}, 1),
        ({"attribute.tier": "gold"}, 1),
        ({"not.attribute.tier": "gold"}, 2),
        ({"group": "staff"}, 1),
        ({"voice": "en", "status": "4xx"}, 0),
        ({"voice": "x' OR 1=1 --"}, 0),
        ({"kind": "webhook"}, 1),
        ({"kind": ["webhook", "request"]}, 4),
    ],
)
def test_filters(service: TestedService, filters: dict[str, str | list[str]], expected: int) -> None:
    service.store.insert(
        [
            call(voice="en", attributes={"tier": "gold"}),
            call(voice="de", groups=("staff", "beta")),
            call(status=404, outcome="client_error"),
            call(kind="webhook"),
        ]
    )

    answer = service.get("/v1/usage", ACME_ADMIN, **DAY, metric="requests", scope="workspace", **filters)

    assert answer["series"][0]["total"] == expected


def test_elevenlabs_examples_of_concurrency(service: TestedService) -> None:
    together = [call(NOON, duration_us=3_000_000, voice="a") for _ in range(180)]
    spread = [call(NOON + timedelta(seconds=i / 3), duration_us=1_000_000, voice="b") for i in range(180)]
    service.store.insert([*together, *spread])
    minute = {"start": NOON.isoformat(), "end": (NOON + timedelta(minutes=1)).isoformat(), "interval": "minute"}

    answer = service.get(
        "/v1/usage",
        ACME_ADMIN,
        **minute,
        metric=["concurrency", "concurrency_average"],
        breakdown="voice",
        scope="workspace",
    )

    found = {(one["metric"], one["key"]["voice"]): one["values"] for one in answer["series"]}
    assert found["concurrency", "a"] == [180]
    assert found["concurrency_average", "a"] == [9]
    assert found["concurrency", "b"] == [3]
    assert found["concurrency_average", "b"] == [pytest.approx(3, rel=0.01)]


def test_a_long_call_is_in_flight_in_every_bucket_that_it_touches(service: TestedService) -> None:
    service.store.insert([call(NOON, duration_us=2 * 3_600_000_000)])

    answer = service.get(
        "/v1/usage",
        ACME_ADMIN,
        start="2026-03-10T11:00Z",
        end="2026-03-10T15:00Z",
        interval="hour",
        metric=["concurrency", "concurrency_average", "requests"],
        scope="workspace",
    )

    assert [one["values"] for one in answer["series"]] == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0]]


def test_the_csv_has_the_numbers_of_the_json(service: TestedService) -> None:
    service.store.insert([call(voice="en", credits="1.25"), call(voice="=1+1", credits=2)])
    question = {**DAY, "breakdown": "voice", "metric": ["credits", "requests"], "scope": "workspace"}

    response = service.http.get("/v1/usage.csv", params=question, headers=service.headers(ACME_ADMIN))

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert (
        'filename="usage-credits-requests-by-voice-per-day-20260310-20260310.csv"'
        in response.headers["content-disposition"]
    )
    assert response.text == (
        "bucket,voice,credits,requests\r\n"
        "2026-03-10T00:00:00+00:00,'=1+1,2,1\r\n"
        "2026-03-10T00:00:00+00:00,en,1.25,1\r\n"
    )


def test_the_wide_csv_has_a_column_per_series_and_accept_asks_for_csv_too(service: TestedService) -> None:
    service.store.insert([call(voice="en", credits="1.25"), call(voice="de", credits=2)])

    response = service.http.get(
        "/v1/usage",
        params={**DAY, "breakdown": "voice", "layout": "wide", "scope": "workspace"},
        headers={**service.headers(ACME_ADMIN), "accept": "text/csv"},
    )

    assert response.text == "bucket,de,en\r\n2026-03-10T00:00:00+00:00,2,1.25\r\n"


@pytest.mark.parametrize(
    ("parameters", "parameter", "hint"),
    [
        ({"metric": "credit"}, "metric", "must be one of credits, requests"),
        ({"breakdown": "voices"}, "breakdown", "must be one of voice, product"),
        ({"interval": "fortnight"}, "interval", "must be one of minute, hour"),
        ({"tz": "Mars/Olympus"}, "tz", "must be an IANA name"),
        ({"tz": "../../etc/passwd"}, "tz", "must be an IANA name"),
        ({"start": "2026-03-10", "end": "2026-03-01"}, "end", "is not after start"),
        ({"start": "yesterday"}, "start", "must be such as 2026-01-31"),
        ({"last": "7x"}, "last", "must be such as 24h"),
        ({"start": "2020-01-01", "interval": "minute"}, "interval", "more than 50000 buckets"),
        ({"metric": "latency_p95", "cumulative": "true"}, "cumulative", "does not add up"),
        ({"top": "0"}, "top", "from 1 to 1000"),
        ({"status": "4x"}, "status", "three digits such as 404"),
        ({"outcome": "fine"}, "outcome", "must be one of ok"),
        ({"voise": "en"}, "voise", "is not a parameter"),
        ({"workspace": "globex"}, "workspace", "is not a parameter"),
        ({"breakdown": "workspace"}, "breakdown", "must be one of voice"),
    ],
)
def test_a_bad_question_says_what_would_be_right(
    service: TestedService, parameters: dict[str, str], parameter: str, hint: str
) -> None:
    response = service.http.get("/v1/usage", params=parameters, headers=service.headers(ALICE))

    assert response.status_code == 422
    faults = {fault["loc"][1]: fault["msg"] for fault in response.json()["detail"]}
    assert hint in faults[parameter]


def test_all_faults_are_named_at_once(service: TestedService) -> None:
    response = service.http.get("/v1/usage?metric=x&interval=y&tz=z", headers=service.headers(ALICE))

    assert {fault["loc"][1] for fault in response.json()["detail"]} == {"metric", "interval", "tz"}


def test_nobody_without_a_token_sees_anything(service: TestedService) -> None:
    for headers in ({}, {"xi-api-key": "nonsense"}, {"authorization": "Bearer " + "x" * 40}):
        response = service.http.get("/v1/usage", headers=headers)
        assert response.status_code == 401
        assert response.json()["detail"]["type"] == "authentication_error"


def test_a_member_sees_the_own_calls_an_admin_the_workspace_an_operator_everything(service: TestedService) -> None:
    service.store.insert([call(), call(user="bob"), call(workspace="globex", user="alice")])

    def seen(principal: Principal, **more: str) -> int:
        total = service.get("/v1/usage", principal, **DAY, metric="requests", **more)["series"][0]["total"]
        assert isinstance(total, int)
        return total

    assert seen(ALICE) == 1
    assert seen(ACME_ADMIN) == 0
    assert seen(ACME_ADMIN, scope="workspace") == 2
    assert seen(Principal("operator")) == 3
    assert seen(Principal("operator"), workspace="globex") == 1
    refused = service.http.get("/v1/usage?scope=workspace", headers=service.headers(ALICE))
    assert refused.status_code == 403


def test_a_correction_replaces_the_call_and_a_duplicate_changes_nothing(service: TestedService) -> None:
    first = call(credits=10, voice="en")
    service.store.insert([first, first])
    corrected = call(credits=3, voice="de", id=first.id, version=2)
    service.store.insert([corrected])
    service.store.insert([first])

    answer = service.get("/v1/usage", ACME_ADMIN, **DAY, breakdown="voice", scope="workspace")

    assert [(one["label"], one["total"]) for one in answer["series"]] == [("de", 3)]


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_the_log_pages_stay_put_while_calls_arrive_and_late_ones_too(service: TestedService, order: str) -> None:
    """A call that comes between two pages is on a later one if its place is still ahead, and else on none."""
    pick, last = random.Random(order), order == "desc"

    def arrive(count: int) -> list[tuple[int, bytes]]:
        """Anywhere in a minute, so that some begin in the same second: their ids decide."""
        new = [call(NOON + timedelta(seconds=pick.randrange(60))) for _ in range(count)]
        service.store.insert(new)
        return [(one.started_us, one.id) for one in new]

    stored, seen, cursor = arrive(40), list[tuple[int, bytes]](), ""
    while cursor is not None:
        more = {"cursor": cursor} if cursor else {}
        page = service.get("/v1/requests", ACME_ADMIN, **DAY, scope="workspace", limit=3, order=order, **more)
        ahead = [one for one in stored if not seen or (one < seen[-1] if last else one > seen[-1])]
        found = [(us(datetime.fromisoformat(one["time"])), UUID(one["id"]).bytes) for one in page["requests"]]
        assert found == sorted(ahead, reverse=last)[:3]
        assert (page["next_cursor"] is None) == (len(ahead) <= 3)
        seen += found
        cursor = page["next_cursor"]
        stored += arrive(2)

    assert len(seen) > 40, "none of those that came meanwhile was ahead"
    assert len(seen) < len(stored) - 2, "none of them was behind"


def test_one_call_is_found_by_its_id_and_by_the_request_id_that_its_client_saw(service: TestedService) -> None:
    wanted = call(request_id="req-4711", credits="2.5", quantities={"characters": 5.0}, groups=("staff",))
    service.store.insert([wanted, call(request_id="other")])

    by_request_id = service.get("/v1/requests/req-4711", ACME_ADMIN)
    by_id = service.get(f"/v1/requests/{UUID(bytes=wanted.id)}", ACME_ADMIN)
    found = service.get("/v1/requests", ACME_ADMIN, **DAY, q="4711", scope="workspace")

    assert by_request_id == by_id == found["requests"][0]
    assert by_id["credits"] == 2.5
    assert by_id["duration_ms"] == 250
    assert by_id["time"] == "2026-03-10T12:00:00.000000+00:00"
    stranger = service.http.get("/v1/requests/req-4711", headers=service.headers(Principal("admin", "globex")))
    assert stranger.status_code == 404


def test_the_log_as_csv_has_every_call_without_a_cap(service: TestedService) -> None:
    service.store.insert([call(NOON + timedelta(seconds=i), path="-cmd") for i in range(1500)])

    response = service.http.get(
        "/v1/requests.csv", params={**DAY, "scope": "workspace"}, headers=service.headers(ACME_ADMIN)
    )

    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 1500
    assert rows[0]["path"] == "'-cmd"
    assert rows[0]["time"] == "2026-03-10T12:24:59.000000+00:00"


def test_events_recorded_over_http_are_counted_once_however_often_they_are_sent(service: TestedService) -> None:
    ingest = Principal("ingest", "acme")
    events = [
        {"id": "job-1", "source": "billing", "time": "2026-03-10T12:00:00Z", "user": "alice", "credits": "0.1"},
        {"id": "job-1", "source": "other", "time": 1773144000, "user": "alice", "credits": 0.2},
        {"id": "0192f3a4-8b1c-7abc-8def-0123456789ab", "time": 1773144000000, "user": "alice", "credits": 1},
    ]
    for _ in range(2):
        response = service.http.post("/v1/events", json=events, headers=service.headers(ingest))
        assert (response.status_code, response.json()) == (202, {"accepted": 3})
    service.drain()

    answer = service.get("/v1/usage", ALICE, **DAY, metric=["credits", "requests"])

    assert [one["total"] for one in answer["series"]] == [1.3, 3]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "body"),
        (b"{}", "body"),
        (b'[{"id": "1"}]', "[0]"),
        (b'[{"id": "1", "time": 1773144000}, {"id": "2", "time": "noon"}]', "[1].time"),
        (b'[{"id": "1", "time": "2026-03-10T12:00:00"}]', "[0].time"),
        (b'[{"id": "1", "time": 1773144000, "credits": "many"}]', "[0].credits"),
        (b'[{"id": "1", "time": 1773144000, "workspace": "globex"}]', "[0].workspace"),
        (b'[{"id": "1", "time": 1773144000, "colour": "red"}]', "[0]"),
        (b'[{"id": "1", "time": 7258118400000}]', "[0].time"),
        (b'[{"id": "1", "time": 1773144000, "status": -1}]', "[0].status"),
    ],
)
def test_a_bad_event_is_named_and_none_of_its_request_is_recorded(
    service: TestedService, redis_client: "redis.Redis", body: bytes, where: str
) -> None:
    response = service.http.post("/v1/events", content=body, headers=service.headers(Principal("ingest", "acme")))

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", where]
    assert redis_client.keys("um:*") == []


def test_a_reading_token_may_not_record_and_an_ingest_token_may_not_read(service: TestedService) -> None:
    assert service.http.post("/v1/events", json=[], headers=service.headers(ACME_ADMIN)).status_code == 403
    assert service.http.get("/v1/usage", headers=service.headers(Principal("ingest", "acme"))).status_code == 403


def test_metrics_health_and_readiness(service: TestedService, redis_client: "redis.Redis") -> None:
    service.http.post(
        "/v1/events",
        json=[{"id": "1", "time": "2026-03-10T12:00:00Z", "product": "tts", "credits": 2.5, "duration_ms": 30}],
        headers=service.headers(Principal("ingest", "acme")),
    )
    assert "usage_meter_backlog_entries 1.0" in service.http.get("/metrics").text
    service.drain()

    text = service.http.get("/metrics").text

    assert 'usage_meter_requests_total{outcome="ok",product="tts",workspace="acme"} 1.0' in text
    assert 'usage_meter_credits_total{product="tts",workspace="acme"} 2.5' in text
    assert 'usage_meter_latency_seconds_bucket{le="0.05",product="tts"} 1.0' in text
    assert "usage_meter_events_stored_total 1.0" in text
    assert "usage_meter_backlog_entries 0.0" in text
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert service.http.get("/readyz").json() == {"status": "ok", "redis": "ok", "store": "ok"}


def test_with_redis_away_questions_are_answered_and_the_rest_says_so(
    service: TestedService, redis_server: RedisServer
) -> None:
    service.store.insert([call()])
    redis_server.kill()

    assert service.get("/v1/usage", ALICE, **DAY, metric="requests")["series"][0]["total"] == 1
    assert service.http.get("/readyz").status_code == 503
    assert "usage_meter_redis_up 0.0" in service.http.get("/metrics").text
    sent = [{"id": "1", "time": "2026-03-10T12:00:00Z"}]
    refused = service.http.post("/v1/events", json=sent, headers=service.headers(Principal("ingest", "acme")))
    assert refused.status_code == 503
    assert refused.json()["detail"]["code"] == "redis_unavailable"


def test_without_a_secret_a_foreign_host_name_is_refused(store: Store, redis_client: "redis.Redis") -> None:
    open_service = TestedService(store, redis_client, secret="")

    assert open_service.http.get("/v1/usage").status_code == 200
    assert open_service.http.get("/v1/usage", headers={"host": "evil.example"}).status_code == 400


def test_the_documentation_needs_no_other_host(service: TestedService) -> None:
    page = service.http.get("/docs").text

    assert "swagger-ui-bundle.js" in page
    assert "https://" not in page
    assert service.http.get("/static/docs/swagger-ui-bundle.js").status_code == 200
    paths = service.http.get("/openapi.json").json()["paths"]
    assert {"/v1/usage", "/v1/usage.csv", "/v1/requests", "/v1/requests/{id}", "/v1/events", "/metrics"} <= paths.keys()


def test_a_method_that_is_not_there_is_answered_with_those_that_are(service: TestedService) -> None:
    """As the description has them: files are only read."""
    for path, methods in (
        ("/v1/labels/voice", "GET, PUT"), ("/v1/labels/voice.csv", "GET"), ("/v1/limits", "GET, PUT"),
        ("/v1/limits.csv", "GET"), ("/v1/events", "POST"), ("/v1/requests/r1", "GET"), ("/healthz", "GET"),
    ):  # fmt: skip
        refused = service.http.request("DELETE", path, headers=service.headers(ACME_ADMIN))
        assert (refused.status_code, refused.headers["allow"]) == (405, methods), path
