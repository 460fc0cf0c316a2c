"""ElevenLabs' column filters as conditions on calls: eight operations on dimensions and on a call's own facts. Pure.

What equals a dimension's value is an ordinary filter. Everything else looks at the calls themselves. Numbers compare
as integers of the unit in which they are stored, so no fraction is lost on the way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, get_args

from aggregator.buckets import to_us
from aggregator.dimensions import Binder, Condition, Filter, expression, filter_problem
from aggregator.elevenlabs.terms import dimension_of, unknown
from usage_meter.event import MICRO

Operation = Literal["in", "not_in", "le", "ge", "lt", "gt", "eq", "neq"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
Value = str | bool | int | float | None

_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_INT64 = 2**63 - 1
_NUMBER_CHARACTERS = 64  # of a number that is written as text: no stored one has a third of it


@dataclass(frozen=True, slots=True)
class Fact:
    """Something of one call that is no dimension. `scale` turns a value of the filter into the stored integer."""

    sql: str
    kind: Literal["text", "number", "moment", "flag"] = "text"
    scale: int = 1


FACTS = {
    "timestamp": Fact("toUnixTimestamp64Milli(started)", "moment"),
    "status_code": Fact("toInt64(status)", "number"),
    "response_time_ms": Fact("intDiv(duration_us + 500, 1000)", "number"),  # rounded, as the table shows them
    "ttfb_ms": Fact("intDiv(ttfb_us + 500, 1000)", "number"),
    "credits": Fact("reinterpretAsInt64(credits)", "number", MICRO),
    "success": Fact("toInt64(outcome = 'ok')", "flag"),
    "endpoint": Fact("if(route = '', path, route)"),
    "path": Fact("path"),
    "error_code": Fact("toString(error)"),
    "request_id": Fact("if(request_id = '', UUIDNumToString(id), request_id)"),
    "trace_id": Fact("trace_id"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fact, or a dimension's text, beside some values: equal to one of them, or on one side of the only one."""

    dimension: str
    sign: str
    values: tuple[str, ...] | tuple[int, ...]
    negated: bool = False
    or_missing: bool = False

    def sql(self, bind: Binder) -> str:
        fact = FACTS.get(self.dimension)
        column = fact.sql if fact else expression(self.dimension, bind)
        type = "Int64" if fact and fact.kind != "text" else "String"
        if self.sign == "=":
            condition = f"has({bind(list(self.values), f'Array({type})')}, {column})"
        else:
            condition = f"ifNull({column} {self.sign} {bind(self.values[0], type)}, 0)"
        if self.or_missing:
            condition = f"({condition} OR isNull({column}))"
        return f"NOT {condition}" if self.negated else condition


def condition(column: str, operation: Operation, values: Sequence[Value], operator: bool) -> Condition:
    """One filter; `operator`: whether its asker sees every workspace. Raises ValueError with what would be right."""
    if not values:
        raise ValueError("must hold at least one value")
    if operation not in ("in", "not_in") and len(values) > 1:
        raise ValueError(f"holds {len(values)} values: '{operation}' takes one")
    if operation in _SIGNS and values[0] is None:
        raise ValueError(f"null has no order: '{operation}' takes a value")
    if column in FACTS:
        return _of_fact(column, operation, values)
    dimension = dimension_of(column, operator)
    if dimension is None:
        raise ValueError(f"{unknown(column)}, or one of {', '.join(FACTS)}")
    return _of_dimension(dimension, operation, _texts(values))


def _of_dimension(dimension: str, operation: Operation, values: tuple[str, ...]) -> Condition:
    problem = filter_problem(dimension, values, dimension)
    if problem:
        raise ValueError(problem.message)
    if operation not in _SIGNS:
        return Filter(dimension, values, operation in ("not_in", "neq"))
    if dimension == "group":
        raise ValueError(f"a call has several groups: '{operation}' cannot put them in order")
    return Comparison(dimension, _SIGNS[operation], values)


def _of_fact(column: str, operation: Operation, values: Sequence[Value]) -> Condition:
    fact, negated = FACTS[column], operation in ("not_in", "neq")
    if fact.kind == "text":
        return Comparison(column, _SIGNS.get(operation, "="), _texts(values), negated)
    numbers = [_number(value, fact) for value in values if value is not None]
    if operation in _SIGNS:
        # An integer is below 2.5 when it is below 3, and not above it when it is not above 2.
        bound = math.ceil(numbers[0]) if operation in ("lt", "ge") else math.floor(numbers[0])
        return Comparison(column, _SIGNS[operation], (max(-_INT64, min(_INT64, bound)),))
    whole = tuple(int(number) for number in numbers if number == int(number) and abs(number) <= _INT64)
    return Comparison(column, "=", whole, negated, or_missing=None in values)


def _texts(values: Sequence[Value]) -> tuple[str, ...]:
    """A value that is missing is the empty text."""
    if any(isinstance(value, bool) for value in values):
        raise ValueError("must hold text, not true or false")
    return tuple("" if value is None else str(value) for value in values)


def _number(value: Value, fact: Fact) -> Decimal:
    if (fact.kind == "flag") != isinstance(value, bool):
        raise ValueError("must be true or false" if fact.kind == "flag" else "must be a number, not true or false")
    text = str(value)
    if fact.kind == "moment" and isinstance(value, str) and not text.isdecimal():
        return Decimal(_moment_us(text)) / 1000
    try:
        number = Decimal(int(value) if isinstance(value, bool) else text) * fact.scale
    except ArithmeticError:  # no number, or one beyond all exponents
        number = Decimal("NaN")
    if len(text) > _NUMBER_CHARACTERS or not number.is_finite():
        raise ValueError(f"'{text[:60]}' is no number")
    return max(Decimal(-_INT64), min(Decimal(_INT64), number))


def _moment_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(f"'{text[:60]}' is no time: must be ISO 8601, or Unix milliseconds") from None
