"""`usage.set` and `usage.identify`: what they take, from where, and that no value ever hurts the app."""

import asyncio
import enum
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from tests.meter.fakes import ListMeter
from usage_meter import Caller, usage
from usage_meter.call import Call
from usage_meter.current import current


class Door:
    """A call without a framework."""

    def __init__(self) -> None:
        self.meter = ListMeter()
        self.call = Call(self.meter, "POST", "/v1/speech", self.meter.callers.anonymous)

    @contextmanager
    def open(self) -> Iterator[None]:
        token = current.set(self.call)
        self.call.enter()
        yield
        current.reset(token)


@pytest.fixture
def door() -> Door:
    return Door()


def test_what_the_handler_says_is_on_the_event(door: Door) -> None:
    with door.open():
        usage.set(voice="en-us", product="text_to_speech", model="flash", credits=5, characters=10, tier="gold")
        usage.set(region="eu", source="web", user="alice", seconds=Decimal("1.5"), cached=True, skipped=None)
        door.call.event.status = 200
        door.call.finish()

    event = door.meter.event
    assert (event.voice, event.product, event.model) == ("en-us", "text_to_speech", "flash")
    assert (event.region, event.source, event.user) == ("eu", "web", "alice")
    assert event.credits_micro == 5_000_000
    assert event.quantities == {"characters": 10.0, "seconds": 1.5}
    assert event.attributes == {"tier": "gold", "cached": "true"}
    assert event.outcome == "ok"
    assert event.version == 1
    assert door.meter.failures() == []


class Integral:
    """A number of another library."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("credits", "micro"),
    [(3, 3_000_000), (0.1, 100_000), (Decimal("2.5"), 2_500_000), ("0.000001", 1), (-4, -4_000_000)],
)
def test_credits_are_exact_in_every_form(door: Door, credits: Any, micro: int) -> None:
    door.call.fill({"credits": credits})
    door.call.finish()

    assert door.meter.event.credits_micro == micro


def test_credits_of_another_librarys_number_are_taken(door: Door) -> None:
    door.call.fill({"credits": Integral()})

    assert door.call.event.credits_micro == 7_000_000


class Shade(enum.Enum):
    DARK = "dark"


def test_enumerations_and_uuids_are_texts(door: Door) -> None:
    number = uuid.UUID(int=1)
    door.call.fill({"voice": Shade.DARK, "job": number, "region": 7})
    door.call.finish()

    assert (door.meter.event.voice, door.meter.event.region) == ("dark", "7")
    assert door.meter.event.attributes == {"job": str(number)}


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "values",
    [
        {"credits": float("nan")},
        {"credits": "many"},
        {"credits": 10**30},
        {"credits": Hostile()},
        {"characters": float("inf")},
        {"characters": 10**400},
        {"voice": ["a", "b"]},
        {"voice": Hostile()},
        {"tier": Hostile()},
        {"tier": b"bytes"},
        {"outcome": "splendid"},
        {"outcome": Hostile()},
    ],
)
def test_a_strange_value_is_counted_and_the_others_are_still_taken(door: Door, values: dict[str, Any]) -> None:
    with door.open():
        usage.set(**values, model="flash")
        door.call.finish()

    assert door.meter.failures() == ["usage.set"]
    assert door.meter.event.model == "flash"
    assert door.meter.event.credits_micro == 0
    assert door.meter.event.quantities == {}
    assert door.meter.event.attributes == {}


def test_texts_are_cut_and_mended(door: Door) -> None:
    door.call.fill({"voice": "v" * 1000, "tier": "t" * 5000, "n" * 100: 1, "word": "\udc80"})
    door.call.finish()

    event = door.meter.event
    assert len(event.voice) == 256
    assert len(event.attributes["tier"]) == 1024
    assert event.attributes["word"] == "?"
    assert event.quantities == {"n" * 64: 1.0}


def test_a_dimension_with_too_many_values_is_cut_and_no_call_is_lost() -> None:
    meter = ListMeter(distinct_values=3)
    for number in range(5):
        call = Call(meter, "POST", "/v1/speech", meter.callers.anonymous)
        call.fill({"voice": f"voice-{number}", "model": "flash", "credits": 1, f"tag-{number}": "x"})
        call.finish()

    assert [event.voice for event in meter.events] == ["voice-0", "voice-1", "voice-2", "__other__", "__other__"]
    assert [*meter.events[4].attributes] == ["__other__"]
    assert {(event.model, event.credits_micro) for event in meter.events} == {("flash", 1_000_000)}
    assert meter.guard.cut == {"voice": 2, "attribute": 2}


def test_a_loop_that_makes_up_names_is_stopped(door: Door) -> None:
    for number in range(100):
        door.call.fill({f"n{number}": number})
    door.call.fill({"n0": 5})
    door.call.finish()

    assert len(door.meter.event.quantities) == 64
    assert door.meter.event.quantities["n0"] == 5
    assert door.meter.failures() == ["usage.set"] * 36


def test_what_is_set_after_the_record_sends_the_event_again_with_the_next_version(door: Door) -> None:
    with door.open():
        door.call.finish()
        usage.set(credits=12)
        usage.set(characters=12)

    first, second, third = door.meter.events
    assert first.id == second.id == third.id
    assert [event.version for event in door.meter.events] == [1, 2, 3]
    assert [event.credits_micro for event in door.meter.events] == [0, 12_000_000, 12_000_000]
    assert third.quantities == {"characters": 12.0}
    assert first.quantities == {}
    assert second.duration_us == first.duration_us
    replaced = door.meter.recorder.replaced
    assert [event and event.credits_micro for event in replaced] == [None, 0, 12_000_000]


def test_it_works_in_a_thread_that_has_the_context(door: Door) -> None:
    async def handler() -> None:
        await asyncio.to_thread(usage.set, voice="en-us")

    with door.open():
        asyncio.run(handler())
        door.call.finish()

    assert door.meter.event.voice == "en-us"


def test_two_threads_that_set_late_never_send_the_same_version(door: Door) -> None:
    door.call.finish()
    threads = [threading.Thread(target=door.call.fill, args=({f"n{number}": number},)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    versions = [event.version for event in door.meter.events]
    assert sorted(versions) == list(range(1, 10))


def test_identify_names_the_caller_and_moves_the_count_in_flight(door: Door) -> None:
    with door.open():
        assert door.meter.recorder.in_flight["default", ""] == 1
        usage.identify(Caller(workspace="acme", user="alice"))

        assert door.meter.recorder.in_flight["default", ""] == 0
        assert door.meter.recorder.in_flight["acme", ""] == 1
        door.call.finish()

    assert (door.meter.event.workspace, door.meter.event.user) == ("acme", "alice")
    assert door.meter.idle()


def test_a_caller_named_after_the_record_keeps_the_workspace_because_it_is_part_of_the_events_key(door: Door) -> None:
    door.call.finish()
    door.call.identify(Caller(workspace="acme", user="alice"))
    door.call.identify(Caller(workspace="default", user="bob"))

    assert door.meter.failures() == ["usage.identify"]
    assert [(event.workspace, event.user) for event in door.meter.events] == [("default", ""), ("default", "bob")]
    assert door.meter.idle()


def test_a_strange_caller_is_counted(door: Door) -> None:
    with door.open():
        usage.identify("alice")  # type: ignore[arg-type]

    assert door.meter.failures() == ["usage.identify"]


@pytest.mark.parametrize(
    "act",
    [lambda: usage.set(credits=1), lambda: usage.identify(Caller("acme")), lambda: usage.busy().__enter__()],
)
def test_outside_of_a_call_nothing_happens(act: Callable[[], None]) -> None:
    act()


def test_outside_of_a_call_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fresh = type(usage)()
    with caplog.at_level(logging.WARNING, "usage_meter"):
        fresh.set(credits=1)
        fresh.set(credits=1)

    assert [record.getMessage() for record in caplog.records] == [
        "usage.set was called outside of a call: it does nothing there (logged once)"
    ]


def test_busy_leaves_a_request_counted_for_its_whole_life(door: Door) -> None:
    with door.open():
        with usage.busy():
            pass
        assert door.meter.recorder.in_flight["default", ""] == 1
        door.call.finish()

    assert door.meter.idle()
