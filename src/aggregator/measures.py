"""The metrics: what can be counted about calls, each with its unit and the SQL that gives it exactly. Pure.

A metric is one of the names below or `quantity.NAME`. Sums are 0 where nothing happened; averages and quantiles are
null there, because no number would be true.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from aggregator.dimensions import QUANTITY, Binder

Number = int | float | Decimal

QUANTILES = (0.5, 0.95, 0.99)
RELATIVE_ERROR = 0.01  # of a quantile, by DDSketch: the contract's 1 %


@dataclass(frozen=True, slots=True)
class Metric:
    """`sql` are aggregate expressions over raw events; `value` turns their results (never empty ones) into a number."""

    name: str
    unit: str
    sql: tuple[str, ...] = ()
    value: Callable[[Sequence[Number]], Number | None] = lambda results: results[0]
    additive: bool = False
    """Parts sum to the whole: it may be cumulated and stacked, and is 0 where nothing happened."""


def exact(number: Decimal) -> int | Decimal:
    """A decimal as it should be printed: no trailing zeros, no exponent."""
    return int(number) if number == number.to_integral_value() else number.normalize()


def _credits(results: Sequence[Number]) -> Number:
    return exact(Decimal(results[0]))


def _ratio(results: Sequence[Number]) -> Number | None:
    part, whole = results
    return float(part) / float(whole) if whole else None


def _mean_ms(results: Sequence[Number]) -> Number | None:
    total_us, count = results
    return float(total_us) / float(count) / 1000 if count else None


def _quantile_ms(index: int) -> Callable[[Sequence[Number]], Number | None]:
    def value(results: Sequence[Number]) -> Number | None:
        micros = float(results[index])
        return None if micros != micros else micros / 1000  # NaN: no call had one

    return value


_LEVELS = ", ".join(map(str, QUANTILES))
_LATENCY = tuple(f"quantilesDD({RELATIVE_ERROR}, {_LEVELS})(duration_us)[{i + 1}]" for i in range(len(QUANTILES)))
_TTFB_P95 = f"quantilesDD({RELATIVE_ERROR}, {_LEVELS})(ttfb_us)[2]"

CONCURRENCY = ("concurrency", "concurrency_average")
"""Answered from the calls' intervals, not from their starts: see `query.concurrency_statement`."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("credits", "credits", ("sum(credits)",), _credits, additive=True),
        Metric("requests", "requests", ("count()",), additive=True),
        Metric("errors", "requests", ("countIf(outcome != 'ok')",), additive=True),
        Metric("success_rate", "ratio", ("countIf(outcome = 'ok')", "count()"), _ratio),
        Metric("latency_avg", "ms", ("sum(duration_us)", "count()"), _mean_ms),
        Metric("latency_p50", "ms", _LATENCY, _quantile_ms(0)),
        Metric("latency_p95", "ms", _LATENCY, _quantile_ms(1)),
        Metric("latency_p99", "ms", _LATENCY, _quantile_ms(2)),
        Metric("ttfb_avg", "ms", ("sum(ttfb_us)", "count(ttfb_us)"), _mean_ms),
        Metric("ttfb_p95", "ms", (_TTFB_P95,), _quantile_ms(0)),
        Metric("concurrency", "calls"),
        Metric("concurrency_average", "calls"),
        Metric("request_bytes", "bytes", ("sum(request_bytes)",), additive=True),
        Metric("response_bytes", "bytes", ("sum(response_bytes)",), additive=True),
    )
}


def is_metric(name: str) -> bool:
    return name in METRICS or (name.startswith(QUANTITY) and len(name) > len(QUANTITY))


def metric(name: str, bind: Binder) -> Metric:
    """The metric of a name that `is_metric` knows; a quantity's name is bound, not written into the SQL."""
    if name.startswith(QUANTITY):
        quantity = bind(name.removeprefix(QUANTITY), "String")
        return Metric(name, name.removeprefix(QUANTITY), (f"sum(quantities[{quantity}])",), _quantity, additive=True)
    return METRICS[name]


def unit(name: str) -> str:
    return name.removeprefix(QUANTITY) if name.startswith(QUANTITY) else METRICS[name].unit


def is_additive(name: str) -> bool:
    return name.startswith(QUANTITY) or METRICS[name].additive


def _quantity(results: Sequence[Number]) -> Number:
    number = float(results[0])
    return int(number) if number.is_integer() else number
