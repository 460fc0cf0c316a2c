"""The store: what went in comes out, once and in its newest version; and who may open it."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.errors import StoreError
from aggregator.query import Statement
from aggregator.rows import PART_ROWS
from aggregator.store import Store
from tests.aggregator.events import NOON, call
from tests.aggregator.inserting import EVENTS
from usage_meter.event import MAX_CREDITS_MICRO, MAX_TIME_US, MICRO, UsageEvent, concatenated, pack, unpack

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = ", ".join(
    {
        "credits_micro": "reinterpretAsInt64(credits) AS credits_micro",
        "started_us": "toUnixTimestamp64Micro(started) AS started_us",
    }.get(name, name)
    for name in UsageEvent.__struct_fields__
)


def read(store: Store) -> list[UsageEvent]:
    """All events as the store gives them back, by id."""
    rows = store.select(Statement(f"SELECT {COLUMNS} FROM events FINAL ORDER BY id", {}))
    events = [UsageEvent(**dict(zip(UsageEvent.__struct_fields__, row, strict=True))) for row in rows]
    return [msgspec.structs.replace(event, groups=tuple(event.groups)) for event in events]


def count(store: Store, tail: str = "FINAL") -> int:
    return int(store.select(Statement(f"SELECT count() FROM events {tail}", {}))[0][0])


def by_id(events: Sequence[UsageEvent]) -> list[UsageEvent]:
    return sorted(events, key=lambda event: event.id)


def travelled(*events: UsageEvent) -> list[UsageEvent]:
    """As they are when they have come through Redis."""
    return unpack(pack(concatenated(events)), len(events))


NASTY = [
    "",
    "\0",
    "\0\0nul\0",
    "'; DROP TABLE events; --",
    '"\\"',
    "\\N",
    "{name:String}",
    "%s%d",
    "tab\tnewline\nreturn\r",
    "🎉👩‍👩‍👧",
    "é" * 64,  # 64 characters, 128 bytes
    "\u202eright to left",
    "\ufeff\ufffd",
    "x" * 127,
    "x" * 128,
    "x" * 16_383,
    "x" * 16_384,
    "null",
]


@pytest.mark.parametrize("field", [name for name, type in UsageEvent.__annotations__.items() if type is str])
def test_any_text_comes_back_as_it_was(store: Store, field: str) -> None:
    values: list[dict[str, Any]] = [{field: text} for text in NASTY]
    events = [call(**one) for one in values]

    store.insert(events)

    assert read(store) == by_id(events)


@pytest.mark.parametrize(
    "fields",
    [
        {"started_us": 0},
        {"started_us": MAX_TIME_US},
        {"started_us": 1_234_567_890_123_457},
        {"duration_us": MAX_TIME_US},
        {"ttfb_us": None},
        {"ttfb_us": 0},
        {"ttfb_us": MAX_TIME_US},
        {"version": 2**32 - 1},
        {"status": 0},
        {"status": 65_535},
        {"request_bytes": 2**63 - 1, "response_bytes": 2**63 - 1},
        {"credits_micro": MAX_CREDITS_MICRO},
        {"credits_micro": -MAX_CREDITS_MICRO},
        {"credits_micro": 1},
        {"credits_micro": -1},
        {"id": bytes(16)},
        {"id": b"\xff" * 16},
        {"id": b"\x00'\\\n\xc3\xa9 ninebytes"},
        {"kind": "webhook", "outcome": "disconnected"},
        {"groups": ()},
        {"groups": tuple(NASTY)},
        {"groups": ("twice", "twice")},
        {"quantities": {"whole": 3, "tiny": 5e-324, "huge": -1.7976931348623157e308, "third": 1 / 3}},
        {"quantities": {"greatest": 1.7976931348623157e308, "": 0.0, "negative zero": -0.0}},
        {"quantities": {text: number for number, text in enumerate(NASTY)}},
        {"attributes": dict(zip(NASTY, reversed(NASTY), strict=True))},
        {"attributes": {f"name-{number}": f"value-{number}" for number in range(2000)}},
    ],
    ids=str,
)
def test_the_limits_of_every_field_come_back_exactly(store: Store, fields: dict[str, Any]) -> None:
    (event,) = travelled(call(**fields))
    neighbours = [call(), call()]  # a column of one value, and the same column of several

    store.insert([event])
    alone = read(store)
    store.insert([neighbours[0], event, neighbours[1]])

    assert alone == [event]
    assert read(store) == by_id([event, *neighbours])


texts = st.text(max_size=40)
whole = st.integers(0, 2**63 - 1)
micros = st.integers(0, MAX_TIME_US)
some_events = st.builds(
    UsageEvent,
    id=st.binary(min_size=16, max_size=16),
    version=st.integers(1, 2**32 - 1),
    kind=st.sampled_from(("request", "webhook")),
    started_us=micros,
    duration_us=micros,
    ttfb_us=st.none() | micros,
    groups=st.lists(texts, max_size=3).map(tuple),
    status=st.integers(0, 65_535),
    outcome=st.sampled_from(("ok", "client_error", "server_error", "exception", "disconnected")),
    request_bytes=whole,
    response_bytes=whole,
    credits_micro=st.integers(-MAX_CREDITS_MICRO, MAX_CREDITS_MICRO),
    quantities=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    attributes=st.dictionaries(texts, texts, max_size=3),
    **{name: texts for name, type in UsageEvent.__annotations__.items() if type is str},
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(some_events, max_size=20, unique_by=lambda event: event.id))
def test_whatever_the_contract_allows_comes_back(store: Store, events: list[UsageEvent]) -> None:
    store.select(Statement("TRUNCATE TABLE events", {}))

    store.insert(travelled(*events))

    assert read(store) == by_id(events)


@pytest.mark.parametrize("distinct", [255, 256, 257, 70_000])
def test_a_column_may_have_any_number_of_values(store: Store, distinct: int) -> None:
    moments = [NOON + timedelta(milliseconds=number) for number in range(distinct)]
    events = [call(moment, user=f"user-{n}", model=f"model-{n}") for n, moment in enumerate(moments)]

    store.insert(events)

    found = store.select(Statement("SELECT user, model FROM events FINAL ORDER BY started", {}))
    assert [tuple(row) for row in found] == [(event.user, event.model) for event in events]


def test_events_of_many_days_go_in_together(store: Store) -> None:
    events = [call(NOON + timedelta(days=day, hours=hour)) for hour in range(3) for day in range(-20, 20)]

    store.insert(events)

    assert read(store) == by_id(events)


def test_no_events_are_nothing_to_do(store: Store) -> None:
    store.insert([])

    assert count(store) == 0


def test_the_same_event_again_changes_nothing(store: Store) -> None:
    events = [call() for _ in range(10)]

    store.insert(events + events)
    store.insert(events[3:])

    assert read(store) == by_id(events)


def test_a_higher_version_replaces_and_a_lower_one_does_not(store: Store) -> None:
    first = call(credits=1, voice="alice")
    corrected = msgspec.structs.replace(first, version=3, credits_micro=5 * MICRO, voice="bob", user="")
    late = msgspec.structs.replace(first, version=2, credits_micro=9 * MICRO)

    for inserted in ([first], [corrected, first], [late]):
        store.insert(inserted)

    assert read(store) == [corrected]


def test_versions_of_one_event_in_one_insert_are_one_event(store: Store) -> None:
    first = call()
    versions = [msgspec.structs.replace(first, version=number, credits_micro=number) for number in range(1, 2000)]

    store.insert([*versions[1000:], *versions[:1000]])

    assert len(versions) < PART_ROWS
    assert read(store) == [versions[-1]]


def test_an_id_is_the_workspaces_own(store: Store) -> None:
    ours = call(workspace="ours")
    theirs = msgspec.structs.replace(ours, workspace="theirs", version=9)

    store.insert([ours, theirs])

    assert count(store) == 2


def test_a_path_in_use_names_who_uses_it(store: Store, tmp_path: Path) -> None:
    with running(tmp_path, first=0) as other:
        other.readline()
        with pytest.raises(StoreError) as refused:
            Store(f"chdb://{tmp_path}")

        assert f"the store in {tmp_path} is in use by process {other.pid}" in str(refused.value)
        assert "AGGREGATOR_STORE_URL" in str(refused.value)


def test_a_path_that_cannot_be_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(StoreError, match=f"cannot use the directory {tmp_path}/file/store for the store: Not a dir"):
        Store(f"chdb://{tmp_path}/file/store")


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as refused:
        Store("http://user:secret@127.0.0.1:9/database")

    assert str(refused.value).startswith("cannot open the store http://user:***@127.0.0.1:9/database: no ClickHouse")
    assert "secret" not in str(refused.value)


def test_nothing_of_a_failed_question_is_in_the_next_answer(store: Store) -> None:
    fails_late = "SELECT throwIf(number = 200000), 'secret' FROM numbers(300000) SETTINGS max_block_size = 1000"
    for _ in range(5):
        with pytest.raises(StoreError):
            store.select(Statement(fails_late, {}))

        assert store.select(Statement("SELECT 'ours'", {})) == [("ours",)]


class running:  # noqa: N801  # reads as a context manager
    """A process that inserts; killed at the end as `kill -9` does it."""

    def __init__(self, directory: Path, first: int | None) -> None:
        arguments = [str(directory)] if first is None else [str(directory), str(first)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.aggregator.inserting", *arguments], stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def __enter__(self) -> "running":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def readline(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


def test_questions_at_once_share_the_cores(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as ask: the consumer's inserts and the others' questions count alike."""
    monkeypatch.setattr(store, "_cores", 8)

    def threads() -> int:
        return int(store.select(Statement("SELECT getSetting('max_threads')", {}))[0][0])

    assert threads() == 8
    with store._client():
        assert threads() == 4
        with store._client(), store._client():
            assert threads() == 2
            monkeypatch.setattr(store, "_cores", 2)
            assert threads() == 1
    assert threads() == 2


def test_what_an_insert_returned_for_survives_kill_9(tmp_path: Path) -> None:
    returned: list[int] = []
    for life in range(4):
        with running(tmp_path, first=len(returned) + life) as process:
            held: dict[int, int] = dict(map(int, pair.split(":")) for pair in process.readline().split())  # type: ignore[misc]
            assert [held.get(number) for number in returned] == [EVENTS] * len(returned)
            until = time.monotonic() + 0.13 * (life + 1)  # so that the kills hit different moments of an insert
            while time.monotonic() < until:
                returned.append(int(process.readline()))
    assert len(returned) > 4
