"""A usage answer as a statement, so that the engine writes it as Parquet or Arrow. Pure, no I/O.

The rows are bound as one text of JSON lines, which the engine reads into typed columns; so no library for these files
is needed. (As arrays, one for each column, they take it twice the time.)
"""

from aggregator.dimensions import Binder
from aggregator.errors import Problem, QueryError
from aggregator.export import long_rows, long_titles, to_json
from aggregator.query import Statement, UsageAnswer

MAX_CELLS = 500_000  # some seconds and 200 MB of the engine's while it reads them; the CSV has no limit

_TYPES = {
    "credits": "Decimal(38, 6)",
    **dict.fromkeys(("requests", "errors", "concurrency", "request_bytes", "response_bytes"), "Int64"),
}
"""Of the metrics that are no fractions; all others are floats, null where nothing was measured."""


def table_statement(answer: UsageAnswer) -> Statement:
    """Rows under the CSV's titles, in its long form; `bucket` is an instant in UTC.

    Raises QueryError where they are too many for such a file.
    """
    query, titles = answer.query, long_titles(answer)
    rows = len(answer.bounds) * len(answer.series) // len(query.metrics)
    if rows * len(titles) > MAX_CELLS:
        message = f"makes {rows} rows of {len(titles)} columns: such a file holds {MAX_CELLS} cells, so ask for .csv"
        raise QueryError([Problem("interval", message)])
    bind = Binder()
    types = ["Int64", *["String"] * len(query.breakdown)]
    types += [_TYPES.get(name, "Nullable(Float64)") for name in query.metrics]
    types += ["String"] * (len(titles) - len(types))
    structure = ", ".join(f"c{i} {type}" for i, type in enumerate(types))
    values = ["fromUnixTimestamp64Micro(c0, 'UTC')", *(f"c{i}" for i in range(1, len(types)))]
    selected = ", ".join(f"{value} AS {bind(name, 'Identifier')}" for value, name in zip(values, titles, strict=True))
    lines = bind(b"\n".join(map(to_json, long_rows(answer))).decode(), "String")
    return Statement(f"SELECT {selected} FROM format(JSONCompactEachRow, '{structure}', {lines})", bind.parameters)
