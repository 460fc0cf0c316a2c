"""`import`, `query` and `tail` against a running service: the real application on a real port."""

import csv
import gzip
import io
import json
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from aggregator.cli import app
from aggregator.commands import importer, tail_command
from aggregator.commands.client import Client
from aggregator.commands.event_file import BadLine, Line
from aggregator.commands.importer import Importer
from aggregator.errors import ServiceError
from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService, listening
from tests.conftest import free_port, wait_until

LOG = """\
1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 203 "-" "agent" 0.250
1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 203 "-" "agent" 0.250
1.2.3.4 - - [17/May/2015:23:05:03 +0000] "POST /b HTTP/1.1" 500 7 "-" "agent" 1.000
"""
DAY = timedelta(days=1)
MAY = ("--start", "2015-05-17", "--end", "2015-05-18")


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> TestedService:
    return TestedService(store, redis_client)


@pytest.fixture
def url(service: TestedService, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The service's address; the commands ask it as operator unless they are told otherwise."""
    with listening(service) as address:
        monkeypatch.setenv("AGGREGATOR_URL", address)
        monkeypatch.setenv("AGGREGATOR_TOKEN", service.tokens.make(Principal("operator"), days=1))
        yield address


def run(*arguments: str, code: int = 0, input: bytes | None = None, env: Mapping[str, str] = {"COLUMNS": "100"}) -> str:
    """What the command prints, its errors too."""
    result = CliRunner().invoke(app, arguments, input=input, env=env)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_a_log_is_imported_once_however_often_it_is_read(service: TestedService, url: str, tmp_path: Path) -> None:
    file, grown = tmp_path / "access.log", tmp_path / "access.log.gz"
    file.write_text(LOG)
    grown.write_bytes(gzip.compress((LOG + LOG.replace("/b", "/c")[-80:].splitlines()[-1] + "\n").encode()))

    command = ("--format", "combined", "--workspace", "acme")
    assert run("import", str(file), *command).startswith("3 events recorded in ")
    run("import", "-", *command, input=file.read_bytes())
    service.drain()

    assert service.get("/v1/usage", start="2015-05-17", end="2015-05-18", metric="requests")["series"][0]["total"] == 3
    assert service.get("/v1/usage", start="2015-05-17", end="2015-05-18", metric="latency_avg")["series"][0][
        "total"
    ] == pytest.approx(500)


def test_what_travels_far_is_compressed(service: TestedService, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "is_near", False)

    run("import", "-", "--format", "combined", "--workspace", "acme", input=LOG.encode())
    service.drain()

    assert service.get("/v1/usage", start="2015-05-17", end="2015-05-18", metric="requests")["series"][0]["total"] == 3


def test_two_servers_logs_are_told_apart_by_their_source(service: TestedService, url: str) -> None:
    for source in ("web-1", "web-2", "web-2"):
        command = ("--format", "combined", "--workspace", "acme", "--source", source)
        run("import", "-", *command, input=LOG.encode())
    service.drain()

    table = run("query", *MAY, "--metric", "requests", "--breakdown", "source", "--interval", "total")
    assert [line.split()[:2] for line in table.splitlines()[2:4]] == [["web-1", "3"], ["web-2", "3"]]


def test_bad_lines_are_named_and_left_out(service: TestedService, url: str) -> None:
    good = '{"id": "1", "time": "2015-05-17T00:00:00Z", "workspace": "acme"}'
    lines = [
        good,
        '{"id": "2", "time": "2015-05-17T00:00:00", "workspace": "acme"}',
        '{"id": "3", "time": 1431820800, "workspace": "acme", "credits": "many"}',
        "nonsense",
        '{"id": "4", "time": 1431820800, "workspace": "acme", "sttatus": 200}',
        good.replace('"1"', '"5"'),
    ]
    body = "\n".join(lines).encode()

    said = run("import", "-", "--format", "jsonl", input=body, code=1)

    assert "line 2: time '2015-05-17T00:00:00' has no offset" in said
    assert "line 3: credits credits are 'many'" in said or "line 3: credits are 'many'" in said
    assert "line 4: is not JSON" in said
    assert "line 5: Object contains unknown field `sttatus`" in said
    assert "2 events recorded, 4 bad lines" in said
    service.drain()
    assert service.get("/v1/usage", start="2015-05-17", end="2015-05-18", metric="requests")["series"][0]["total"] == 2
    assert run("import", "-", "--format", "jsonl", "--skip-bad", input=body).startswith("2 events recorded, 4 bad")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/nowhere", "--format", "csv"), "cannot read /nowhere: No such file"),
        (("-", "--format", "combined", "--set", "credits=1"), "--set is 'credits=1': must be FIELD=VALUE"),
        (("-", "--format", "combined"), "line 1: workspace is missing"),
        (("-", "--format", "csv"), "line 1 has the column"),
        (
            ("-", "--format", "combined", "--url", "localhost:80"),
            "AGGREGATOR_URL is 'localhost:80': must look like http",
        ),
        (
            ("-", "--format", "combined", "--token", "x"),
            "the token is not valid here (set AGGREGATOR_TOKEN or --token)",
        ),
    ],
)
def test_an_import_that_cannot_begin_says_why(url: str, arguments: tuple[str, ...], said: str) -> None:
    assert said in run("import", *arguments, input=LOG.encode(), code=2)


def test_another_format_is_noticed_instead_of_listed_line_by_line(url: str) -> None:
    said = run("import", "-", "--format", "jsonl", input=LOG.encode() * 1000, code=2)

    assert "none of the first 100 lines is an event: is --format right?" in said


def test_a_service_that_comes_back_gets_what_it_missed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that stays away ends it, with the line from which on nothing is sure."""
    monkeypatch.setattr(importer, "FIRST_PAUSE_SECONDS", 0.01)
    failing = FailingClient(times=3)
    assert Importer(failing, report=lambda _: None).run(lines(7)).accepted == 7

    monkeypatch.setattr(importer, "RETRY_SECONDS", 0.1)
    with pytest.raises(ServiceError, match="line 1 and what follows"):
        Importer(FailingClient(times=1000), report=lambda _: None).run(lines(7))


def test_what_only_the_service_refuses_costs_only_that_line(service: TestedService, url: str) -> None:
    token = service.tokens.make(Principal("ingest", "acme"), days=1)
    body = "\n".join(f'{{"id": "{n}", "time": {n}, "workspace": "{"other" if n == 3 else ""}"}}' for n in range(1, 6))

    said = run("import", "-", "--format", "jsonl", "--token", token, input=body.encode(), code=1)

    assert "line 3: workspace 'other' is not the token's" in said
    assert "4 events recorded, 1 bad line in" in said


class FailingClient(Client):
    """A service that is away so many times, and then takes everything."""

    def __init__(self, times: int) -> None:
        super().__init__("http://127.0.0.1:1")
        self.times = times

    def post(self, path: str, body: bytes = b"", headers: object = None) -> object:
        self.times -= 1
        if self.times >= 0:
            raise ServiceError("away")
        return {}


def lines(count: int) -> Iterator[Line | BadLine]:
    return (Line(number + 1, {"id": str(number), "time": 1, "workspace": "acme"}) for number in range(count))


def test_our_own_export_comes_back_as_it_was(service: TestedService, url: str) -> None:
    """Into the same place it changes nothing; elsewhere it is the same."""
    service.store.insert(
        [
            call(
                voice="=1+1", user="a,b", groups=("x", "y"), credits="1.000001", quantities={"tokens": 2.0},
                attributes={"tier": "gold"}, api_key_hint="abcd", instance="host:1", ttfb_us=7, error="e\nf",
            ),
            call(status=500, kind="webhook"),
        ]
    )  # fmt: skip
    headers, span = service.headers(Principal("operator")), {"last": "12mo", "kind": ["request", "webhook"]}
    before = service.http.get("/v1/requests.csv", params=span, headers=headers).content
    assert len(list(csv.reader(io.StringIO(before.decode())))) == 3

    run("import", "-", "--format", "csv", input=before)
    service.drain()

    assert service.http.get("/v1/requests.csv", params=span, headers=headers).content == before


def test_a_question_is_answered_as_a_table_with_totals(service: TestedService, url: str) -> None:
    run("import", "-", "--format", "combined", "--workspace", "acme", input=LOG.encode())
    service.drain()

    assert run("query", *MAY, "--metric", "requests", "--breakdown", "method", "--tz", "Asia/Kolkata") == (
        "API requests by Method per day, 2015-05-17 to 2015-05-18 (Asia/Kolkata)\n"
        "Day         GET  POST  All\n"
        "2015-05-17    2     0    2\n"
        "2015-05-18    0     1    1\n"
        "Total         2     1    3\n"
    )
    question = ("--metric", "errors", "--breakdown", "method", "--interval", "total")
    assert run("query", *MAY, *question, "--filter", "status=5xx").splitlines()[1:] == [
        "Method  Total",
        "POST        1",
    ]


def test_for_programs_there_are_the_services_own_csv_and_json(service: TestedService, url: str) -> None:
    run("import", "-", "--format", "combined", "--workspace", "acme", input=LOG.encode())
    service.drain()
    question = (*MAY, "--metric", "requests", "--breakdown", "method", "--interval", "total")

    assert run("query", *question, "--csv").splitlines()[1:] == [
        "2015-05-17T00:00:00+00:00,GET,2",
        "2015-05-17T00:00:00+00:00,POST,1",
    ]
    assert [one["total"] for one in json.loads(run("query", *question, "--json"))["series"]] == [2, 1]


def test_many_series_are_shown_by_their_course_where_columns_do_not_fit(service: TestedService, url: str) -> None:
    for voice in range(30):
        service.store.insert([call(NOON, voice=f"voice-{voice:02}", credits=voice + 1), call(NOON + 3 * DAY, voice="")])
    question = ("--start", "2026-03-10", "--end", "2026-03-16", "--breakdown", "voice", "--top", "4")

    assert run("query", *question).splitlines()[:3] == [
        "Credits by Voice per day, 2026-03-10 to 2026-03-16 (UTC)",
        "Day         (none)  voice-29  voice-28  voice-27  Other  All",
        "2026-03-10       0        30        29        28    378  465",
    ]
    assert run("query", *question, env={"COLUMNS": "50"}).splitlines()[1:4] == [
        "Voice     Total  Course ",
        "(none)       30  ▁▁▁█▁▁▁",
        "voice-29     30  █▁▁▁▁▁▁",
    ]


def test_a_question_is_drawn(service: TestedService, url: str, tmp_path: Path) -> None:
    service.store.insert([call(NOON, voice="a")])

    run("query", "--start", "2026-03-01", "--breakdown", "voice", "--png", str(tmp_path / "chart.png"))

    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--metric", "voices", "--interval", "decade"), 2, "metric: 'voices' is unknown: must be one of credits"),
        (("--metric", "voices", "--interval", "decade"), 2, "interval: 'decade' is unknown"),
        (("--filter", "voice"), 2, "--filter is 'voice': must be DIMENSION=VALUE"),
        (("--filter", "voise=a"), 2, "voise: is not a parameter here"),
        (("--csv", "--json"), 2, "--csv, --json and --png are three forms of one answer"),
        (("--png", "x.png", "--metric", "voices"), 2, "metric: 'voices' is unknown: must be one of credits"),
        (("--png", "/nowhere/x.png"), 2, "cannot write /nowhere/x.png: No such file or directory"),
        (("--token", "nonsense"), 2, "the token is not valid here"),
        (("--url", "http://127.0.0.1:1"), 1, "nothing answers at http://127.0.0.1:1"),
        (("--url", "ftp://x"), 2, "AGGREGATOR_URL is 'ftp://x': must look like"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    url: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert f"usage-meter: {said}" in run("query", *arguments, code=code)


def test_an_address_of_something_else_is_said_to_be_one(url: str) -> None:
    assert "GET /elsewhere/v1/usage: Not Found" in run("query", "--url", f"{url}/elsewhere", code=2)


def test_who_has_the_services_secret_asks_as_operator(
    service: TestedService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGGREGATOR_TOKEN")
    assert "no token" in run("query", code=2)

    monkeypatch.setenv("AGGREGATOR_SECRET", "a secret of the tests, long enough to sign")
    assert run("query").startswith("Credits per day")


def test_the_tail_shows_calls_as_they_are_stored_and_connects_again(
    service: TestedService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_command, "FIRST_PAUSE_SECONDS", 0.01)
    client = BreakingClient(url, service.tokens.make(Principal("operator"), days=1))
    calls = tail_command.calls(client, [("not.voice", "b")])
    found: list[str] = []

    def read() -> None:
        found.extend(islice(calls, 2))
        calls.close()

    reading = threading.Thread(target=read, daemon=True)

    reading.start()
    wait_until(lambda: client.connections >= 2, "it has connected again")

    def both_seen() -> bool:
        service.store.insert([call(datetime.now(UTC), voice=voice) for voice in ("b", "a")])
        return len(found) == 2

    wait_until(both_seen, "two calls are seen")

    assert [json.loads(one)["voice"] for one in found] == ["a", "a"]
    assert " ok " in str(tail_command.line(found[0]))
    reading.join(5)


class BreakingClient(Client):
    """Its first connection breaks as soon as it is there."""

    connections = 0

    def lines(self, path: str, items: object = (), silence_seconds: float = 1.0) -> Iterator[str]:
        self.connections += 1
        if self.connections == 1:
            yield ": tail"
            raise ServiceError("gone")
        yield from super().lines(path, items, silence_seconds)  # type: ignore[arg-type]


def test_a_tail_of_nothing_that_answers_ends() -> None:
    assert "nothing answers" in run("tail", "--url", f"http://127.0.0.1:{free_port()}", code=1)
