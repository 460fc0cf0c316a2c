"""How answers leave: files with the JSON's numbers, compressed, kept only where they may be, and whole or broken."""

import csv
import gzip
import io
import itertools
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
import redis
from starlette.requests import ClientDisconnect

from aggregator import store
from aggregator.errors import StoreError
from aggregator.http import encoding
from aggregator.http.caching import still_holds, tag
from aggregator.http.delivery import Stream
from aggregator.labels import Labels
from aggregator.limits import Limit, Limits
from aggregator.reader import Reader
from aggregator.store import Store
from aggregator.tokens import OPERATOR, Principal
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService, listening
from tests.conftest import wait_until

ALICE = Principal("member", "acme", "alice")
ADMIN = Principal("admin", "acme", "root")
DAY = {"start": "2026-03-10", "end": "2026-03-10", "scope": "workspace"}
ARROW = "application/vnd.apache.arrow.file"
PARQUET = "application/vnd.apache.parquet"


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client)
    with tested.http:
        yield tested


def ask(service: TestedService, path: str, who: Principal = ADMIN, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.get(path, headers={**service.headers(who), **named})  # type: ignore[return-value]  # its twin


def table(response: Any) -> "pa.Table":
    content = io.BytesIO(response.content)
    return pa.ipc.open_file(content).read_all() if response.content[:5] == b"ARROW" else pa.parquet.read_table(content)


def rows(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


METRICS = ["credits", "requests", "success_rate", "latency_avg", "ttfb_p95", "concurrency", "quantity.characters"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_usage_as_a_table_has_the_numbers_of_the_json(service: TestedService, suffix: str) -> None:
    service.store.insert(
        [call(voice="en", credits="1.000001", quantities={"characters": 2.5}), call(voice='=a"\\\n', credits=2)]
    )
    Labels(service.store).put("acme", "voice", {"en": "Emma"})
    question = "start=2026-03-09&end=2026-03-10&scope=workspace&breakdown=voice&breakdown=attribute.x`y"
    question += "".join(f"&metric={name}" for name in METRICS)

    found = table(ask(service, f"/v1/usage.{suffix}?{question}"))

    answer = ask(service, f"/v1/usage?{question}").json()
    assert found.column_names == ["bucket", "voice", "attribute.x\\`y", *METRICS, "voice_name"]
    assert str(found.schema.field("bucket").type) == "timestamp[us, tz=UTC]"
    assert str(found.schema.field("credits").type) == "decimal128(38, 6)"
    values = {(one["metric"], one["key"]["voice"]): one["values"] for one in answer["series"]}
    assert len(found) == 4
    for row in found.to_pylist():
        bucket = answer["buckets"].index(row["bucket"].isoformat())
        expected = [values[name, row["voice"]][bucket] for name in METRICS]
        assert [row[name] for name in METRICS] == [Decimal(str(expected[0])), *expected[1:]]
        assert row["voice_name"] == ("Emma" if row["voice"] == "en" else "")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_the_log_as_a_table_has_what_its_json_has(service: TestedService, suffix: str) -> None:
    service.store.insert(
        [call(NOON + timedelta(seconds=i), credits="-2.5", groups=("a", "b"), voice="=en") for i in range(3)]
    )
    Labels(service.store).put("acme", "voice", {"=en": "=Emma"})

    found = table(ask(service, f"/v1/requests.{suffix}?start=2026-03-10&end=2026-03-10&scope=workspace")).to_pylist()

    log = ask(service, "/v1/requests?start=2026-03-10&end=2026-03-10&scope=workspace").json()["requests"]
    assert [row["id"] for row in found] == [one["id"] for one in log]
    for row, one in zip(found, log, strict=True):
        assert row["time"].isoformat(timespec="microseconds") == one["time"]
        assert (float(row["credits"]), row["groups"], dict(row["attributes"])) == (-2.5, ["a", "b"], {})
        names = ("voice", "user", "route", "status", "outcome", "duration_ms", "ttfb_ms", "version")
        assert {name: row[name] for name in names} == {name: one[name] for name in names}
        assert (row["voice_name"], row["user_name"]) == ("=Emma", "")


def test_a_file_is_named_by_what_it_shows_and_typed_by_what_it_is(service: TestedService) -> None:
    view = "start=2026-01-01&end=2026-01-31&scope=workspace"
    named = {
        f"/v1/usage.csv?{view}&breakdown=voice&interval=day": "usage-credits-by-voice-per-day-20260101-20260131.csv",
        f"/v1/usage.parquet?{view}&metric=requests": "usage-requests-per-day-20260101-20260131.parquet",
        f"/v1/requests.arrow?{view}": "requests-20260101-20260131.arrow",
        f"/v1/dimensions/attribute.tier.csv?{view}": "values-attribute-tier.csv",
        "/v1/limits.csv": "limits-acme.csv",
    }
    for path, name in named.items():
        response = ask(service, path)
        assert response.status_code == 200, response.text
        assert response.headers["content-disposition"] == f'attachment; filename="{name}"'


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/csv", "text/csv; charset=utf-8"),
        ("TEXT/CSV;q=0.9, */*", "text/csv; charset=utf-8"),
        (PARQUET, PARQUET),
        (f"{ARROW}, text/csv", ARROW),
        ("application/json, text/csv", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("", "application/json"),
    ],
)
def test_accept_asks_for_a_kind_of_file(service: TestedService, accept: str, expected: str) -> None:
    assert ask(service, "/v1/usage?last=24h", accept=accept).headers["content-type"] == expected


def test_a_table_too_large_for_a_typed_file_says_so(service: TestedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.usage_file.MAX_CELLS", 10)

    refused = ask(service, "/v1/usage.parquet?last=7d")

    assert refused.status_code == 422
    assert "so ask for .csv" in refused.json()["detail"][0]["msg"]
    assert "is the CSV's" in ask(service, "/v1/usage.arrow?layout=wide").json()["detail"][0]["msg"]


def test_names_and_identifiers_both_stand_in_the_csv(service: TestedService) -> None:
    service.store.insert([call(voice="en", credits=3), call(voice="de", credits=2)])
    Labels(service.store).put("acme", "voice", {"en": "=Emma"})
    view = "start=2026-03-10&end=2026-03-10&tz=Asia/Kolkata&scope=workspace&breakdown=voice"

    long, wide = ask(service, f"/v1/usage.csv?{view}"), ask(service, f"/v1/usage.csv?{view}&layout=wide")

    midnight = "2026-03-10T00:00:00+05:30"
    assert long.text == f"bucket,voice,credits,voice_name\r\n{midnight},en,3,'=Emma\r\n{midnight},de,2,\r\n"
    assert wide.text == f"bucket,'=Emma (en),de\r\n{midnight},3,2\r\n"


def test_every_table_is_a_csv_too(service: TestedService) -> None:
    service.store.insert([call(voice="en", credits="1.5", attributes={"tier": "gold"})])
    Labels(service.store).put("acme", "voice", {"en": "-Emma"})
    Limits(service.store).put("acme", [Limit("user", "alice", Decimal(10))])
    view = "start=2026-03-10&end=2026-03-10&scope=workspace"

    assert rows(ask(service, f"/v1/dimensions/voice.csv?{view}")) == [
        {"value": "en", "label": "'-Emma", "requests": "1", "credits": "1.5"}
    ]
    assert rows(ask(service, f"/v1/dimensions/attribute.tier.csv?{view}"))[0]["value"] == "gold"
    assert rows(ask(service, "/v1/labels/voice.csv")) == [{"value": "en", "label": "'-Emma"}]
    assert rows(ask(service, "/v1/labels/voice", accept="text/csv")) == [{"value": "en", "label": "'-Emma"}]
    (limit,) = rows(ask(service, "/v1/limits.csv"))
    assert (limit["value"], limit["monthly_credits"], limit["concurrency"]) == ("alice", "10", "")
    assert [one["action"] for one in rows(ask(service, "/v1/audit.csv"))] == ["export"] * 5
    assert ask(service, "/v1/dimensions/nonsense.csv").status_code == 404


def test_whoever_takes_a_file_is_written_down(service: TestedService) -> None:
    service.store.insert([call()])
    paths = ["/v1/usage.csv?last=7d", "/v1/usage.parquet", "/v1/requests.csv?q=a%20b", "/v1/requests.arrow"]
    for path in paths:
        assert ask(service, path, ALICE).status_code == 200
    ask(service, "/v1/usage", ALICE, accept="text/csv")
    ask(service, "/v1/usage", ALICE)

    entries = ask(service, "/v1/audit").json()["entries"]

    assert [one["detail"] for one in entries] == ["/v1/usage", *reversed(paths)]
    assert {(one["workspace"], one["user"], one["role"], one["action"]) for one in entries} == {
        ("acme", "alice", "member", "export")
    }


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage.csv", "/v1/usage.parquet"])
def test_a_complete_range_is_asked_for_again_by_its_tag(service: TestedService, path: str) -> None:
    service.store.insert([call()])
    view = f"{path}?start=2026-03-10&end=2026-03-10&scope=workspace"

    first = ask(service, view)
    tagged = first.headers["etag"]
    again = ask(service, view, if_none_match=f'"other", {tagged}')
    service.store.insert([call()])  # late
    after = ask(service, view, if_none_match=tagged)

    assert first.headers["cache-control"] == "private, no-cache"
    assert {"Authorization", "xi-api-key", "Cookie", "Accept"} <= set(first.headers["vary"].split(", "))
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tagged)
    assert after.status_code == 200
    assert after.headers["etag"] != tagged


def test_tags_differ_by_what_is_asked_for_and_by_whom(service: TestedService) -> None:
    service.store.insert([call(user="alice"), call(user="bob")])
    days = "start=2026-03-10&end=2026-03-10"
    views = [
        f"/v1/usage?{days}&scope=workspace",
        f"/v1/usage.csv?{days}&scope=workspace",
        f"/v1/usage?{days}&tz=Asia/Tokyo",
    ]
    views += [f"/v1/usage.csv?{days}&scope=workspace&layout=wide", f"/v1/usage?{days}&scope=workspace&breakdown=user"]

    tags = [ask(service, view).headers["etag"] for view in views]
    tags.append(ask(service, f"/v1/usage?{days}", ALICE).headers["etag"])

    assert len(set(tags)) == len(tags)


def test_a_range_that_is_not_complete_is_never_kept(service: TestedService) -> None:
    day = timedelta(days=1)
    tomorrow = (datetime.now(UTC) + day).isoformat().replace("+", "%2B")
    open_range = ask(service, f"/v1/usage?start=2026-03-10&end={tomorrow}", if_none_match="*")
    waiting = {"id": "1", "time": "2026-03-10T12:00:00Z", "workspace": "acme"}
    service.http.post("/v1/events", json=[waiting], headers=service.headers(OPERATOR))
    now = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+", "%2B")
    behind = ask(service, f"/v1/usage?start=2026-03-10&end={now}")  # that call is on its way
    others = [ask(service, f"/v1/{path}") for path in ("requests", "requests.csv", "live", "limits", "audit", "user")]

    for response in (open_range, behind, *others):
        assert response.status_code == 200
        assert response.headers["cache-control"] == "private, no-store"
        assert "etag" not in response.headers


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip", "gzip"),
        ("zstd;q=0.1, gzip;q=0.9", "gzip"),
        ("*", "zstd"),
        ("*;q=0, gzip", "gzip"),
        ("br", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=nonsense", None),
        ("", None),
    ],
)
def test_the_coding_is_one_that_the_reader_takes(accepted: str, coding: str | None) -> None:
    assert encoding.coding(accepted) == coding


@pytest.mark.parametrize("path", ["/v1/requests.csv", "/v1/requests"])
def test_large_answers_are_compressed_and_small_ones_are_not(service: TestedService, path: str) -> None:
    service.store.insert([call(NOON + timedelta(seconds=i), path=f"/v1/{i}") for i in range(500)])
    view = f"{path}?start=2026-03-10&end=2026-03-10&scope=workspace&limit=500"

    plain = ask(service, view, accept_encoding="identity")
    gzipped = ask(service, view, accept_encoding="gzip")
    small = ask(service, "/v1/usage?last=24h", accept_encoding="gzip")

    assert "content-encoding" not in plain.headers
    assert (gzipped.headers["content-encoding"], gzipped.content) == ("gzip", plain.content)
    assert "content-encoding" not in small.headers
    packed = ask(service, f"/v1/requests.parquet?{urlencode(DAY)}", accept_encoding="gzip")
    assert (packed.status_code, packed.headers.get("content-encoding")) == (200, None)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_what_is_encoded_is_the_same_again(coding: str) -> None:
    pieces = [b"a,b\r\n" * 1000, b"", b"c" * 100_000]

    packed = b"".join(encoding.encoded(iter(pieces), coding))

    unpacked = gzip.decompress(packed) if coding == "gzip" else encoding.zstd.decompress(packed)
    assert unpacked == b"".join(pieces)
    assert len(packed) < 1000


def breaking(reader: Reader, *_: Any) -> Iterator[bytes]:
    yield b"time,id\r\n" + b"2026-03-10,1\r\n" * 10_000
    yield b""
    raise StoreError("the disk is full")


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
def test_a_failure_in_the_middle_breaks_the_connection(
    service: TestedService, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    monkeypatch.setattr(Reader, "requests_file", breaking)

    with listening(service) as address:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            httpx.get(f"{address}/v1/requests.csv", headers={**service.headers(ADMIN), "accept-encoding": coding})
        raw = _raw(address, "/v1/requests.csv", {**service.headers(ADMIN), "accept-encoding": coding})

    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not raw.endswith(b"0\r\n\r\n")  # the last chunk of a body that is whole


@pytest.mark.parametrize("made", [0, 1])
def test_a_failure_up_to_the_second_piece_is_a_clean_error(
    service: TestedService, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    def failing(*_: Any) -> Iterator[bytes]:
        yield from [b"time,id\r\n"] * made
        raise StoreError("the disk is full")

    monkeypatch.setattr(Reader, "requests_file", failing)

    response = ask(service, "/v1/requests.csv")

    assert (response.status_code, response.json()["detail"]["code"]) == (503, "store_unavailable")
    assert "attachment" not in response.headers.get("content-disposition", "")


def test_a_file_of_a_single_piece_is_sent_at_once(service: TestedService) -> None:
    """It says how long it is, which a stream cannot."""
    service.store.insert([call(NOON, request_id="r1")])

    for path in (f"/v1/requests.csv?{urlencode(DAY)}", f"/v1/usage.csv?{urlencode(DAY)}"):
        response = ask(service, path, accept_encoding="identity")

        assert int(response.headers["content-length"]) == len(response.content) > 0
        assert "attachment" in response.headers["content-disposition"]


def _raw(address: str, path: str, headers: dict[str, str]) -> bytes:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    lines = [f"GET {path} HTTP/1.1", f"host: {host}", "connection: close", *(f"{n}: {v}" for n, v in headers.items())]
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_an_export_whose_reader_went_away_gives_its_place_back(
    service: TestedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More exports than there are places, one after the other, none read to its end."""
    monkeypatch.setattr(service.store, "_streams", threading.BoundedSemaphore(2))
    service.store.insert([call(NOON + timedelta(seconds=i), path="/" + "x" * 4000) for i in range(3000)])
    view = "/v1/requests.csv?start=2026-03-10&end=2026-03-10&scope=workspace"

    with listening(service) as address, httpx.Client(headers=service.headers(ADMIN), timeout=20) as client:
        with ExitStack() as stack:
            for _ in range(2):
                held = stack.enter_context(
                    client.stream("GET", f"{address}{view}", headers={"accept-encoding": "identity"})
                )
                assert held.status_code == 200
        wait_until(lambda: client.get(f"{address}{view}").status_code == 200, "a place is free again")


def test_exports_beyond_their_places_are_told_to_come_back(service: TestedService) -> None:
    places = service.store._streams
    taken = list(itertools.takewhile(bool, (places.acquire(blocking=False) for _ in itertools.count())))

    response = ask(service, "/v1/requests.csv")

    assert len(taken) == store.STREAMS
    assert (response.status_code, response.json()["detail"]["code"]) == (503, "system_busy")
    for _ in taken:
        places.release()


def test_a_reader_who_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.http.delivery.STALL_SECONDS", 0.05)
    ended: list[str] = []

    def pieces() -> Generator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.append("yes")

    async def stuck(_: Any) -> None:
        await anyio.sleep(60)

    async def nothing() -> Any:
        await anyio.sleep(60)

    begun = pieces()
    next(begun)
    stream = Stream(begun, {}, "text/csv")
    with pytest.raises(ClientDisconnect):
        anyio.run(stream, {"type": "http", "asgi": {"spec_version": "2.4"}}, nothing, stuck)
    assert ended == ["yes"]


def test_a_tag_is_weak_and_compared_by_what_is_in_it() -> None:
    one = tag(b"a", "b")

    assert one.startswith('W/"')
    assert one != tag(b"ab", "")
    assert still_holds(one, f'"x", {one.removeprefix("W/")}')
    assert still_holds(one, "*")
    assert not still_holds(one, one[:-2])
    assert not still_holds(None, "*")
