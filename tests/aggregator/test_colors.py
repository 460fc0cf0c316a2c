"""Colours: a value keeps its own, and everybody tells the eight apart."""

import itertools
import math
import random

import pytest

from aggregator.page.colors import CARD, HUES, OTHER_SLOT, SLOTS, THEMES, Theme, color, slots, stylesheet

Linear = tuple[float, float, float]
Matrix = tuple[Linear, Linear, Linear]

# Machado, Oliveira and Fernandes (2009), severity 1: what reaches an eye that lacks one kind of cone.
SIGHTS: dict[str, Matrix] = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
NOTICEABLE = 0.05  # in OKLab, between two areas that do not touch; 0.02 is just noticeable side by side


def linear(color: str) -> Linear:
    def channel(i: int) -> float:
        value = int(color[i : i + 2], 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    return channel(1), channel(3), channel(5)


def times(matrix: Matrix, vector: Linear) -> Linear:
    a, b, c = (sum(x * y for x, y in zip(row, vector, strict=True)) for row in matrix)
    return a, b, c


def oklab(color: Linear) -> Linear:
    red, green, blue = (min(1.0, max(0.0, channel)) for channel in color)
    cones = times(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        (red, green, blue),
    )
    a, b, c = (value ** (1 / 3) for value in cones)
    return times(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        (a, b, c),
    )


def contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_of_the_eight_are_told_apart(theme: Theme, sight: str) -> None:
    seen = {slot: oklab(times(SIGHTS[sight], linear(color(slot, theme)))) for slot in range(HUES)}

    assert min(math.dist(seen[a], seen[b]) for a, b in itertools.combinations(seen, 2)) > NOTICEABLE


@pytest.mark.parametrize("theme", THEMES)
def test_none_of_the_sixteen_is_taken_for_another_or_for_the_rest(theme: Theme) -> None:
    seen = {slot: oklab(linear(color(slot, theme))) for slot in range(SLOTS + 1)}

    assert min(math.dist(seen[a], seen[b]) for a, b in itertools.combinations(range(SLOTS), 2)) > 2 * NOTICEABLE
    assert min(math.dist(seen[slot], seen[OTHER_SLOT]) for slot in range(SLOTS)) > 2 * NOTICEABLE
    assert min(contrast(color(slot, theme), CARD[theme]) for slot in range(SLOTS)) >= 2


@pytest.mark.parametrize("theme", THEMES)
def test_each_of_the_eight_stands_out_from_the_card(theme: Theme) -> None:
    assert min(contrast(color(slot, theme), CARD[theme]) for slot in range(HUES)) >= 3


def test_the_order_of_the_values_does_not_matter() -> None:
    values = [f"voice-{i}" for i in range(12)]
    shuffled = random.Random(1).sample(values, len(values))

    assert slots(values) == slots(shuffled)


def test_up_to_eight_values_have_eight_different_hues() -> None:
    assert sorted(slots(f"voice-{i}" for i in range(8)).values()) == list(range(HUES))


def test_sixteen_values_have_sixteen_different_colours() -> None:
    assert sorted(slots(f"voice-{i}" for i in range(16)).values()) == list(range(SLOTS))


def test_more_values_than_colours_all_have_one_and_none_has_that_of_the_rest() -> None:
    found = slots(f"voice-{i}" for i in range(50))

    assert len(found) == 50
    assert set(found.values()) == set(range(SLOTS))
    assert OTHER_SLOT not in found.values()


def test_another_value_in_the_view_moves_few_colours() -> None:
    values = [f"key-{i}" for i in range(6)]
    moved = [
        sum(slots([*values, f"new-{n}"])[value] != slot for value, slot in slots(values).items()) for n in range(40)
    ]

    assert sum(moved) / len(moved) < 1.5


def test_an_outcome_has_the_colour_that_it_has_everywhere() -> None:
    alone, among = slots(["ok"], "outcome"), slots(["server_error", "ok", "disconnected"], "outcome")

    assert alone["ok"] == among["ok"]
    assert len(set(among.values())) == 3


def test_the_stylesheet_has_the_colours_of_the_charts() -> None:
    css = stylesheet()

    for slot in range(SLOTS + 1):
        assert f"--c{slot}:light-dark({color(slot, 'light')},{color(slot, 'dark')})" in css
