"""Every error that the aggregator raises on purpose, with the data that an answer needs.

AggregatorError
├── SettingsError       a setting is unusable; the message names it and says what would be right
├── QueryError          a question is malformed; `problems` lists every fault, each with its parameter
├── StoreError          the store cannot be opened, or refused a statement
├── NotFoundError       there is no such thing in what the asker may see
└── ServiceError        the service that a command asked does not answer, or cannot now
"""

from collections.abc import Sequence
from dataclasses import dataclass


class AggregatorError(Exception):
    """The root: the message is meant for the person who reads it."""


class SettingsError(AggregatorError):
    """A setting's value cannot be used."""


class StoreError(AggregatorError):
    """The store cannot be opened, or refused a statement."""


class BusyError(StoreError):
    """Too much is going on at once; later it will work."""


class TooLargeError(StoreError):
    """A statement would take more memory than it may: again it would be no use, with less in it, it would."""


class RejectedError(StoreError):
    """The store refuses these rows for what they hold: trying again is no use."""


class NotFoundError(AggregatorError):
    """Nothing by that name in what the asker may see."""


class ServiceError(AggregatorError):
    """The service that a command asked does not answer, or cannot now: nothing is wrong with the question."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a question: which parameter, what is wrong and what would be right."""

    parameter: str
    message: str
    type: str = "value_error"
    location: tuple[str | int, ...] = ()
    """Where in the request, such as `("body", "filters", 0)`; by default the parameter's place is the query string."""


class QueryError(AggregatorError):
    """A question that cannot be answered; carries all its faults, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{problem.parameter}: {problem.message}" for problem in problems))
        self.problems = tuple(problems)
