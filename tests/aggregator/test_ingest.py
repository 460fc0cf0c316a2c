"""Recording over HTTP in every form that it is taken in, and what is said of a body that cannot be taken."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from aggregator.http.body import MAX_BYTES
from aggregator.store import Store
from aggregator.tokens import OPERATOR, Principal
from tests.aggregator.service import TestedService

INGEST = Principal("ingest", "acme")
JSON = "application/json"
LINES = "application/x-ndjson"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"

NOON = "2026-03-10T12:00:00Z"
JOB: dict[str, Any] = {"id": "job-1", "source": "billing", "time": NOON, "product": "tts", "credits": "2.5"}
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0", "id": "job-1", "source": "billing", "type": "com.acme.spoken", "time": NOON,
    "subject": "unread", "traceparent": "an extension", "data": {"product": "tts", "credits": "2.5"},
}  # fmt: skip
BINARY = {f"ce-{name}": ENVELOPE[name] for name in ("specversion", "id", "source", "type", "time")}


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client)
    with tested.http:
        yield tested


def post(service: TestedService, body: bytes, content_type: str = JSON, **headers: str) -> Any:
    named = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return service.http.post("/v1/events", content=body, headers={**service.headers(INGEST), **named})


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("content_type", "body", "headers"),
    [
        (JSON, encoded([JOB]), {}),
        (JSON, encoded(JOB), {}),
        ("Application/JSON; charset=UTF-8", b" \n" + encoded(JOB), {}),
        (LINES, b"\n" + encoded(JOB) + b"\r\n\n", {}),
        ("application/jsonl", encoded(JOB), {}),
        (CLOUD_EVENT, encoded(ENVELOPE), {}),
        (CLOUD_EVENTS, encoded([ENVELOPE]), {}),
        (JSON, encoded(ENVELOPE["data"]), BINARY),
    ],
    ids=["array", "object", "with charset", "lines", "jsonl", "cloud event", "cloud events", "binary cloud event"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_event_in_every_form(
    service: TestedService, content_type: str, body: bytes, headers: dict[str, str], packed: bool
) -> None:
    more = {**headers, "content-encoding": "gzip"} if packed else headers
    for _ in range(2):  # a retry changes nothing
        response = post(service, gzip.compress(body) if packed else body, content_type, **more)
        assert (response.status_code, response.json()) == (202, {"accepted": 1})
    service.drain()

    (found,) = service.get("/v1/requests", OPERATOR, start="2026-03-10", end="2026-03-10")["requests"]

    assert {name: found[name] for name in ("workspace", "source", "product", "credits", "status", "outcome")} == {
        "workspace": "acme", "source": "billing", "product": "tts", "credits": 2.5, "status": 200, "outcome": "ok",
    }  # fmt: skip
    assert found["time"] == "2026-03-10T12:00:00.000000+00:00"


def test_the_key_is_the_same_in_every_form_and_is_the_envelopes(service: TestedService) -> None:
    other = {**ENVELOPE, "data": {"source": "website", "product": "tts"}}
    elsewhere = {**ENVELOPE, "source": "elsewhere", "data": {"source": "website"}}
    for body, content_type in ((JOB, JSON), (ENVELOPE, CLOUD_EVENT), (other, CLOUD_EVENT), (elsewhere, CLOUD_EVENT)):
        assert post(service, encoded(body), content_type).status_code == 202
    service.drain()

    log = service.get("/v1/requests", OPERATOR, start="2026-03-10", end="2026-03-10")["requests"]

    assert len(log) == 2  # the first three are one call; one id from two sources is two


def test_the_data_may_say_a_time_of_its_own(service: TestedService) -> None:
    timed = {**ENVELOPE, "time": None, "data": {"time": 1773144000000}}
    assert post(service, encoded(timed), CLOUD_EVENT).status_code == 202

    refused = post(service, encoded({**timed, "data": {}}), CLOUD_EVENT)

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "time"]


@pytest.mark.parametrize(
    ("content_type", "body", "where", "hint"),
    [
        (JSON, encoded({**JOB, "time": "noon"}), "time", "must be ISO 8601"),
        (JSON, encoded({**JOB, "colour": "red"}), "body", "unknown field `colour`"),
        (JSON, encoded([JOB, {**JOB, "status": "ok"}]), "[1].status", "Expected `int`"),
        (JSON, b"[{]", "body", "is not JSON"),
        (JSON, b"", "body", "is not JSON"),
        (LINES, encoded(JOB) + b"\n\n{}\n", "line 3", "missing required field"),
        (LINES, encoded(JOB) + b"\n" + encoded({**JOB, "credits": "x"}), "line 2.credits", "'x'"),
        (LINES, encoded(JOB) + b"\nnonsense", "line 2", "is not JSON"),
        (LINES, encoded([JOB]), "line 1", "Expected `object`"),
        (CLOUD_EVENT, encoded({**ENVELOPE, "specversion": "0.3"}), "specversion", "Invalid enum value '0.3'"),
        (CLOUD_EVENT, encoded({**ENVELOPE, "type": ""}), "type", "length >= 1"),
        (CLOUD_EVENT, encoded({**ENVELOPE, "data": {"credits": "x"}}), "data.credits", "'x'"),
        (CLOUD_EVENT, encoded({**ENVELOPE, "data": {"id": "x"}}), "data", "unknown field `id`"),
        (CLOUD_EVENT, encoded([ENVELOPE]), "body", "Expected `object`"),
        (CLOUD_EVENTS, encoded([ENVELOPE, {**ENVELOPE, "data": {"status": -1}}]), "[1].data.status", ">= 0"),
        (CLOUD_EVENTS, encoded([ENVELOPE, {**ENVELOPE, "data": {"workspace": "x"}}]), "[1].data.workspace", "leave it"),
        (CLOUD_EVENTS, encoded(ENVELOPE), "body", "Expected `array`"),
    ],
)
def test_the_first_bad_event_is_named_and_nothing_is_recorded(
    service: TestedService, redis_client: "redis.Redis", content_type: str, body: bytes, where: str, hint: str
) -> None:
    response = post(service, body, content_type)

    assert response.status_code == 422
    (fault,) = response.json()["detail"]
    assert fault["loc"] == ["body", where]
    assert hint in fault["msg"]
    assert redis_client.keys("um:*") == []


def test_a_binary_cloud_event_whose_headers_lack_something(service: TestedService) -> None:
    del (headers := dict(BINARY))["ce-source"]

    response = post(service, encoded(ENVELOPE["data"]), **headers)

    assert (response.status_code, "`source`" in response.json()["detail"][0]["msg"]) == (422, True)


@pytest.mark.parametrize(
    ("content_type", "coding", "hint"),
    [
        ("text/csv", "", "send application/json"),
        ("application/x-www-form-urlencoded", "", "application/x-ndjson (one event a line)"),
        ("application/json; charset=latin-1", "", "JSON is UTF-8"),
        (JSON, "br", "send gzip, or none"),
        (JSON, "gzip, gzip", "send gzip, or none"),
    ],
)
def test_what_is_not_taken_here_is_refused_with_what_is(
    service: TestedService, content_type: str, coding: str, hint: str
) -> None:
    response = post(service, encoded([JOB]), content_type, **({"content-encoding": coding} if coding else {}))

    assert (response.status_code, response.json()["detail"]["code"]) == (415, "invalid_content_type")
    assert hint in response.json()["detail"]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", gzip.compress(b"[]", mtime=0)[:-4], b"\x1f\x8b" + b"\0" * 20])
def test_a_body_that_is_not_the_gzip_it_says_is_a_bad_request(service: TestedService, body: bytes) -> None:
    response = post(service, body, content_encoding="gzip")

    assert (response.status_code, response.json()["detail"]["code"]) == (400, "bad_request")


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(service: TestedService) -> None:
    bomb = gzip.compress(b" " * (4 * MAX_BYTES), 1)
    several = gzip.compress(b" " * (MAX_BYTES // 2)) * 3

    assert len(bomb) < MAX_BYTES // 10
    for body in (bomb, several):
        response = post(service, body, content_encoding="gzip")
        assert (response.status_code, response.json()["detail"]["code"]) == (413, "request_too_large")
        assert str(MAX_BYTES) in response.json()["detail"]["message"]


def test_several_gzip_members_are_one_body(service: TestedService) -> None:
    lines = [gzip.compress(encoded({**JOB, "id": f"job-{i}"}) + b"\n") for i in range(3)]

    assert post(service, b"".join(lines), LINES, content_encoding="gzip").json() == {"accepted": 3}
