"""Adds calls that were let in by hand to the rollups of sealed days, whose own calls may be gone.

The consumer puts such calls into the table `unsealed`; from there a day's calls go into its rollups at once. What a
bucket holds under its published version and the components of the new calls make the rows of a new version: nobody
reads those before all pointers are published, in one block. A coarser bucket that was never computed is left to the
ordinary way, which takes the calls in from the finer level.

No call is added twice, and none is lost: before the rows are written, the calls' keys go into `added`, with the version
that will hold them. A call counts as added if that version was published, which its quarter of an hour tells: only this
publishes a sealed one. Dying before that leaves calls that wait, and the next attempt takes all that wait for the day
under a later version. Calls that count leave `unsealed`; their keys stay. A day's calls that still are there are looked
at as well: one that is among them is in the rollups already.

All this stands on one worker at a time, unlike the rest of the rollups: `may_add` says for sure that it is this one,
and it is asked again right before publishing.

A peak is at least what it was (cubes.py). A call that reaches beyond the sealed days adds nothing to concurrency there.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator import cubes
from aggregator.buckets import DAY_US, QUARTER_US, SECOND_US
from aggregator.cover import PEAKS, QUARTERS, USAGE_LEVELS, Level, Span, spans_of
from aggregator.dimensions import Binder
from aggregator.freshness import PUBLISHED, VERSION_BITS, Freshness, Pointer
from aggregator.query import Statement, in_range

_KEY = "workspace, started, id"
_NOW = Statement("SELECT toUnixTimestamp64Micro(now64(6))", {})
_COUNT = Statement("SELECT count() FROM unsealed", {})
_ALREADY = 0  # the version of what the day had before
_NONE_BEFORE = Pointer(0, 0, cubes.FORMAT)


class UnsealingStore(Protocol):
    def select(self, statement: Statement) -> Sequence[Sequence[Any]]: ...

    def execute(self, statement: Statement, settings: dict[str, int]) -> None: ...

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Call:
    workspace: str
    started_us: int
    id: bytes
    duration_us: int

    @property
    def key(self) -> tuple[str, int, bytes]:
        return self.workspace, self.started_us, self.id


@dataclass(frozen=True, slots=True)
class _Target:
    """The buckets of a level that the calls belong to; `is_kept` tells whether the table still holds their rows."""

    level: Level
    buckets: tuple[int, ...]
    is_kept: bool


class Unsealing:
    """`removed_us` as Rollup has it."""

    def __init__(
        self,
        store: UnsealingStore,
        freshness: Freshness,
        removed_us: Callable[[str], int],
        may_add: Callable[[], bool],
    ) -> None:
        self._store = store
        self._freshness = freshness
        self._removed_us = removed_us
        self._may_add = may_add

    def step(self) -> int:
        """Add the calls of one day; returns how many, 0 when none can be. Raises on failure."""
        if not self._store.select(_COUNT)[0][0] or not self._may_add():
            return 0
        return next((added for day in self._days() if (added := self._add(day))), 0)

    def _days(self) -> list[Span]:
        """The sealed days that calls wait for. What is refused already and not sealed yet waits for that."""
        sealed_us = self._sealed_us()
        rows = self._store.select(
            Statement("SELECT DISTINCT toUnixTimestamp(toStartOfDay(started)) AS day FROM unsealed ORDER BY day", {})
        )
        days = [int(second) * SECOND_US for (second,) in rows]
        return [Span(day, day + DAY_US) for day in days if day < sealed_us]

    def _add(self, day: Span) -> int:
        calls = self._waiting(day)
        if not calls:
            return 0
        targets = self._freshness.ask(lambda known: self._targets(known, calls))
        if targets is None:
            return 0
        before = self._pointers(targets)
        version = self._version(before.values())
        self._record(calls, version)
        for one in targets:
            if one.is_kept:
                self._store.execute(self._rows(one, calls, version, before, day), {})
        if not self._may_add() or self._pointers(targets) != before:
            return 0  # somebody else goes on with it
        self._publish(targets, version, before)
        self._store.execute(_removal(day, [version]), {})
        return len(calls)

    def _version(self, before: Iterable[Pointer]) -> int:
        """Above those before it, also when the store's clock has been set back."""
        now_us = int(self._store.select(_NOW)[0][0])
        return max(now_us << VERSION_BITS | secrets.randbits(VERSION_BITS), *(one.version + 1 for one in before), 0)

    def _waiting(self, day: Span) -> list[_Call]:
        """The day's calls that are to be added. Those that it has already are taken out."""
        calls = self._calls(day)
        present = self._present(day)
        self._record([call for call in calls if call.key in present], _ALREADY)
        recorded = self._recorded(day)
        pointers = self._freshness.ask(
            lambda known: {call.started_us: known.pointer(QUARTERS, QUARTERS.floor(call.started_us)) for call in calls}
        )
        waiting, versions = [], {_ALREADY}
        for call in calls:
            pointer = pointers[call.started_us]
            counted = {one for one in recorded.get(call.key, ()) if one <= (pointer.version if pointer else _ALREADY)}
            if not counted:
                waiting.append(call)
            versions |= counted
        if len(waiting) < len(calls):
            self._store.execute(_removal(day, sorted(versions)), {})
        return waiting

    def _calls(self, day: Span) -> list[_Call]:
        bind = Binder()
        sql = (
            "SELECT workspace, toUnixTimestamp64Micro(started), id, duration_us FROM unsealed FINAL "
            f"WHERE {' AND '.join(in_range(*day, bind))} ORDER BY {_KEY}"
        )
        rows = self._store.select(Statement(sql, bind.parameters))
        return [_Call(str(workspace), int(started), id, int(duration)) for workspace, started, id, duration in rows]

    def _present(self, day: Span) -> set[tuple[str, int, bytes]]:
        """The keys of the waiting calls that are among the day's own, where those still are there."""
        return {(workspace, started, id) for workspace, started, id in self._keys("events", "", day)}

    def _recorded(self, day: Span) -> dict[tuple[str, int, bytes], set[int]]:
        found: dict[tuple[str, int, bytes], set[int]] = {}
        for workspace, started, id, version in self._keys("added", ", version", day):
            found.setdefault((workspace, started, id), set()).add(int(version))
        return found

    def _keys(self, table: str, beside: str, day: Span) -> Sequence[Sequence[Any]]:
        bind = Binder()
        inside = " AND ".join(in_range(*day, bind))
        sql = (
            f"SELECT DISTINCT workspace, toUnixTimestamp64Micro(started), id{beside} FROM {table} "
            f"WHERE {inside} AND ({_KEY}) IN (SELECT {_KEY} FROM unsealed WHERE {inside})"
        )
        return self._store.select(Statement(sql, bind.parameters))

    def _targets(self, known: Freshness, calls: Sequence[_Call]) -> list[_Target] | None:
        """Where the calls are to be added; None while something there is yet to be computed, or to go."""
        found, source = [], "events"
        for level in USAGE_LEVELS:
            buckets = tuple(sorted({level.floor(call.started_us) for call in calls}))
            open_or_dirty = any(known.has_dirty(level, Span(one, level.next(one))) for one in buckets)
            if open_or_dirty and level is not QUARTERS and buckets[0] < self._removed_us(source):
                break  # it was not computed in time: this and what is coarser cannot be read in any case
            if open_or_dirty and level.next(buckets[-1]) <= self._sealed_us():
                return None
            if not open_or_dirty:
                found.append(_Target(level, buckets, buckets[0] >= self._removed_us(level.table)))
            source = level.table
        if flights := self._flights(calls):
            found.append(_Target(PEAKS, flights, True))
        return found

    def _sealed_us(self) -> int:
        return self._removed_us("events")

    def _flights(self, calls: Sequence[_Call]) -> tuple[int, ...]:
        """The sealed quarters of an hour that the calls have a part in, as far as they are kept."""
        found: set[int] = set()
        for call in calls:
            until_us = min(call.started_us + call.duration_us, self._sealed_us())
            if call.duration_us:
                found.update(range(QUARTERS.floor(call.started_us), until_us, QUARTER_US))
        return tuple(sorted(one for one in found if one >= self._removed_us(PEAKS.table)))

    def _rows(
        self,
        target: _Target,
        calls: Sequence[_Call],
        version: int,
        before: dict[tuple[Level, int], Pointer],
        day: Span,
    ) -> Statement:
        level = target.level
        versions = [(one, before[level, one].version) for one in target.buckets if (level, one) in before]
        if level is not PEAKS:
            return cubes.with_added(level, version, versions, day)
        reaches = [cubes.Reach(span, day.start_us) for span in spans_of(level, target.buckets)]
        return cubes.peaks_with_added(reaches, version, versions, day)

    def _pointers(self, targets: Sequence[_Target]) -> dict[tuple[Level, int], Pointer]:
        places = [(one.level, bucket) for one in targets for bucket in one.buckets]
        found = self._freshness.ask(lambda known: {place: known.pointer(*place) for place in places})
        return {place: pointer for place, pointer in found.items() if pointer}

    def _record(self, calls: Sequence[_Call], version: int) -> None:
        self._store.write("added", ("workspace", "started", "id", "version"), [(*call.key, version) for call in calls])

    def _publish(self, targets: Sequence[_Target], version: int, before: dict[tuple[Level, int], Pointer]) -> None:
        """In one insert of one block. What the buckets have seen of calls stays what it was."""
        rows = [
            (one.level.name, bucket // SECOND_US, version, was.computed_us, was.format)
            for one in targets
            for bucket in one.buckets
            for was in [before.get((one.level, bucket), _NONE_BEFORE)]
        ]
        self._store.write("published", PUBLISHED, rows)


def _removal(day: Span, versions: Sequence[int]) -> Statement:
    bind = Binder()
    return Statement(
        f"DELETE FROM unsealed WHERE {' AND '.join(in_range(*day, bind))} AND ({_KEY}) IN ("
        f"SELECT {_KEY} FROM added WHERE version IN {bind(list(versions), 'Array(UInt64)')})",
        bind.parameters,
    )
