"""The rollups' cubes: which dimensions are kept together, and the statements that compute them. Pure.

A cube answers every question whose breakdowns and filters it has; the rest is answered from the calls. See schema.sql
for why it is these.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from aggregator.buckets import QUARTER_US
from aggregator.cover import PEAKS, QUARTERS, USAGE_LEVELS, Level, Span
from aggregator.dimensions import Binder
from aggregator.measures import COMPONENTS, QUANTITIES, Component, named_quantities
from aggregator.query import Statement, in_range


@dataclass(frozen=True, slots=True)
class Cube:
    """Besides its own dimensions each cube has the workspace and the kind of call.

    `since` is the format of the rollups that brought it: older ones lack it, and are answered by the next that fits.
    """

    name: str
    dimensions: tuple[str, ...]
    since: int = 0


FORMAT = 1
"""Of the rows that are computed now; published with each bucket's version. Before format 1 no cube was of whole
workspaces."""

CUBES = (
    Cube("workspace", (), since=1),
    Cube("path", ("product", "method", "route", "status", "outcome")),
    Cube("key", ("product", "api_key")),
    Cube("voice", ("product", "voice", "model")),
    Cube("user", ("user", "group")),
)
"""A question takes the first that fits, so those with few rows come first."""

SHARED = ("workspace", "kind")

COLUMNS = ("product", "voice", "model", "api_key", "user", "groups", "method", "route", "status", "outcome")
"""Those that some cube has; where a cube lacks one, it is empty."""

_KEYS = ", ".join(("cube", *SHARED, *COLUMNS))

_NO_TEXT = "CAST('', 'LowCardinality(String)')"  # a plain '' would have the other cubes' values written out
_EMPTY = {
    "groups": "CAST([], 'Array(LowCardinality(String))')",
    "status": "toUInt16(0)",
}

PEAK_DIMENSIONS = ("api_key", "user", "product", "voice")
_PEAK_KEYS = "number, kind"  # of each of these, in each quarter of an hour
EVERYWHERE = "all"
"""In peaks: the calls of all workspaces together."""
WORKSPACE = "workspace"
"""In peaks: all calls of a workspace."""


def cubes_of(format: int) -> list[Cube]:
    return [cube for cube in CUBES if cube.since <= format]


def cube_for(dimensions: Iterable[str], format: int = FORMAT) -> Cube | None:
    """The first that has these dimensions, where rows are of this format or a newer one."""
    return next(_fitting(dimensions, format), None)


def _fitting(dimensions: Iterable[str], format: int) -> Iterator[Cube]:
    wanted = set(dimensions) - set(SHARED)
    return (cube for cube in cubes_of(format) if wanted <= set(cube.dimensions))


MAX_LISTED = 200  # versions bound as a list: the engine writes each constant again and again as it plans
SPARSE = 8  # of so many times as many buckets from the first to the last, the index is told which
_WIDTH = 8  # bytes of a version in the text that holds very many


def published(versions: Sequence[tuple[int, int]], bind: Binder) -> str:
    """A condition on a rollup's rows: of these rising buckets, each in the version that it comes with, and no others.

    The versions are bound and not looked up by the store: a statement reads its tables at different moments, so it
    might find a version whose rows it does not see yet. They are one comparison, since the engine plans each condition
    for a millisecond.
    """
    if not versions:
        return "version = 0"
    seconds = [bucket // 1_000_000 for bucket, _ in versions]
    step = min((later - former for former, later in pairwise(seconds)), default=1)
    is_sparse = seconds[-1] - seconds[0] >= SPARSE * step * len(seconds)
    is_regular = not any((one - seconds[0]) % step for one in seconds)
    if len(versions) > MAX_LISTED and is_regular and not is_sparse:
        return f"{_from_to(seconds, bind)} AND {_in_text(versions, step, bind)}"
    buckets, listed = bind(seconds, "Array(UInt32)"), bind([version for _, version in versions], "Array(UInt64)")
    inside = f"bucket IN {buckets}" if is_sparse else _from_to(seconds, bind)
    return f"{inside} AND version = transform(toUnixTimestamp(bucket), {buckets}, {listed}, toUInt64(0))"


def _from_to(seconds: Sequence[int], bind: Binder) -> str:
    first, last = bind(seconds[0], "UInt32"), bind(seconds[-1], "UInt32")
    return f"bucket >= toDateTime({first}, 'UTC') AND bucket <= toDateTime({last}, 'UTC')"


def _in_text(versions: Sequence[tuple[int, int]], step: int, bind: Binder) -> str:
    """The version of each bucket, looked up in a text of them all, so many seconds apart; 0 where there is none."""
    known, first, last = dict(versions), versions[0][0], versions[-1][0]
    every = range(first, last + step * 1_000_000, step * 1_000_000)
    text = "".join(known.get(bucket, 0).to_bytes(_WIDTH, "little").hex() for bucket in every)
    start = bind(first // 1_000_000, "UInt32")
    # What lies before the first bucket would be counted from the text's end.
    place = f"1 + intDiv(greatest(toUnixTimestamp(bucket), {start}) - {start}, {bind(step, 'UInt32')}) * {_WIDTH}"
    return f"version = reinterpretAsUInt64(substring(unhex({bind(text, 'String')}), {place}, {_WIDTH}))"


MOST_NAMES = 16
"""Of quantities that are added up one by one, each a column of its own: that costs each row as much as there are names,
and the engine's `sumMap` three times as much for each name that a call has."""


def names_of_calls(spans: Sequence[Span]) -> Statement:
    """The names of the quantities of the calls in these spans, or MOST_NAMES + 1 of them."""
    bind = Binder()
    places = " OR ".join(" AND ".join(in_range(*span, bind)) for span in spans)
    return Statement(_names(f"events WHERE {places}"), bind.parameters)


def names_of_finer(level: Level, finer: "Finer") -> Statement:
    """The same of what the level's buckets are computed from: every cube has all calls, the first the fewest rows."""
    bind = Binder()
    inside = published(finer.versions, bind)
    first = cubes_of(finer.format)[0]
    return Statement(_names(f"{_finer(level).table} WHERE {inside} AND cube = '{first.name}'"), bind.parameters)


def _names(rows: str) -> str:
    return f"SELECT DISTINCT arrayJoin(quantities.keys) AS name FROM {rows} ORDER BY name LIMIT {MOST_NAMES + 1}"


def from_calls(spans: Sequence[Span], version: int, names: Sequence[str]) -> Statement:
    """Computes the quarters of an hour in these spans, in all cubes: one insert, since each makes a part of its own.

    `names` are those of the calls' quantities: what came since they were asked for makes the quarter dirty again.
    """
    bind = Binder()
    number = bind(version, "UInt64")
    columns, made = ", ".join(one.name for one in COMPONENTS), ", ".join(one.alias for one in COMPONENTS)
    places = " OR ".join(" AND ".join(in_range(*span, bind)) for span in spans)
    values = _values(lambda one: one.made, names, bind)
    parts = _cubes_of_calls(f"events FINAL WHERE {places}", QUARTERS, values, f"{number} AS version, {made}")
    return Statement(f"INSERT INTO {QUARTERS.table} (bucket, {_KEYS}, version, {columns}) {parts}", bind.parameters)


def _values(value: Callable[[Component], str], names: Sequence[str], bind: Binder) -> str:
    few = named_quantities(names, bind) if len(names) <= MOST_NAMES else None
    return ", ".join(f"{few if few and one is QUANTITIES else value(one)} AS {one.alias}" for one in COMPONENTS)


def _cubes_of_calls(calls: str, level: Level, values: str, selected: str) -> str:
    """Rows `(bucket, cube, dimensions…, …)` of these calls, all cubes one below the other."""
    start = _starts(level, "toStartOfFifteenMinutes(started)")
    return " UNION ALL ".join(_cube_of(cube, calls, start, values, selected) for cube in CUBES)


def _cube_of(cube: Cube, rows: str, start: str, values: str, selected: str) -> str:
    """What a cube lacks is made empty outside: a component must not read it in place of the call's own."""
    kept = {*SHARED, *("groups" if name == "group" else name for name in cube.dimensions)}
    by = ", ".join(sorted(kept))
    columns = ", ".join(
        name if name in kept else f"{_EMPTY.get(name, _NO_TEXT)} AS {name}" for name in (*SHARED, *COLUMNS)
    )
    return (
        f"SELECT start AS bucket, '{cube.name}' AS cube, {columns}, {selected} FROM ("
        f"SELECT {start} AS start, {by}, {values} FROM {rows} GROUP BY start, {by})"
    )


def _seconds(buckets: Sequence[int], bind: Binder) -> str:
    return bind([bucket // 1_000_000 for bucket in buckets], "Array(UInt32)")


def _starts(level: Level, bucket: str) -> str:
    """Where the level's bucket begins that a finer one, or a quarter of an hour, lies in."""
    starts = {"1h": "toStartOfHour({})", "1d": "toStartOfDay({})", "1mo": "toDateTime(toStartOfMonth({}), 'UTC')"}
    return starts.get(level.name, "{}").format(bucket)


class Finer(NamedTuple):
    """The buckets that others are computed from, each with the version that counts, and the oldest of their formats."""

    versions: Sequence[tuple[int, int]]
    format: int = FORMAT

    def origin(self, cube: Cube) -> Cube:
        """From which one's rows a cube is computed: its own, or those of one that has its dimensions and others."""
        return next(_fitting(cube.dimensions, self.format))


def from_finer(
    level: Level, version: int, finer: Finer, names: Sequence[str], some: Sequence[Cube] = CUBES
) -> Statement:
    """Computes buckets from all of the level before it that lie in them, some cubes at once: each by itself, since it
    has few of the ten dimensions. `names` are those of all quantities."""
    bind = Binder()
    inside, number = published(finer.versions, bind), bind(version, "UInt64")
    columns, made = ", ".join(one.name for one in COMPONENTS), ", ".join(one.alias for one in COMPONENTS)
    start, values = _starts(level, "bucket"), _values(lambda one: one.remade, names, bind)
    rows, selected = f"{_finer(level).table} WHERE {inside}", f"{number} AS version, {made}"
    parts = (_cube_of(cube, f"{rows} AND cube = '{finer.origin(cube).name}'", start, values, selected) for cube in some)
    return Statement(
        f"INSERT INTO {level.table} (bucket, {_KEYS}, version, {columns}) {' UNION ALL '.join(parts)}", bind.parameters
    )


def _finer(level: Level) -> Level:
    return USAGE_LEVELS[USAGE_LEVELS.index(level) - 1]


class Reach(NamedTuple):
    """Quarters of an hour beside one another, or a piece of one, and where the earliest call with a part in them may
    have begun."""

    span: Span
    earliest_us: int


def peaks(reaches: Sequence[Reach], version: int) -> Statement:
    """Computes concurrency in these quarters of an hour, which rise, or in a piece of one."""
    bind = Binder()
    return Statement(
        f"INSERT INTO {PEAKS.table} (bucket, version, dimension, workspace, value, kind, peak, busy_us) "
        f"SELECT toDateTime(number * 900, 'UTC'), {bind(version, 'UInt64')}, "
        f"dimension, workspace, value, kind, peak, busy_us FROM ({_peaks_of_calls(reaches, bind)})",
        bind.parameters,
    )


def with_added(level: Level, version: int, before: Sequence[tuple[int, int]], day: Span) -> Statement:
    """Computes buckets from what they hold under the versions `before`, and the day's calls that are to be added with
    this version."""
    bind = Binder()
    keys, number = f"bucket, {_KEYS}", bind(version, "UInt64")
    names, made = ", ".join(one.name for one in COMPONENTS), ", ".join(one.alias for one in COMPONENTS)
    values = ", ".join(f"{one.remade} AS {one.alias}" for one in COMPONENTS)
    called = ", ".join(f"{one.alias} AS {one.name}" for one in COMPONENTS)
    new = ", ".join(f"{one.made} AS {one.alias}" for one in COMPONENTS)
    added = _cubes_of_calls(f"unsealed FINAL WHERE {_to_be_added(day, version, bind)}", level, new, called)
    return Statement(
        f"INSERT INTO {level.table} (version, {keys}, {names}) SELECT {number}, {keys}, {made} FROM ("
        f"SELECT {keys}, {values} FROM (SELECT {keys}, {names} FROM {level.table} "
        f"WHERE {published(before, bind)} UNION ALL {added}) GROUP BY {keys})",
        bind.parameters,
    )


def peaks_with_added(reaches: Sequence[Reach], version: int, before: Sequence[tuple[int, int]], day: Span) -> Statement:
    """The same of concurrency. The time in flight adds up. A peak cannot, without the calls that made it: it is the
    greater one of what was and of the added calls among themselves, which is the least that it may have been."""
    bind = Binder()
    keys, number = "dimension, workspace, value, kind, bucket", bind(version, "UInt64")
    added = _peaks_of_calls(reaches, bind, "unsealed", f"{_to_be_added(day, version, bind)} AND ")
    kept = published(before, bind)
    return Statement(
        f"INSERT INTO {PEAKS.table} ({keys}, version, peak, busy_us) "
        f"SELECT {keys}, {number}, max(highest), sum(busy) FROM ("
        f"SELECT {keys}, peak AS highest, busy_us AS busy FROM {PEAKS.table} WHERE {kept} UNION ALL "
        "SELECT dimension, workspace, value, kind, "
        f"toDateTime(number * 900, 'UTC') AS bucket, toUInt32(peak) AS highest, toInt64(busy_us) AS busy FROM ({added})"
        f") GROUP BY {keys}",
        bind.parameters,
    )


def _to_be_added(day: Span, version: int, bind: Binder) -> str:
    key = "workspace, started, id"
    inside = " AND ".join(in_range(*day, bind))
    return f"{inside} AND ({key}) IN (SELECT {key} FROM added WHERE version = {bind(version, 'UInt64')})"


def peaks_of_calls(reaches: Sequence[Reach]) -> Statement:
    """Rows `(bucket in seconds, sum of all peaks, microseconds in flight)`, as `peaks` would compute them."""
    bind = Binder()
    return Statement(
        f"SELECT number * 900, sum(peak), sum(busy_us) FROM ({_peaks_of_calls(reaches, bind)}) GROUP BY number",
        bind.parameters,
    )


def peaks_kept(versions: Sequence[tuple[int, int]]) -> Statement:
    """The same of what is kept, where a quarter that was computed in pieces has several rows of the same key."""
    bind = Binder()
    inside = published(versions, bind)
    return Statement(
        "SELECT toUnixTimestamp(bucket) AS second, sum(highest), sum(busy) FROM ("
        f"SELECT bucket, max(peak) AS highest, sum(busy_us) AS busy FROM {PEAKS.table} "
        f"WHERE {inside} GROUP BY bucket, dimension, workspace, value, kind) GROUP BY second",
        bind.parameters,
    )


def _peaks_of_calls(reaches: Sequence[Reach], bind: Binder, table: str = "events", which: str = "") -> str:
    """Rows `(number of the quarter, dimension, workspace, value, kind, peak, busy_us)`; `which` is a condition on the
    calls.

    Where two quarters meet, or two pieces of one, the pieces of one call touch without overlapping, so the greatest of
    their peaks is the peak of them all.
    """
    quarter, ends = bind(QUARTERS.width_us, "Int64"), "toUnixTimestamp64Micro(started) + duration_us"
    first, last = bind(reaches[0].span.start_us, "Int64"), bind(reaches[-1].span.end_us, "Int64")
    touched = " OR ".join(
        f"({' AND '.join(in_range(earliest, span.end_us, bind))} AND {ends} > {bind(span.start_us, 'Int64')})"
        for span, earliest in reaches
    )
    numbers = [
        number for span, _ in reaches for number in range(span.start_us // QUARTER_US, -(-span.end_us // QUARTER_US))
    ]
    subjects = ", ".join(f"({_PEAK_KEYS}, workspace, {name})" for name in PEAK_DIMENSIONS)
    named = ", ".join(f"grouping({name}) = 0, '{name}'" for name in (*PEAK_DIMENSIONS, WORKSPACE))
    return (
        f"SELECT number, multiIf({named}, '{EVERYWHERE}') AS dimension, workspace, "
        f"concat({', '.join(PEAK_DIMENSIONS)}) AS value, kind, "  # all but one are empty
        "maxIntersections(begins, ends) AS peak, sum(ends - begins) AS busy_us FROM ("
        f"SELECT number, workspace, kind, {', '.join(PEAK_DIMENSIONS)}, greatest(begun, number * {quarter}) AS begins, "
        f"least(ended, (number + 1) * {quarter}) AS ends FROM ("
        f"SELECT workspace, kind, {', '.join(PEAK_DIMENSIONS)}, "
        f"greatest(toUnixTimestamp64Micro(started), {first}) AS begun, least({ends}, {last}) AS ended, "
        f"arrayJoin(range(intDiv(begun, {quarter}), intDiv(ended - 1, {quarter}) + 1)) AS number FROM {table} FINAL "
        f"WHERE {which}({touched}) AND duration_us > 0) WHERE number IN {bind(numbers, 'Array(Int64)')}) "
        f"GROUP BY GROUPING SETS (({_PEAK_KEYS}), ({_PEAK_KEYS}, workspace), {subjects})"
    )


def versions_statement(level: Level) -> Statement:
    """Rows `(bucket in seconds, version)` of the buckets that have rows of several versions."""
    return Statement(
        f"SELECT toUnixTimestamp(bucket) AS second, version FROM {level.table} WHERE bucket IN ("
        f"SELECT bucket FROM {level.table} GROUP BY bucket HAVING min(version) < max(version)"
        ") GROUP BY second, version ORDER BY second, version",
        {},
    )


def removal(level: Level, superseded: Sequence[tuple[int, int]]) -> Statement:
    """Removes the rows of these buckets in these versions."""
    bind = Binder()
    buckets = _seconds([bucket for bucket, _ in superseded], bind)
    versions = bind([version for _, version in superseded], "Array(UInt64)")
    pairs = f"(SELECT b, v FROM system.one ARRAY JOIN {buckets} AS b, {versions} AS v)"
    return Statement(f"DELETE FROM {level.table} WHERE (toUnixTimestamp(bucket), version) IN {pairs}", bind.parameters)
