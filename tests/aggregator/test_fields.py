"""Values that are bound in pieces, so that each fits into a field of a request to a server."""

import re

import pytest

from aggregator.fields import MOST_BYTES, fitting
from aggregator.query import Statement


def test_what_fits_stays_as_it_is() -> None:
    statement = Statement("SELECT {p0:String}, {p1:Array(UInt8)}", {"p0": "x" * 1000, "p1": [1, 2], "p2": None})

    assert fitting(statement) is statement


@pytest.mark.parametrize("text", ["x" * 300_000, "'\\" * 100_000, "é🎉" * 100_000])
def test_a_long_text_is_put_together_from_pieces_that_fit_escaped(text: str) -> None:
    sql, parameters = fitting(Statement("SELECT {p1:UInt8} + length({p0:String})", {"p0": text, "p1": 1}))

    pieces = [str(parameters[name]) for name in re.findall(r"\{(p0_\d+):String\}", sql)]
    assert "".join(pieces) == text
    assert all(len(piece.encode()) + piece.count("'") + piece.count("\\") <= MOST_BYTES for piece in pieces)
    assert sql.startswith("SELECT {p1:UInt8} + length(concat({p0_0:String}, {p0_1:String}")
    assert parameters["p1"] == 1


@pytest.mark.parametrize("values", [list(range(10**12, 10**12 + 50_000)), ["it's", "", "\\"] * 50_000])
def test_a_long_array_likewise(values: list[object]) -> None:
    sql, parameters = fitting(Statement("SELECT 1 IN {p0:Array(T)}", {"p0": values}))

    pieces = [parameters[name] for name in re.findall(r"\{(p0_\d+):Array\(T\)\}", sql)]
    assert [one for piece in pieces for one in piece] == values  # type: ignore[attr-defined]
    assert all(len(repr(piece).encode()) <= MOST_BYTES for piece in pieces)
    assert sql.startswith("SELECT 1 IN arrayConcat({p0_0:Array(T)}, ")
