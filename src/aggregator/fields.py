"""Bound values as a ClickHouse server takes them, which are fields of a request: each up to 128 KiB. Pure.

A longer one is bound in pieces that the statement puts together again: `{p1:String}` becomes
`concat({p1_0:String}, {p1_1:String})`, and an array likewise. The embedded engine knows no such limit.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from aggregator.query import Statement

MOST_BYTES = 120 * 1024  # the server's `http_max_field_value_size` is 128 KiB


def fitting(statement: Statement) -> Statement:
    """The same statement, with no value too long for a field."""
    pieces = {name: _pieces(value) for name, value in statement.parameters.items() if _bytes(value) > MOST_BYTES}
    if not pieces:
        return statement
    parameters = {name: value for name, value in statement.parameters.items() if name not in pieces}
    for name, cut in pieces.items():
        parameters |= {f"{name}_{i}": piece for i, piece in enumerate(cut)}

    def together(found: re.Match[str]) -> str:
        name, type = found.groups()
        if name not in pieces:
            return found[0]
        listed = ", ".join(f"{{{name}_{i}:{type}}}" for i in range(len(pieces[name])))
        return f"{'concat' if type == 'String' else 'arrayConcat'}({listed})"

    return Statement(re.sub(r"\{(\w+):([^{}]+)\}", together, statement.sql), parameters)


def _bytes(value: Any) -> int:
    """At most, with what has to be escaped."""
    if isinstance(value, str):
        return len(value) * (2 if value.isascii() else 4)
    if isinstance(value, list):
        return sum(map(_bytes, value)) + 4 * len(value)  # in quotes, with a comma behind
    return len(str(value))


def _pieces(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        most = MOST_BYTES // (2 if value.isascii() else 4)
        return [value[at : at + most] for at in range(0, len(value), most)]
    return list(_parts(value))


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    held = 0
    for value in values:
        size = _bytes(value) + 4
        if part and held + size > MOST_BYTES:
            yield part
            part, held = [], 0
        part.append(value)
        held += size
    yield part
