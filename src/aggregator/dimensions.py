"""What calls can be told apart by, and the filters on it: the allow-list of identifiers that reach SQL. Pure.

A dimension is one of the names below or `attribute.NAME`; only the name's own expression enters the SQL text, every
value (an attribute's name too) is bound.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, get_args

from aggregator.errors import Problem
from usage_meter.event import Kind, Outcome

DIMENSIONS = (
    "voice", "product", "model", "api_key", "user", "group", "route", "method", "status", "outcome", "kind",
    "region", "source",
)  # fmt: skip
OPERATOR_DIMENSIONS = ("workspace",)  # everybody else has exactly one
_COLUMNS = {*DIMENSIONS, *OPERATOR_DIMENSIONS} - {"group", "status"}
"""Those that are texts as they lie in the store, which are compared sooner than a text that is made of them."""
ATTRIBUTE = "attribute."
QUANTITY = "quantity."

_ENUMERATIONS: dict[str, tuple[str, ...]] = {"kind": get_args(Kind), "outcome": get_args(Outcome)}
_STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

Parameters = dict[str, object]


class Binder:
    """Collects the values of one statement; each gets a name of its own that the SQL text refers to."""

    def __init__(self, parameters: Parameters | None = None) -> None:
        self.parameters: Parameters = dict(parameters or {})

    def __call__(self, value: object, type: str) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"{{{name}:{type}}}"


class Condition(Protocol):
    """What a call must fulfil to be counted."""

    @property
    def dimension(self) -> str:
        """What it looks at: a dimension, or else something that only the calls themselves know."""

    def sql(self, bind: Binder) -> str:
        """A condition on a row of events, or on any row that has the dimension under the same name."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Calls whose dimension has one of the values (or, `negated`, none of them)."""

    dimension: str
    values: tuple[str, ...]
    negated: bool = False

    def sql(self, bind: Binder) -> str:
        condition = self._condition(bind)
        return f"NOT ({condition})" if self.negated else condition

    def _condition(self, bind: Binder) -> str:
        if self.dimension == "status":
            return _status_condition(self.values, bind)
        if len(self.values) == 1 and self.dimension in _COLUMNS:  # of a workspace the store's order then is the log's
            return f"{self.dimension} = {bind(self.values[0], 'String')}"
        values = bind(list(self.values), "Array(String)")
        if self.dimension == "group":
            return (
                f"hasAny(groups, {values})" if "" not in self.values else f"(hasAny(groups, {values}) OR empty(groups))"
            )
        column = self.dimension if self.dimension in _COLUMNS else expression(self.dimension, bind)
        return f"{column} IN {values}"


def is_dimension(name: str, operator: bool) -> bool:
    return (
        name in DIMENSIONS
        or (operator and name in OPERATOR_DIMENSIONS)
        or (name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE))
    )


def expression(dimension: str, bind: Binder) -> str:
    """The SQL that gives a call's value as text; for `group` an array, which a breakdown joins."""
    if dimension.startswith(ATTRIBUTE):
        return f"attributes[{bind(dimension.removeprefix(ATTRIBUTE), 'String')}]"
    if dimension == "status":
        return "toString(status)"
    if dimension == "group":
        return "if(empty(groups), [''], groups)"
    if dimension in DIMENSIONS or dimension in OPERATOR_DIMENSIONS:
        return f"toString({dimension})"
    raise KeyError(dimension)


def _status_condition(values: Iterable[str], bind: Binder) -> str:
    parts = []
    for value in values:
        if value in _STATUS_CLASSES:
            low = int(value[0]) * 100
            parts.append(f"status BETWEEN {bind(low, 'UInt16')} AND {bind(low + 99, 'UInt16')}")
        else:
            parts.append(f"status = {bind(int(value), 'UInt16')}")
    return "(" + " OR ".join(parts) + ")"


def filter_problem(dimension: str, values: Iterable[str], parameter: str) -> Problem | None:
    """What is wrong with a filter's values, if anything."""
    for value in values:
        if (
            dimension == "status"
            and value not in _STATUS_CLASSES
            and not (value.isascii() and value.isdecimal() and len(value) == 3)
        ):
            return Problem(
                parameter, f"'{value}' is no status: must be three digits such as 404, or a class such as 4xx"
            )
        allowed = _ENUMERATIONS.get(dimension)
        if allowed and value not in allowed:
            return Problem(parameter, f"'{value}' is unknown: must be one of {', '.join(allowed)}", "enum")
    return None
