"""The metrics: what can be counted about calls, each with its unit and the SQL that gives it exactly. Pure.

A metric is made of components that merge: from calls or from rollups, in any number of steps, with the same result.

A metric is one of the names below or `quantity.NAME`. Sums are 0 where nothing happened; averages and quantiles are
null there, because no number would be true.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from aggregator.dimensions import QUANTITY, Binder
from aggregator.sketch import QUANTILES, Sketch

Number = int | float | Decimal

RELATIVE_ERROR = 0.01  # of a quantile: the contract's 1 %
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)  # a bin's upper bound over its lower one
EMPTY_BIN = -1  # of a time that is zero, which has no logarithm; every other bin is 0 or more

_LEVELS = ", ".join(map(str, QUANTILES))


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a metric that merges: the calls' own, then any number of merges, then the result.

    `calls` makes it from raw events, `merged` from a rollup's rows, which hold it under `name`, and `result` from rows
    that hold either under `alias` (another name, since SQL would take a column's own name for the aggregate).
    A rollup's column is made by `made` from events, and by `remade` from the rows of a finer rollup.
    """

    name: str
    calls: str
    merged: str
    result: str
    reads: tuple[str, ...] = ()
    """The columns of events that `calls` needs."""
    merge: Callable[[Any, Any], Any] = operator.add
    """Two results as one."""
    is_sketch: bool = False

    kept: tuple[str, ...] = ()
    """The columns of a rollup that `merged` needs."""
    keeps: tuple[str, str] | None = None
    """`made` and `remade`, where they are not what a question reads."""

    @property
    def made(self) -> str:
        return self.keeps[0] if self.keeps else self.calls

    @property
    def remade(self) -> str:
        return self.keeps[1] if self.keeps else self.merged

    @property
    def alias(self) -> str:
        return _alias(self.name)


def _alias(name: str) -> str:
    return f"m_{name}"


def _sum(name: str, calls: str, *reads: str) -> Component:
    return Component(name, calls, f"sum({name})", f"sum({_alias(name)})", reads, kept=(name,))


def _sketch(name: str, micros: str) -> Component:
    """How many calls fell into each bin of a logarithmic scale: any quantile of it is within RELATIVE_ERROR.

    A rollup keeps it as plain numbers, `bin * 2^32 + calls`, rising: where a row stands for a call or two, that costs
    less than half of what a state of the engine's costs to merge, and less to write. A question merges them in the
    engine's state of exact weights: a fifth of the cost of its own sketch (quantilesDD), and without any loss.
    """
    bin = f"toInt16(if({micros} <= 0, {EMPTY_BIN}, ceil(log(greatest({micros}, 1)) / {math.log(GAMMA)})))"
    quantiles, one = "quantilesExactWeighted", f"bitShiftLeft(toInt64({bin}), 32) + 1"
    if micros == "duration_us":
        calls, ones = f"{quantiles}State({_LEVELS})({bin}, 1)", f"groupArray({one})"
    else:
        calls = f"{quantiles}StateIf({_LEVELS})(assumeNotNull({bin}), 1, isNotNull({micros}))"
        ones = f"groupArrayIf(assumeNotNull({one}), isNotNull({micros}))"
    bins = f"arrayMap(cell -> toInt16(bitShiftRight(cell, 32)), {name})"
    weights = f"arrayMap(cell -> toUInt64(bitAnd(cell, {_CALLS_OF_CELL})), {name})"
    return Component(
        name,
        calls,
        f"{quantiles}ArrayState({_LEVELS})({bins}, {weights})",
        f"{quantiles}Merge({_LEVELS})({_alias(name)})",
        (micros,),
        lambda one, other: Sketch(*one).merged(Sketch(*other)),
        is_sketch=True,
        kept=(name,),
        keeps=(_merged_cells(ones, name), _merged_cells(f"groupArrayArray({name})", name)),
    )


_CALLS_OF_CELL = 2**32 - 1


def _merged_cells(cells: str, name: str) -> str:
    """Those of one bin as one cell: of the sorted cells the last of each bin stays, with what adds up to it from the
    last one of the bin before."""
    cells, bins, last = f"(arraySort({cells}) AS {name}_cells)", f"{name}_bins", f"{name}_last"
    numbers = f"(arrayMap(cell -> bitShiftRight(cell, 32), {cells}) AS {bins})"
    is_last = f"(arrayMap((bin, next) -> bin != next, {numbers}, arrayShiftLeft({bins}, 1, {EMPTY_BIN - 1})) AS {last})"
    running = f"arrayCumSum(cell -> bitAnd(cell, {_CALLS_OF_CELL}), {name}_cells)"
    kept = f"arrayFilter((sum, is_last) -> is_last, {running}, {is_last})"
    calls = f"arrayPopFront(arrayDifference(arrayPushFront({kept}, 0)))"
    each = f"arrayFilter((bin, is_last) -> is_last, {bins}, {last})"
    return f"arrayMap((calls, bin) -> bitShiftLeft(bin, 32) + calls, {calls}, {each})"


CALLS = _sum("calls", "count()")
OK = _sum("ok", "countIf(outcome = 'ok')", "outcome")
CREDITS = _sum("credits", "sum(credits)", "credits")
DURATION = _sum("duration_us", "sum(duration_us)", "duration_us")
TTFB = _sum("ttfb_us", "sum(assumeNotNull(ifNull(ttfb_us, 0)))", "ttfb_us")
TTFB_CALLS = _sum("ttfb_calls", "count(ttfb_us)", "ttfb_us")
REQUEST_BYTES = _sum("request_bytes", "sum(request_bytes)", "request_bytes")
RESPONSE_BYTES = _sum("response_bytes", "sum(response_bytes)", "response_bytes")
DURATIONS = _sketch("duration_bins", "duration_us")
TTFBS = _sketch("ttfb_bins", "ttfb_us")
QUANTITIES = Component(
    "quantities", "sumMap(quantities)", "sumMap(quantities)", f"sumMap({_alias('quantities')})", ("quantities",)
)


def named_quantities(names: Sequence[str], bind: Binder) -> str:
    """What `QUANTITIES` makes of calls or of a rollup's rows that have no others than these, for a third of the cost;
    but without sums of zero, which say nothing."""
    if not names:
        return "CAST(map(), 'Map(String, Float64)')"
    bound = [bind(name, "String") for name in names]
    return f"mapFilter((name, sum) -> sum != 0, map({', '.join(f'{one}, sum(quantities[{one}])' for one in bound)}))"


COMPONENTS = (
    CALLS, OK, CREDITS, DURATION, TTFB, TTFB_CALLS, REQUEST_BYTES, RESPONSE_BYTES, QUANTITIES, DURATIONS, TTFBS,
)  # fmt: skip
"""What a rollup's row holds, in the order of its columns (schema.sql)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`value` makes the number from the components' results (of calls, never of none)."""

    name: str
    unit: str
    components: tuple[Component, ...] = ()
    value: Callable[[Sequence[Any]], Number | None] = lambda results: results[0]
    additive: bool = False
    """Parts sum to the whole: it may be cumulated and stacked, and is 0 where nothing happened."""


def exact(number: Decimal) -> int | Decimal:
    """A decimal as it should be printed: no trailing zeros, no exponent."""
    return int(number) if number == number.to_integral_value() else number.normalize()


def _credits(results: Sequence[Any]) -> Number:
    return exact(Decimal(results[0]))


def _errors(results: Sequence[Any]) -> Number:
    calls, ok = results
    return int(calls) - int(ok)


def _ratio(results: Sequence[Any]) -> Number | None:
    part, whole = results
    return float(part) / float(whole) if whole else None


def _mean_ms(results: Sequence[Any]) -> Number | None:
    total_us, count = results
    return float(total_us) / float(count) / 1000 if count else None


def _quantile_ms(index: int) -> Callable[[Sequence[Any]], Number | None]:
    def value(results: Sequence[Any]) -> Number | None:
        sketch, count = results  # a Sketch, or the pair that the engine gave
        return _middle_us(sketch[0][index]) / 1000 if count else None

    return value


@cache  # some hundreds of bins, thousands of cells
def _middle_us(bin: int) -> float:
    """The value that is as far, in proportion, from the bin's lower bound as from its upper one."""
    return 0.0 if bin == EMPTY_BIN else 2 * GAMMA**bin / (GAMMA + 1)


CONCURRENCY = ("concurrency", "concurrency_average")
"""Answered from the calls' intervals, not from their starts: see `query.concurrency_statement`."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("credits", "credits", (CREDITS,), _credits, additive=True),
        Metric("requests", "requests", (CALLS,), additive=True),
        Metric("errors", "requests", (CALLS, OK), _errors, additive=True),
        Metric("success_rate", "ratio", (OK, CALLS), _ratio),
        Metric("latency_avg", "ms", (DURATION, CALLS), _mean_ms),
        Metric("latency_p50", "ms", (DURATIONS, CALLS), _quantile_ms(0)),
        Metric("latency_p95", "ms", (DURATIONS, CALLS), _quantile_ms(1)),
        Metric("latency_p99", "ms", (DURATIONS, CALLS), _quantile_ms(2)),
        Metric("ttfb_avg", "ms", (TTFB, TTFB_CALLS), _mean_ms),
        Metric("ttfb_p95", "ms", (TTFBS, TTFB_CALLS), _quantile_ms(1)),
        Metric("concurrency", "calls"),
        Metric("concurrency_average", "calls"),
        Metric("request_bytes", "bytes", (REQUEST_BYTES,), additive=True),
        Metric("response_bytes", "bytes", (RESPONSE_BYTES,), additive=True),
    )
}


def is_metric(name: str) -> bool:
    return name in METRICS or (name.startswith(QUANTITY) and len(name) > len(QUANTITY))


def metric(name: str, bind: Binder, number: int = 0) -> Metric:
    """The metric of a name that `is_metric` knows; a quantity's name is bound, not written into the SQL.

    `number` tells the quantities of one question apart.
    """
    if name.startswith(QUANTITY):
        sql = f"sum(quantities[{bind(name.removeprefix(QUANTITY), 'String')}])"
        column = f"quantity{number}"
        quantity = Component(column, sql, sql, f"sum({_alias(column)})", ("quantities",), kept=("quantities",))
        return Metric(name, name.removeprefix(QUANTITY), (quantity,), _quantity, additive=True)
    return METRICS[name]


def unit(name: str) -> str:
    return name.removeprefix(QUANTITY) if name.startswith(QUANTITY) else METRICS[name].unit


def is_additive(name: str) -> bool:
    return name.startswith(QUANTITY) or METRICS[name].additive


def _quantity(results: Sequence[Any]) -> Number:
    number = float(results[0])
    return int(number) if number.is_integer() else number
