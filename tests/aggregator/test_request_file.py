"""The Request Log's files as the engine writes them, compared with plain Python, byte by byte."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pyarrow
import pyarrow.ipc
import pytest

from aggregator import slices
from aggregator.buckets import DAY_US, HOUR_US, from_us, shifts, to_us
from aggregator.dimensions import Filter
from aggregator.formats import ARROW, CSV
from aggregator.labels import Labels, Names
from aggregator.query import EVERYBODY, Audience, Statement
from aggregator.reader import Reader
from aggregator.request_file import csv_statement, table_statement
from aggregator.request_log import RequestsQuery
from aggregator.store import Store
from tests.aggregator.csv_oracle import requests_csv
from tests.aggregator.events import NOON, call, us
from usage_meter.event import MAX_TIME_US, UsageEvent, id_text

ACME = Audience("acme")
DAY = RequestsQuery(us(NOON) - DAY_US, us(NOON) + DAY_US, audience=ACME, limit=1000)


def written(reader: Reader, query: RequestsQuery) -> str:
    return b"".join(reader.requests_file(query, CSV)).decode()


def expected(reader: Reader, query: RequestsQuery) -> str:
    return requests_csv(reader.requests(query).requests)


def test_a_call_as_a_line(store: Store, reader: Reader) -> None:
    store.insert(
        [
            call(
                credits="2.50",
                id=bytes.fromhex("0192f3a48b1c7abc8def0123456789ab"),
                version=3,
                groups=("staff", "b,c"),
                api_key="k1",
                api_key_hint="a1b2",
                product="tts",
                voice='the "old" one',
                model="flash",
                region="eu",
                source="app",
                duration_us=250_000,
                ttfb_us=1_500,
                request_bytes=12,
                response_bytes=34,
                quantities={"characters": 5.0, "audio_seconds": 0.25},
                attributes={"tier": "gold"},
                request_id="r1",
                trace_id="t1",
                instance="pod-1",
            )
        ]
    )

    assert written(reader, DAY) == (
        "time,id,kind,workspace,user,groups,api_key,api_key_hint,product,voice,model,region,source,method,route,path,"
        "status,outcome,error,duration_ms,ttfb_ms,request_bytes,response_bytes,credits,quantities,attributes,"
        "request_id,trace_id,instance,version,user_name,api_key_name,product_name,voice_name,model_name\r\n"
        "2026-03-10T12:00:00.000000+00:00,0192f3a4-8b1c-7abc-8def-0123456789ab,request,acme,alice,"
        '"[""staff"",""b,c""]",k1,a1b2,tts,"the ""old"" one",flash,eu,app,POST,/v1/text-to-speech/{voice_id},'
        "/v1/text-to-speech/en,200,ok,,250.0,1.5,12,34,2.5,"
        '"{""characters"":5.0,""audio_seconds"":0.25}","{""tier"":""gold""}",r1,t1,pod-1,3,,,,,\r\n'
    )


def test_an_empty_log_is_its_header(reader: Reader) -> None:
    assert written(reader, DAY) == requests_csv([])


def test_no_cell_begins_a_formula(store: Store, reader: Reader) -> None:
    fields = ("user", "api_key", "path", "request_id", "voice", "error", "trace_id", "source")
    starts = ("=", "+", "-", "@", "\t", "\r")
    suspect: list[dict[str, Any]] = [{field: f"{start}~"} for field in fields for start in starts]
    harmless: list[dict[str, Any]] = [{field: f"a{start}~"} for field in fields for start in starts]
    store.insert([call(**one) for one in (*suspect, *harmless)])

    rows = list(csv.DictReader(io.StringIO(written(reader, DAY), newline="")))

    for field in fields:
        found = sorted(row[field] for row in rows if "~" in row[field])
        assert found == sorted([*(f"'{start}~" for start in starts), *(f"a{start}~" for start in starts)]), field


ALPHABET = "ab =+-@\t\r\n\"',;|/\\%{}[]\x00\x01\x1f\x7fé€\u2028😀"
WORDS = "ab \"',/\\\t\n{}:=é€😀"


def random_call(random: Random) -> UsageEvent:
    """Anything that an event may hold, with a liking for what is hard to write."""

    def text(alphabet: str = ALPHABET) -> str:
        return "".join(random.choices(alphabet, k=random.choice((0, 1, 1, 2, 6))))

    def number(greatest: int) -> int:
        return random.choice((0, 1, 999, 1000, 1500, random.randrange(greatest), greatest))

    def quantity() -> float:
        return random.choice((0.0, 1.0, 0.1, 1 / 3, 1e-5, 123456.789, float(2**53), random.random(), -2.5))

    return call(
        NOON - timedelta(microseconds=random.randrange(DAY_US)),
        Decimal(random.randrange(-(10**18) + 1, 10**18)) / 10**6 if random.random() < 0.5 else random.randrange(1000),
        version=1 + number(2**32 - 2),
        duration_us=number(MAX_TIME_US),
        ttfb_us=random.choice((None, number(MAX_TIME_US))),
        groups=tuple({text(WORDS) for _ in range(random.randrange(3))}),
        status=number(65_535),
        request_bytes=number(2**63 - 1),
        response_bytes=number(2**63 - 1),
        quantities={text(WORDS): quantity() for _ in range(random.randrange(3))},
        attributes={text(WORDS): text(WORDS) for _ in range(random.randrange(3))},
        **{name: text() for name in TEXTS},
    )


def test_names_stand_behind_what_they_name(store: Store, reader: Reader) -> None:
    names = {"voice": {"en": 'Emma, "the old one"', "=1": "=2"}, "user": {"alice": "Alice\nA."}, "model": {}}
    for dimension, labels in names.items():
        Labels(store).put("acme", dimension, labels)
    Labels(store).put("globex", "voice", {"de": "Not acme's"})
    store.insert([call(voice=voice, user=user) for voice in ("en", "de", "=1", "") for user in ("alice", "bob")])

    assert written(reader, DAY) == requests_csv(reader.requests(DAY).requests, names)
    assert "Not acme's" not in written(reader, DAY)


TEXTS = (
    "user", "api_key", "api_key_hint", "product", "voice", "model", "region", "source", "method", "route", "path",
    "error", "request_id", "trace_id", "instance",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("descending", [True, False])
def test_the_engine_writes_what_python_would(store: Store, reader: Reader, seed: int, descending: bool) -> None:
    random = Random(seed)
    store.insert([random_call(random) for _ in range(1000)])
    query = replace(DAY, descending=descending, zone=ZoneInfo("Asia/Kolkata"))

    found, wanted = written(reader, query), expected(reader, query)

    assert [pair for pair in zip(found.split("\n"), wanted.split("\n"), strict=True) if len(set(pair)) > 1][:3] == []
    assert found == wanted


def amount(reader: Reader) -> Any:
    """Of the only call."""
    (row,) = csv.DictReader(io.StringIO(written(reader, DAY)))
    return json.loads(row["quantities"])["amount"]


@pytest.mark.parametrize("quantity", [1e16, 1.5e20, 1e21, 1e300, 1e-6, 5e-324, -0.0])
def test_extreme_quantities_are_the_same_number_again(store: Store, reader: Reader, quantity: float) -> None:
    store.insert([call(quantities={"amount": quantity})])

    found = amount(reader)
    assert (found, type(found)) == (quantity, float)


@pytest.mark.parametrize("not_finite", ["nan", "inf", "-inf"])
def test_what_is_no_number_in_an_older_store_is_null(store: Store, reader: Reader, not_finite: str) -> None:
    store.insert([call(quantities={"amount": 1.0})])
    change = f"ALTER TABLE events UPDATE quantities = map('amount', {not_finite}) WHERE true"
    store.select(Statement(f"{change} SETTINGS mutations_sync = 2", {}))

    assert amount(reader) is None


def test_json_in_a_cell_is_the_same_text_again(store: Store, reader: Reader) -> None:
    texts = [chr(code) for code in range(0x20)] + ["\x7f", "\u2028", "\u2029", "\\", '\\"', "/"]
    wanted = {f"r{i}": ([f"{text}a"], {f"k{text}": f"{text}v"}) for i, text in enumerate(texts)}
    store.insert([call(request_id=id, groups=tuple(one[0]), attributes=one[1]) for id, one in wanted.items()])

    rows = csv.DictReader(io.StringIO(written(reader, DAY), newline=""))

    assert {row["request_id"]: (json.loads(row["groups"]), json.loads(row["attributes"])) for row in rows} == wanted


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin", "Australia/Lord_Howe"])
def test_times_are_those_of_the_zone_also_where_its_clocks_change(store: Store, reader: Reader, zone: str) -> None:
    year = RequestsQuery(us(NOON) - 366 * DAY_US, us(NOON), zone=ZoneInfo(zone), audience=ACME, limit=1000)
    changes = [one.start_us for one in shifts(year.start_us, year.end_us, year.zone)]
    moments = [
        year.start_us,
        us(NOON) - 90 * DAY_US,
        *(change + apart for change in changes[1:] for apart in (-1, 0, 1)),
    ]
    store.insert([call(from_us(moment)) for moment in moments])

    assert written(reader, year) == expected(reader, year)
    assert len(expected(reader, year).splitlines()) == 1 + len(moments)


@pytest.mark.parametrize(
    ("zone", "start", "end", "expected"),
    [
        ("UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", [("2026-01-01T00:00:00Z", "+00:00")]),
        (
            "Europe/Berlin",
            "2026-01-01T00:00:00.5Z",
            "2026-12-01T00:00:00Z",
            [
                ("2026-01-01T00:00:00.5Z", "+01:00"),
                ("2026-03-29T01:00:00Z", "+02:00"),
                ("2026-10-25T01:00:00Z", "+01:00"),
            ],
        ),
        ("Europe/Berlin", "2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", [("2026-03-29T00:59:59Z", "+01:00")]),
        (
            "Europe/Berlin",
            "2026-03-29T00:59:59.999999Z",
            "2026-03-29T01:00:00.000001Z",
            [("2026-03-29T00:59:59.999999Z", "+01:00"), ("2026-03-29T01:00:00Z", "+02:00")],
        ),
        (
            "Australia/Lord_Howe",  # by half an hour
            "2026-04-01T00:00:00Z",
            "2026-04-10T00:00:00Z",
            [("2026-04-01T00:00:00Z", "+11:00"), ("2026-04-04T15:00:00Z", "+10:30")],
        ),
        ("America/Recife", "2000-10-01T00:00:00Z", "2000-10-31T00:00:00Z",  # a summer time of a week
         [("2000-10-01T00:00:00Z", "-03:00"), ("2000-10-08T03:00:00Z", "-02:00"), ("2000-10-15T02:00:00Z", "-03:00")]),
        ("Africa/Monrovia", "1972-01-06T00:00:00Z", "1972-01-08T00:00:00Z",
         [("1972-01-06T00:00:00Z", "-00:44:30"), ("1972-01-07T00:44:30Z", "+00:00")]),
    ],
)  # fmt: skip
def test_an_offset_holds_from_an_instant_on(zone: str, start: str, end: str, expected: list[tuple[str, str]]) -> None:
    first, last = (to_us(datetime.fromisoformat(text)) for text in (start, end))

    found = shifts(first, last, ZoneInfo(zone))

    assert [(one.start_us, one.text) for one in found] == [
        (to_us(datetime.fromisoformat(instant)), text) for instant, text in expected
    ]


def test_every_offset_of_two_centuries_is_found_by_the_zones_own_rules() -> None:
    zone = ZoneInfo("Europe/London")

    found = shifts(0, MAX_TIME_US, zone)

    assert len(found) == 2 * 230 - 2  # 1970 and 1971 were one long summer
    assert {one.text for one in found} == {"+00:00", "+01:00"}
    assert all(a.offset_us != b.offset_us for a, b in pairwise(found))


def counted(*calls: tuple[int, int], audience: Audience = EVERYBODY) -> list[tuple[int, int, int]]:
    """The slices of two days as `(start hour, end hour, calls)`."""
    query = RequestsQuery(0, 48 * HOUR_US, audience=audience, descending=False)
    found = slices.slices(query, [(hour * HOUR_US, count) for hour, count in calls])
    return [(one.query.start_us // HOUR_US, one.query.end_us // HOUR_US, one.calls) for one in found]


def test_slices_hold_no_more_than_they_may_and_cover_the_range_without_gaps() -> None:
    most = slices.SLICE_CALLS

    assert counted() == [(0, 48, 0)]
    assert counted((3, most)) == [(0, 48, most)]
    assert counted((3, most - 1), (5, 1), (7, 1)) == [(0, 7, most), (7, 48, 1)]
    assert counted((3, 1), (5, most + 1), (7, 1)) == [(0, 5, 1), (5, 7, most + 1), (7, 48, 1)]
    assert counted((0, most), (1, most), (2, most)) == [(0, 1, most), (1, 2, most), (2, 48, most)]


def test_days_of_one_workspace_are_put_together_only_where_they_hold_little() -> None:
    most = slices.ORDERED_CALLS

    assert counted((0, most - 1), (24, 1), audience=ACME) == [(0, 48, most)]
    assert counted((0, most), (24, 1), audience=ACME) == [(0, 24, most), (24, 48, 1)]
    assert counted((0, 1), (24, 9 * most), audience=ACME) == [(0, 24, 1), (24, 48, 9 * most)]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(
    "asked",
    [
        RequestsQuery(us(NOON), us(NOON) + HOUR_US, audience=ACME),
        RequestsQuery(us(NOON), us(NOON) + HOUR_US, audience=Audience("acme", "alice")),
        RequestsQuery(us(NOON), us(NOON) + HOUR_US, filters=(Filter("workspace", ("acme",)),)),
    ],
)
@pytest.mark.parametrize("made", [csv_statement, table_statement])
def test_one_workspaces_calls_are_read_as_they_lie(
    store: Store, asked: RequestsQuery, descending: bool, made: Callable[[RequestsQuery, Names], Statement]
) -> None:
    """Nothing is sorted, so nothing is held: not even calls that were corrected or came in several parts."""
    for version in (1, 2):
        store.insert([call(NOON + timedelta(seconds=i), version=version) for i in range(100)])
    query = replace(asked, descending=descending)
    statement = made(query, {})

    steps = [str(row[0]) for row in store.select(Statement(f"EXPLAIN PIPELINE {statement.sql}", statement.parameters))]

    assert query.is_of_one_workspace
    assert slices.lies_in_order(query)
    assert any("InReverseOrder" if descending else "InOrder" in step for step in steps), steps
    assert not [step for step in steps if "MergeSorting" in step]


def test_what_lies_in_order_is_of_one_workspace_and_few_days() -> None:
    days = replace(DAY, start_us=us(NOON), end_us=us(NOON) + (slices.OPEN_DAYS - 1) * DAY_US)

    assert slices.lies_in_order(days)
    assert not slices.lies_in_order(replace(days, end_us=days.end_us + DAY_US)), (
        "noon to noon: a day more than its length"
    )
    assert not slices.lies_in_order(replace(days, audience=EVERYBODY))


@pytest.mark.parametrize("days", [1, slices.OPEN_DAYS + 2])
@pytest.mark.parametrize("descending", [True, False])
def test_a_table_is_in_order_however_long_its_range(store: Store, reader: Reader, days: int, descending: bool) -> None:
    random = Random(3)
    calls = [call(NOON - timedelta(seconds=random.randrange(days * 86_400))) for _ in range(500)]
    store.insert(calls)
    store.insert([msgspec.structs.replace(one, credits_micro=7, version=2) for one in calls[::3]])
    query = replace(DAY, start_us=us(NOON) - days * DAY_US, descending=descending)

    file = pyarrow.ipc.open_file(b"".join(reader.requests_file(query, ARROW))).read_all()

    wanted = sorted(((one.started_us, id_text(one.id)) for one in calls), reverse=descending)
    assert [(to_us(at), id) for at, id in zip(file["time"].to_pylist(), file["id"].to_pylist(), strict=True)] == wanted


def test_a_filter_for_several_workspaces_or_against_one_leaves_several() -> None:
    for filter in (Filter("workspace", ("a", "b")), Filter("workspace", ("a",), negated=True), Filter("voice", ("a",))):
        assert not replace(DAY, audience=EVERYBODY, filters=(filter,)).is_of_one_workspace


def test_a_burst_is_cut_as_finely_as_it_must_be(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of calls in one minute, dozens within one instant, and few around them, in slices of ten."""
    monkeypatch.setattr(slices, "SLICE_CALLS", 10)
    monkeypatch.setattr(slices, "ORDERED_CALLS", 10)
    random = Random(1)
    burst = [
        call(NOON + timedelta(milliseconds=random.randrange(60_000)), workspace=random.choice("xyz"))
        for _ in range(300)
    ]
    instant = [call(NOON + timedelta(seconds=30), workspace=random.choice("xyz")) for _ in range(30)]
    around = [call(NOON + timedelta(hours=hour), workspace=random.choice("xyz")) for hour in range(-20, 20)]
    store.insert([*burst, *instant, *around])
    corrected = [msgspec.structs.replace(one, credits_micro=7, version=2) for one in (*burst, *around)[::3]]
    store.insert(corrected)
    for audience in (EVERYBODY, Audience("x"), Audience("y")):
        for descending in (True, False):
            query = replace(DAY, audience=audience, descending=descending)

            assert written(reader, query) == expected(reader, query)


def test_a_slice_that_is_sorted_on_the_disk_is_the_same_file(
    store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sort may hold in memory is so little here that each block of calls becomes a run of its own."""
    monkeypatch.setitem(CSV.settings, "max_bytes_before_external_sort", 1)
    monkeypatch.setitem(CSV.settings, "max_block_size", 50)
    random = Random(2)
    store.insert(
        [call(NOON + timedelta(seconds=random.randrange(600)), workspace=random.choice("xyz")) for _ in range(900)]
    )
    query = replace(DAY, audience=EVERYBODY)

    assert written(reader, query) == expected(reader, query)
