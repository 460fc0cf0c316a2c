"""The Request Log's CSV as plain Python makes it from the records of the JSON: what the engine's must equal."""

import csv
import io
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from aggregator.export import cell, to_json
from aggregator.labels import Names
from aggregator.request_file import COLUMNS, NAMED, TITLES


def requests_csv(records: Iterable[dict[str, Any]], names: Names | None = None) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(TITLES)
    for record in records:
        named = [(names or {}).get(column, {}).get(record[column], "") for column in NAMED]
        writer.writerow([*(_text(record[name]) for name in COLUMNS), *map(cell, named)])
    return buffer.getvalue()


def _text(value: object) -> str:
    """Text made harmless, exact numbers, nothing for null, and JSON for lists and maps."""
    if value is None:
        return ""
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    return repr(value) if isinstance(value, int | float) else to_json(value).decode()
