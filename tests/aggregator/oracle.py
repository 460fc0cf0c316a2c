"""The usage answer in plain Python, over a list of events: slow, obvious, and made another way than the service's.

Bucket edges are found by looking at the zone's clock every quarter of an hour, sums by adding, peaks by walking
through the starts and ends in order.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from usage_meter.event import MICRO, UsageEvent

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER_US = 15 * 60 * 1_000_000
OTHER = "__other__"
ADDITIVE = ("credits", "requests", "errors", "request_bytes", "response_bytes")
LATENCY = {"latency_p50": 0.5, "latency_p95": 0.95, "latency_p99": 0.99}

Key = tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    dimension: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Question:
    start_us: int
    end_us: int
    zone: str = "UTC"
    interval: str = "day"
    metrics: tuple[str, ...] = ("credits",)
    breakdown: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    top: int = 20
    cumulative: bool = False

    def parameters(self) -> list[tuple[str, str]]:
        """The query string that asks this."""
        found = [("start", iso(self.start_us)), ("end", iso(self.end_us)), ("tz", self.zone)]
        found += [("interval", self.interval), ("top", str(self.top))]
        found += [("metric", name) for name in self.metrics] + [("breakdown", name) for name in self.breakdown]
        for one in self.conditions:
            name = f"not.{one.dimension}" if one.negated else one.dimension
            found += [(name, value) for value in one.values]
        return [*found, ("cumulative", "true")] if self.cumulative else found


@dataclass
class Quantile:
    """What a sketch with 1 % relative error may say: near one of the two values that the rank falls between."""

    candidates: tuple[float, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float | Decimal):
            return False
        return any(abs(float(other) - one) <= 0.0101 * one for one in self.candidates)

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Float:
    """A number whose last bits depend on the order of additions."""

    number: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float | Decimal):
            return False
        return abs(float(other) - self.number) <= 1e-9 * max(1e-3, abs(self.number))

    __hash__ = None  # type: ignore[assignment]


Expected = int | Decimal | Quantile | Float | None


@dataclass
class Answer:
    bounds: list[int]
    series: dict[tuple[str, Key], tuple[list[Expected], Expected]] = field(default_factory=dict)
    """By metric and key: the values of the buckets, and the total."""


def iso(micros: int) -> str:
    return (EPOCH + timedelta(microseconds=micros)).isoformat()


def micros(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def stored(events: Iterable[UsageEvent]) -> list[UsageEvent]:
    """Each event once, as its highest version says."""
    found: dict[tuple[str, int, bytes], UsageEvent] = {}
    for event in events:
        key = (event.workspace, event.started_us, event.id)
        if key not in found or found[key].version <= event.version:
            found[key] = event
    return list(found.values())


def answer(events: Iterable[UsageEvent], question: Question) -> Answer:
    calls = [call for call in stored(events) if all(_fulfils(call, one) for one in _conditions(question))]
    begun = [call for call in calls if question.start_us <= call.started_us < question.end_us]
    over = [call for call in calls if call.started_us < question.end_us and _end(call) > question.start_us]
    over = [call for call in over if call.duration_us]
    found = Answer(bounds(question.start_us, question.end_us, question.interval, question.zone))
    top = _top(begun, over, question)
    asked = {name: over if name.startswith("concurrency") else begun for name in question.metrics}
    keys = {key for those in asked.values() for call in those for key in _keys(call, question, top)}
    for key in keys or ({()} if not question.breakdown else set()):
        for name, those in asked.items():
            mine = [call for call in those if key in _keys(call, question, top)]
            found.series[name, key] = _line(name, mine, found.bounds, question)
    return found


@lru_cache(maxsize=512)
def _quarters(start_us: int, end_us: int, interval: str, zone: str) -> tuple[int, ...]:
    """The quarter-hours in between at which the clock of the zone says that a bucket begins."""
    clock = ZoneInfo(zone)
    found = []
    first = start_us - start_us % QUARTER_US
    latest = max(_local(first - i * QUARTER_US, clock).date() for i in range(96))  # a clock may go back over midnight
    for moment in range(first, end_us, QUARTER_US):
        local = _local(moment, clock)
        begins = local.minute == 0 if interval == "hour" else _label(local.date(), interval) > _label(latest, interval)
        latest = max(latest, local.date())
        if begins and start_us < moment < end_us:
            found.append(moment)
    return tuple(found)


def bounds(start_us: int, end_us: int, interval: str, zone: str) -> list[int]:
    if interval == "total":
        return [start_us]
    if interval == "minute":
        minute = 60_000_000
        return [start_us, *range(start_us - start_us % minute + minute, end_us, minute)]
    return [start_us, *_quarters(start_us, end_us, interval, zone)]


def _local(micros: int, clock: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=micros)).astimezone(clock)


def _label(day: date, interval: str) -> tuple[int, ...]:
    if interval == "week":
        year, week, _ = day.isocalendar()
        return year, week
    return {"day": (day.year, day.month, day.day), "month": (day.year, day.month), "year": (day.year,)}[interval]


def _end(call: UsageEvent) -> int:
    return call.started_us + call.duration_us


def _conditions(question: Question) -> list[Condition]:
    if "kind" in question.breakdown or any(one.dimension == "kind" for one in question.conditions):
        return list(question.conditions)
    return [*question.conditions, Condition("kind", ("request",))]


def values(call: UsageEvent, dimension: str) -> list[str]:
    if dimension == "group":
        return list(call.groups) or [""]
    if dimension.startswith("attribute."):
        return [call.attributes.get(dimension.removeprefix("attribute."), "")]
    return [str(getattr(call, dimension))]


def _fulfils(call: UsageEvent, condition: Condition) -> bool:
    allowed = set(condition.values)
    if condition.dimension == "status":
        allowed |= {f"{value[0]}{i:02}" for value in condition.values if value.endswith("xx") for i in range(100)}
    return any(value in allowed for value in values(call, condition.dimension)) != condition.negated


def _combinations(call: UsageEvent, question: Question) -> list[Key]:
    found: list[Key] = [()]
    for dimension in question.breakdown:
        found = [(*key, value) for key in found for value in values(call, dimension)]
    return found


def _top(begun: Sequence[UsageEvent], over: Sequence[UsageEvent], question: Question) -> set[Key]:
    ranked = next((name for name in question.metrics if is_additive(name)), "requests")
    asks_concurrency = any(name.startswith("concurrency") for name in question.metrics)
    ranks: dict[Key, Decimal] = {}
    for call in begun:
        for key in set(_combinations(call, question)):
            ranks[key] = ranks.get(key, Decimal(0)) + Decimal(_amount(ranked, call))
    for call in over if asks_concurrency else ():
        for key in _combinations(call, question):
            ranks.setdefault(key, Decimal(0))
    return set(sorted(ranks, key=lambda key: (-ranks[key], key))[: question.top])


def _keys(call: UsageEvent, question: Question, top: set[Key]) -> set[Key]:
    rest = tuple(OTHER for _ in question.breakdown)
    return {key if key in top else rest for key in _combinations(call, question)}


def is_additive(metric: str) -> bool:
    return metric in ADDITIVE or metric.startswith("quantity.")


def _amount(metric: str, call: UsageEvent) -> Decimal | int | float:
    if metric.startswith("quantity."):
        return call.quantities.get(metric.removeprefix("quantity."), 0.0)
    amounts: dict[str, Callable[[], Decimal | int]] = {
        "credits": lambda: Decimal(call.credits_micro) / MICRO,
        "requests": lambda: 1,
        "errors": lambda: int(call.outcome != "ok"),
        "request_bytes": lambda: call.request_bytes,
        "response_bytes": lambda: call.response_bytes,
    }
    return amounts[metric]()


def _line(
    metric: str, calls: list[UsageEvent], starts: list[int], question: Question
) -> tuple[list[Expected], Expected]:
    ends = [*starts[1:], question.end_us]
    if metric.startswith("concurrency"):
        per = [_in_flight(metric, calls, start, end) for start, end in zip(starts, ends, strict=True)]
        return per, _in_flight(metric, calls, question.start_us, question.end_us)
    slices = [
        [call for call in calls if start <= call.started_us < end] for start, end in zip(starts, ends, strict=True)
    ]
    if question.cumulative:
        slices = [[call for call in calls if call.started_us < end] for end in ends]
    return [_number(metric, those) for those in slices], _number(metric, calls)


def _number(metric: str, calls: list[UsageEvent]) -> Expected:
    if metric.startswith("quantity."):
        return Float(sum(float(_amount(metric, call)) for call in calls))
    if is_additive(metric):
        return sum((Decimal(_amount(metric, call)) for call in calls), Decimal(0))
    if metric == "success_rate":
        return Float(sum(call.outcome == "ok" for call in calls) / len(calls)) if calls else None
    asked = [call.duration_us if metric.startswith("latency") else call.ttfb_us for call in calls]
    times = sorted(time for time in asked if time is not None)
    if not times:
        return None
    if metric.endswith("_avg"):
        return Float(sum(times) / len(times) / 1000)
    rank = LATENCY.get(metric, 0.95) * (len(times) - 1)
    return Quantile((times[int(rank)] / 1000, times[min(int(rank) + 1, len(times) - 1)] / 1000))


def _in_flight(metric: str, calls: list[UsageEvent], start: int, end: int) -> Expected:
    cut = [(max(start, call.started_us), min(end, _end(call))) for call in calls]
    cut = [(first, last) for first, last in cut if first < last]
    if metric == "concurrency_average":
        return Float(sum(last - first for first, last in cut) / (end - start))
    # One that ends as another starts does not overlap it, so ends come first.
    steps = sorted([(first, 1) for first, _ in cut] + [(last, -1) for _, last in cut])
    peak = now = 0
    for _, step in steps:
        now += step
        peak = max(peak, now)
    return peak
