"""Which colour a series has: the same value keeps its colour across views, and the eight are told apart by everybody.

Each value ranks the slots by a hash of its own and takes the first that is free, values in the order of their hashes:
what else is in the view moves a value's colour only when two want the same slot. Beyond eight come eight softer ones,
and then they repeat. The order of the values never matters. Pure.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")

# Chosen by search over some hundred candidates for the greatest smallest distance in OKLab between any two, as seen
# with normal sight, protanopia, deuteranopia and tritanopia, at a contrast of 3 : 1 or more against the card.
# Then the eight softer ones in the same way, far from these and from the grey of the rest, at a contrast of 2 : 1.
_COLORS: Mapping[Theme, tuple[str, ...]] = {
    "light": (
        "#4f46e5", "#0a98d8", "#2b9a66", "#a16207", "#ef5f00", "#c2298a", "#5b2a86", "#14532d",
        "#f7619a", "#5b79f7", "#b2b209", "#fd9976", "#857db9", "#d7a0e3", "#51c672", "#9e8afa",
    ),
    "dark": (
        "#8b93ff", "#67e8f9", "#0f8578", "#a16207", "#fb923c", "#d6409f", "#9a3ff0", "#bef264",
        "#b01003", "#0754c6", "#015636", "#d48da2", "#39b7cb", "#72229e", "#eb9afd", "#43dd9a",
    ),
}  # fmt: skip
CARD: Mapping[Theme, str] = {"light": "#ffffff", "dark": "#15171c"}
"""What the charts are drawn on."""

READABLE = 4.5  # contrast that WCAG AA asks of text
HUES = 8
SLOTS = 2 * HUES
OTHER_SLOT = SLOTS
"""The last slot, grey: all that is beyond the top list."""
_OTHER: Mapping[Theme, str] = {"light": "#a3acba", "dark": "#5b6473"}

FIXED_SLOTS: Mapping[str, Mapping[str, int]] = {
    "outcome": {"ok": 2, "client_error": 4, "server_error": 5, "exception": 6, "disconnected": 1},
    "kind": {"request": 0, "webhook": 4},
}
"""Dimensions whose few values everybody knows: green is well, and it is so on every page."""


def slots(values: Iterable[str], dimension: str = "") -> dict[str, int]:
    """The slot of each value, whatever their order."""
    fixed, wanted = FIXED_SLOTS.get(dimension, {}), set(values)
    found = {value: fixed[value] for value in wanted if value in fixed}
    taken = set(found.values())
    for value in sorted(wanted - set(found), key=lambda value: _digest(value, "")):
        if len(taken) >= SLOTS:
            taken = set()
        band = range(HUES) if len(taken & set(range(HUES))) < HUES else range(HUES, SLOTS)
        free = [slot for slot in band if slot not in taken]
        found[value] = min(free, key=lambda slot: _digest(value, str(slot)))
        taken.add(found[value])
    return found


def color(slot: int, theme: Theme) -> str:
    """A slot's colour as `#rrggbb`."""
    return _OTHER[theme] if slot == OTHER_SLOT else _COLORS[theme][slot]


def stylesheet(accent: str = "") -> str:
    """The slots as CSS: `--c0`, … for both themes, a class for each that sets `--c`, and the accent with its ink."""
    pairs = [f"--c{slot}:light-dark({color(slot, 'light')},{color(slot, 'dark')})" for slot in range(SLOTS + 1)]
    classes = "".join(f".c{slot}{{--c:var(--c{slot})}}\n" for slot in range(SLOTS + 1))
    card = f"--card:light-dark({CARD['light']},{CARD['dark']})"
    light, dark = (readable(accent or color(0, theme), CARD[theme]) for theme in THEMES)
    accents = f"--accent:light-dark({light},{dark});--accent-ink:light-dark({CARD['light']},{CARD['dark']})"
    return f":root{{{card};{accents};{';'.join(pairs)}}}\n{classes}"


def readable(color: str, background: str) -> str:
    """The colour, moved towards black or white until text in it can be read on the background (and the reverse)."""
    towards = "#000000" if _luminance(background) > 0.5 else "#ffffff"
    for step in range(20):
        found = _mixed(color, towards, step / 20)
        if contrast(found, background) >= READABLE:
            return found
    return towards


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG counts it: 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    red, green, blue = (_linear(int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def _digest(value: str, salt: str) -> bytes:
    return blake2b(value.encode(), digest_size=8, key=salt.encode()).digest()


def _mixed(color: str, other: str, share: float) -> str:
    pairs = [(int(color[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
