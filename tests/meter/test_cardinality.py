"""The guard cuts what is too many, names it once, and lets what is in use go on."""

import logging

import pytest

from usage_meter.cardinality import CardinalityGuard


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> CardinalityGuard:
    return CardinalityGuard(3, clock)


def test_new_values_beyond_the_limit_become_other_and_known_ones_pass(guard: CardinalityGuard) -> None:
    taken = [guard.admit("voice", value) for value in ("a", "b", "c", "d", "a", "e", "c")]

    assert taken == ["a", "b", "c", "__other__", "a", "__other__", "c"]
    assert guard.cut == {"voice": 2}


def test_each_dimension_has_its_own_places(guard: CardinalityGuard) -> None:
    for number in range(5):
        guard.admit("voice", f"v{number}")

    assert guard.admit("model", "flash") == "flash"
    assert guard.cut == {"voice": 2}


def test_no_value_at_all_takes_no_place(guard: CardinalityGuard) -> None:
    assert [guard.admit("voice", value) for value in ("", "a", "b", "c")] == ["", "a", "b", "c"]


def test_the_next_minute_has_new_places(guard: CardinalityGuard, clock: Clock) -> None:
    for value in "abcd":
        guard.admit("voice", value)
    clock.now = 59.9
    assert guard.admit("voice", "d") == "__other__"
    clock.now = 60.0
    assert guard.admit("voice", "d") == "d"


def test_a_flood_does_not_push_out_what_was_in_use(guard: CardinalityGuard, clock: Clock) -> None:
    for value in "abc":
        guard.admit("voice", value)
    clock.now = 60.0
    flood = [guard.admit("voice", f"x{number}") for number in range(10)]
    known = [guard.admit("voice", value) for value in "abc"]

    assert flood == ["x0", "x1", "x2"] + ["__other__"] * 7
    assert known == ["a", "b", "c"]
    clock.now = 120.0
    assert [guard.admit("voice", f"y{number}") for number in range(4)] == ["y0", "y1", "y2", "__other__"]


def test_one_warning_names_the_dimension(guard: CardinalityGuard, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "usage_meter"):
        for number in range(10):
            guard.admit("voice", str(number))

    assert len(caplog.records) == 1
    assert "voice took more than 3 new values" in caplog.records[0].getMessage()
