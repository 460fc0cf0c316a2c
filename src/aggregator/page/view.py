"""A page's address is the view: its query string holds every choice, and nothing else does. Pure.

What the API knows is spelled as the API spells it, so the same query string behind `/v1/usage` gives the same numbers.
A few names only say how the page shows them. A form sends a third kind, `range`, which becomes the API's own words by a
redirect, so that the address in the bar is always one to keep and to pass on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from urllib.parse import urlencode

Items = tuple[tuple[str, str], ...]

LAYOUT = ("compact", "theme")
"""How all pages look: kept wherever one goes."""
SHOWN_ONLY = (*LAYOUT, "chart", "scale", "sort", "past", "panel", "width", "pick", "find")
"""Parameters of the page that are not the API's: they change how numbers are shown, never which."""
USAGE_ONLY = ("metric", "interval", "breakdown", "cumulative", "compare", "top", "layout")
LOG_ONLY = ("q", "min_latency", "limit", "cursor", "order")
RANGE_ONLY = ("start", "end", "last")
_OF_ONE_PAGE = {*USAGE_ONLY, *LOG_ONLY, *SHOWN_ONLY} - set(LAYOUT)
_OF_ALL_PAGES = ("tz", "scope", *LAYOUT)

RANGES = {
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "12mo": "Last 12 months",
    "this-month": "This month",
    "last-month": "Last month",
}
CUSTOM, KEPT = "custom", "kept"
"""Choices of a form's `range`: the two dates beside it; the very moments that the address had before.

A form sends those, and the chart that a page showed by itself, under their names behind `kept_`.
"""

PICK = "pick_"
"""Before the names that the filter's form sends: for which dimension, `is` or `not`, and the values."""

_NOT_CHOSEN = ("breakdown", "start", "end", "last", "metric", "interval", "tz", "q", "min_latency", "cursor")
"""Controls whose empty value means that nothing is chosen. An empty filter means the calls that have no value."""


@dataclass(frozen=True, slots=True)
class View:
    """A path and its parameters, in order."""

    path: str
    items: Items = ()

    def value(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.items if key == name and value), default)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.items if key == name]

    @property
    def question(self) -> Items:
        """What the API is asked: without what only the page knows."""
        return tuple(item for item in self.items if item[0] not in SHOWN_ONLY)

    def asked(self, *without: str) -> Items:
        """The question without some parameters: another page's, or those that the asker sets itself."""
        return tuple(item for item in self.question if item[0] not in without)

    def changed(self, changes: Mapping[str, str | Sequence[str] | None]) -> "View":
        """With these parameters instead; None takes one away. Those that stay keep their place."""
        kept = tuple(item for item in self.items if item[0] not in changes)
        added = tuple((name, value) for name, values in changes.items() for value in _several(values))
        return View(self.path, kept + added)

    def replaced(self, name: str, value: str) -> "View":
        """With another value in the parameter's own place, where it has one."""
        return View(self.path, tuple((key, value if key == name else old) for key, old in self.items))

    def href(self, changes: Mapping[str, str | Sequence[str] | None] | None = None, path: str | None = None) -> str:
        return address(path or self.path, self.changed(changes or {}).items)

    def answer_href(self, path: str, *without: str) -> str:
        """The same question at the API."""
        return address(path, self.asked(*without))

    def elsewhere(self, path: str) -> str:
        """Another page for the same calls: the range, whose they are, and the filters come along."""
        return address(path, tuple(item for item in self.items if item[0] not in _OF_ONE_PAGE))

    def bare(self, path: str) -> "View":
        """Another page without this one's range and filters: only in whose eyes, and how it looks."""
        return View(path, tuple(item for item in self.items if item[0] in _OF_ALL_PAGES))

    def image_hrefs(self, path: str, changes: Mapping[str, str | None]) -> tuple[str, str]:
        """The chart as an image for a light page and for a dark one."""
        drawn = self.changed({**changes, "theme": None, "compact": None, "pick": None, "find": None})
        return drawn.href(path=path), drawn.href({"theme": "dark"}, path)


def canonical(items: Iterable[tuple[str, str]], today: date) -> Items | None:
    """A form's parameters as an address; None when they are one already."""
    given = tuple(items)
    names = {name for name, _ in given}
    if "range" in names:
        return _chosen(given, today)
    return _picked(given) if f"{PICK}for" in names else None


def _chosen(given: Items, today: date) -> Items:
    """What the toolbar sends."""
    choice = next(value for name, value in given if name == "range")
    kept = {name.removeprefix("kept_"): value for name, value in given if name.startswith("kept_")}
    drop = {"range", "last", *(name for name, _ in given if name.startswith("kept_"))}
    if choice != CUSTOM:
        drop |= {"start", "end"}
    rest = tuple(
        (name, value)
        for name, value in given
        if name not in drop and (value or name not in _NOT_CHOSEN) and (name, value) != ("chart", kept.get("chart"))
    )
    return _range(choice, kept, today) + rest


def _picked(given: Items) -> Items:
    """What the form of a filter sends: its values instead of those that its dimension had."""
    dimension = next(value for name, value in given if name == f"{PICK}for")
    sign = next((value for name, value in given if name == f"{PICK}sign"), "is")
    values = [value for name, value in given if name == f"{PICK}value"]
    old = {dimension, f"not.{dimension}", "pick", "find", "cursor"}
    rest = tuple(item for item in given if item[0] not in old and not item[0].startswith(PICK))
    return rest + tuple((dimension if sign == "is" else f"not.{dimension}", value) for value in dict.fromkeys(values))


def _range(choice: str, kept: Mapping[str, str], today: date) -> Items:
    if choice == CUSTOM:
        return ()
    if choice == KEPT:
        return tuple((name, value) for name, value in kept.items() if value and name != "chart")
    return month(choice, today) or (("last", choice),)


def month(choice: str, today: date) -> Items:
    """A calendar month as dates; this month is open to now."""
    first = today.replace(day=1)
    if choice == "this-month":
        return (("start", first.isoformat()),)
    if choice == "last-month":
        last = first - timedelta(days=1)
        return (("start", last.replace(day=1).isoformat()), ("end", last.isoformat()))
    return ()


def _several(values: str | Sequence[str] | None) -> Sequence[str]:
    return () if values is None else (values,) if isinstance(values, str) else values


def address(path: str, items: Items) -> str:
    return f"{path}?{urlencode(items)}" if items else path
