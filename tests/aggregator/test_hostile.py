"""Whatever is sent, the service answers, and never with a failure of its own.

Each parameter of each endpoint, as `/openapi.json` lists them, and each place of each body gets values that break
parsers, encodings, calendars and statements. A sample of them by default; `HOSTILE=3` sends every value three times to
each endpoint, each time at another place: more than 10,000 requests, in some three minutes. Of all that could be sent
(some 45,000) the most say the same, since the endpoints share their parsers.
"""

import itertools
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import anyio
import pytest
from fastapi import FastAPI

from aggregator.dimensions import DIMENSIONS
from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import call
from tests.aggregator.service import TestedService
from tests.conftest import RedisServer

TIMES_EACH = int(os.environ.get("HOSTILE", "0"))
FEW = 8  # requests for each endpoint, where nobody asks for more
AT_ONCE = 4  # of them: more than there are cores, so that one which waits for the store stops nobody
HANGS_SECONDS = 60.0  # the slowest takes one: whoever can make the service work for that long can stop it
MEGABYTE = 1_000_000

TEXTS = [
    "' OR 1=1 --", "'; DROP TABLE events; --", "{p0:String}", "%(p0)s", "\\", "\\'", "`", "*", "%", "_", "NULL",
    "SELECT * FROM system.tables", "x' UNION ALL SELECT workspace FROM events --", "FORMAT JSON", "url('http://h/')",
    "\0", "a\0b", "\n", "\r\n", "\t", "\x1b[31m", "\u202e", "\ufeff", "\uffff", "🙂" * 50, "ß" * 300, "e\u0301",
    "<script>alert(1)</script>", "{{7*7}}", "${7*7}", "=1+1", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "/dev/null",
    "x" * 5000, "x" * MEGABYTE, "", " ", "null", "true", "[]", "{}", "__other__", "attribute.", "quantity.", "not.",
]  # fmt: skip
NUMBERS = [
    "-1", "0", "-0", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "9" * 30, "9" * 5000, "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "0x10", "1_000", "١٢٣", "1.5", "1,5", "+1", "٣", "0.1" + "0" * 400,
]  # fmt: skip
TIMES = [
    "9999-12-31", "9999-12-31T23:59:59Z", "0001-01-01", "0000-00-00", "2026-02-30", "1969-12-31", "2200-01-01",
    "2026-03-10T12:00:00+99:99", "2026-03-10T12:00:00-23:59", "2026-W10", "253402300799", "253402300800000",
    "-62135596800", "24h", "999999d", "999999y", "999999mo", "0d", "1900mo",
]  # fmt: skip
ZONES = [
    "Mars/Olympus", "Europe", "posix/Europe/Berlin", "../UTC", "UTC\0", "Europe/Berlin/", "/Europe/Berlin", "localtime",
    "Factory", "+25:00", "Africa/Monrovia", "Pacific/Apia", "a" * 300,
]  # fmt: skip
HOSTILE = [*TEXTS, *NUMBERS, *TIMES, *ZONES]
# What a query string can hold and a text cannot: bytes that are no UTF-8, a surrogate, half an escape.
RAW = ["%FF", "%ED%A0%80", "%C0%80", "%F4%90%80%80", "%", "%0", "%zz", "%00", "&", "=", "+", "%26%3D", "%u0041"]
# What JSON text can hold and few programs expect.
JSON = [
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', "NaN", "Infinity", "-Infinity", "1e400", "-1e-400", "9" * 5000,
    "-0.0", "1E5", "[" * 5000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "true", "null", "[]", "{}",
    '"', '"\\x"', "'", "{", "[1,]", '{"a":1,"a":2}', "\ufeff1", "// x\n1", "", " ", "\0", '"' + "x" * MEGABYTE + '"',
]  # fmt: skip

PATHS = {"dimension": "voice", "id": "r1", "token_id": "t1"}
STREAMS = ("/v1/live/stream", "/v1/requests/stream")  # they take the log's parameters, and never end

BODIES: dict[str, Any] = {
    "/v1/events": [{"id": "1", "time": "2026-03-10T12:00:00Z", "workspace": "acme", "credits": "1.5", "groups": ["a"],
                    "duration_ms": 1.5, "quantities": {"a": 1}, "attributes": {"a": "b"}, "status": 200, "user": "u"}],
    "/v1/labels/{dimension}": {"en": "Emma"},
    "/v1/limits": [{"subject": "user", "value": "alice", "monthly_credits": 5, "concurrency": 3}],
    "/v1/tokens/{token_id}/revoke": {},
    "/v1/workspace/analytics/query/usage-by-product-over-time": {
        "start_time": 1773100800000, "end_time": 1773187200000, "interval_seconds": 3600, "group_by": ["voice_id"],
        "filters": [{"column": "voice_id", "operation": "in", "values": ["en"]},
                    {"column": "credits", "operation": "ge", "values": [1]},
                    {"column": "timestamp", "operation": "lt", "values": ["2027-01-01T00:00:00Z"]}],
        "time_zone": "Europe/Berlin",
    },
    "/v1/workspace/analytics/requests": {
        "start_time": 1773100800000, "end_time": 1773187200000, "limit": 10, "sort": "asc", "search": "a",
        "filters": [{"column": "trace_id", "operation": "gt", "values": ["en"]}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestedService]:
    directory = tmp_path_factory.mktemp("hostile")
    server = RedisServer(directory)
    server.start()
    with Store(f"chdb://{directory}/store") as store, server.client() as client:
        tested = TestedService(store, client)
        store.insert([call(voice="en", request_id="r1", groups=("staff",))])
        with tested.http:
            yield tested
    server.kill()


class Sent(NamedTuple):
    """A request as bytes on the wire: the address is escaped already."""

    value: str
    method: str
    url: str
    body: bytes | None = None


def sample(requests: Iterable[Sent], seed: str) -> list[Sent]:
    """Some of them; where it was asked for, each value so many times."""
    pick, found = random.Random(seed), list(requests)
    if not TIMES_EACH:
        return pick.sample(found, min(FEW, len(found)))
    by_value: dict[str, list[Sent]] = {}
    for one in found:
        by_value.setdefault(one.value, []).append(one)
    return [one for those in by_value.values() for one in pick.sample(those, min(TIMES_EACH, len(those)))]


Headers = list[tuple[bytes, bytes]]


def by_parameter(service: TestedService) -> Iterator[tuple[str, list[Sent]]]:
    """For each endpoint: each of its parameters with each value, and all filters with the same one."""
    for path, operations in service.app.openapi()["paths"].items():
        for method, operation in operations.items():
            if path in STREAMS:
                continue
            names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            names += ["workspace", "unknown", "not.voice", "attribute.x", "not.attribute.x"] * (path in FILTERED)
            values = [*(quote(value, safe="") for value in HOSTILE), *RAW]
            body = json.dumps(BODIES[path]).encode() if path in BODIES else None
            place = path.format(**PATHS)
            found = [
                Sent(value, method, f"{place}?{_beside(path, name)}{name}={value}", body)
                for name, value in itertools.product(names, values)
            ]
            found += [
                Sent(value, method, path.replace("{", "").replace("}", "") + f"/{value}", body) for value in values
            ]
            found += [
                Sent(value, method, path.format(**dict.fromkeys(PATHS, value)), body) for value in values if "{" in path
            ]
            if path in FILTERED:
                found += [
                    Sent(value, method, f"{place}?" + "&".join(f"{one}={value}" for one in DIMENSIONS))
                    for value in values
                ]
            yield f"{method} {path}", found


FILTERED = ("/v1/usage", "/v1/usage.csv", "/v1/requests", "/v1/requests.csv", "/v1/dimensions/{dimension}")


def _beside(path: str, name: str) -> str:
    """What must be right so that the parameter is looked at."""
    needed = {"start_unix": "1773100800000", "end_unix": "1773187200000"} if path.endswith("/character-stats") else {}
    return "".join(f"{one}={value}&" for one, value in needed.items() if one != name)


def by_place(path: str) -> list[Sent]:
    """A body with each of its places replaced by each value."""
    fragments = [*JSON, *map(json.dumps, HOSTILE)]
    method = "put" if path.startswith(("/v1/labels", "/v1/limits")) else "post"
    url = f"{path.format(**PATHS)}{'?workspace=acme' if method == 'put' else ''}"
    found = [Sent(fragment, method, url, fragment.encode()) for fragment in fragments]
    for place in _places(BODIES[path]):
        template = json.dumps(_replaced(BODIES[path], place))
        found += [Sent(fragment, method, url, template.replace('"@@"', fragment).encode()) for fragment in fragments]
    bodies = (b"", b"\xff\xfe", b"\x1f\x8b", b"\0" * 100, b"[" * MEGABYTE)
    found += [Sent(f"body {body[:9]!r}", method, url, body) for body in bodies]
    return found


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a body: values, and keys as `("name", None)`."""
    if above:
        yield above
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _places(one, (*above, name))
    elif isinstance(value, list):
        for position, one in enumerate(value):
            yield from _places(one, (*above, position))


def _replaced(value: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return "@@"
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[place[0]] = _replaced(value[place[0]], place[1:])
    return changed


async def send(app: FastAPI, sent: Sent, headers: Headers) -> tuple[int, bytes]:
    """Straight into the application, since clients correct what they send: status and body of the answer."""
    path, _, query = sent.url.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method.upper(),
        "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1), "root_path": "",
        "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), *headers],
    }  # fmt: skip
    answer: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": sent.body or b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await anyio.sleep_forever()  # its sender stays on the line
        return waiting.pop()

    async def take(message: dict[str, Any]) -> None:
        answer.append(message)

    with anyio.move_on_after(HANGS_SECONDS) as patience, suppress(Exception):  # what escapes it has been answered: 500
        await app(scope, receive, take)  # type: ignore[arg-type]  # dictionaries, as every server passes them
    assert not patience.cancelled_caught, ("has hung", sent.url[:300], sent.body and sent.body[:300])
    return answer[0]["status"], b"".join(message.get("body", b"") for message in answer[1:])


def answers(service: TestedService, requests: Sequence[tuple[Sent, Headers]]) -> Iterator[tuple[int, bytes]]:
    """Of all of them, in their order; some are on their way at the same time."""
    portal = service.http.portal
    assert portal
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from threads.map(lambda one: portal.call(send, service.app, *one), requests)


def check(service: TestedService, requests: Sequence[Sent]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in service.headers(OPERATOR).items()]
    sent = [(one, headers) for one in requests]
    for one, (status, body) in zip(requests, answers(service, sent), strict=True):
        assert status < 500, (one.method, one.url[:300], one.body and one.body[:300], body[:500])
        if status >= 400:
            assert json.loads(body)["detail"], one  # an error says what is wrong


@pytest.mark.timeout(900)
def test_hostile_parameters(service: TestedService) -> None:
    for name, requests in by_parameter(service):
        check(service, sample(requests, name))


@pytest.mark.parametrize("path", BODIES)
def test_hostile_bodies(service: TestedService, path: str) -> None:
    check(service, sample(by_place(path), path))


def test_hostile_headers(service: TestedService) -> None:
    names = ("authorization", "xi-api-key", "cookie", "accept", "accept-encoding", "content-type", "host", "x")
    prefixes = {"authorization": b"Bearer ", "cookie": b"usage_meter_token="}
    pairs = list(itertools.product(names, HOSTILE))
    pairs = pairs if TIMES_EACH else random.Random(1).sample(pairs, FEW)
    sent = [
        (
            Sent(value, "GET", "/v1/usage"),
            [(name.encode(), prefixes.get(name, b"") + value.encode("utf-8", "surrogatepass"))],
        )
        for name, value in pairs
    ]
    for pair, (status, _) in zip(pairs, answers(service, sent), strict=True):
        assert status in (401, 429), pair


def test_a_body_that_is_too_large_is_refused_before_it_is_read_to_its_end(service: TestedService) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * MEGABYTE

    for path in BODIES.keys() - {"/v1/tokens/{token_id}/revoke"}:
        method = "PUT" if path.startswith(("/v1/labels", "/v1/limits")) else "POST"
        url = f"{path.format(**PATHS)}{'?workspace=acme' if method == 'PUT' else ''}"
        response = service.http.request(method, url, content=pieces(), headers=service.headers(OPERATOR))
        assert (response.status_code, response.json()["detail"]["code"]) == (413, "request_too_large")


def test_the_store_is_as_it_was(service: TestedService) -> None:
    """Runs last: a statement that got through would have left something."""
    total = service.get("/v1/usage", OPERATOR, start="2026-03-10", end="2026-03-10", metric="requests")
    assert [one["total"] for one in total["series"]] == [1]
