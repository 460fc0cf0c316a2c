"""Events as a block of ClickHouse's Native format: column by column, as the engine itself keeps them. Pure.

The engine takes a row of 30 columns out of such a block in 0.4 µs, against 8 for RowBinary and 14 for MsgPack: it
parses nothing, and hashes no text, since each column of few values brings its dictionary. The work is Python's then,
so each column is a few calls that loop in C; a line that runs once per value is one comprehension at most.
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, chain, count
from typing import Any

from usage_meter.event import UsageEvent

BLOCK_EVENTS = 2048  # in a block: enough to spread its fixed 0.1 ms, few enough to stay in the processor's cache
DAY_US = 86_400 * 1_000_000

COLUMNS = {
    "id": "FixedString(16)",
    "version": "UInt32",
    "kind": "LowCardinality(String)",
    "started": "DateTime64(6, 'UTC')",
    "duration_us": "Int64",
    "ttfb_us": "Nullable(Int64)",
    "workspace": "LowCardinality(String)",
    "user": "LowCardinality(String)",
    "groups": "Array(LowCardinality(String))",
    "api_key": "LowCardinality(String)",
    "api_key_hint": "LowCardinality(String)",
    "product": "LowCardinality(String)",
    "voice": "LowCardinality(String)",
    "model": "LowCardinality(String)",
    "region": "LowCardinality(String)",
    "source": "LowCardinality(String)",
    "method": "LowCardinality(String)",
    "route": "LowCardinality(String)",
    "path": "LowCardinality(String)",
    "status": "UInt16",
    "outcome": "LowCardinality(String)",
    "error": "LowCardinality(String)",
    "request_bytes": "Int64",
    "response_bytes": "Int64",
    "credits": "Decimal(18, 6)",
    "quantities": "Map(LowCardinality(String), Float64)",
    "attributes": "Map(LowCardinality(String), LowCardinality(String))",
    "request_id": "String",
    "trace_id": "String",
    "instance": "LowCardinality(String)",
}
"""The block's columns and their types: the table's own, but for texts that repeat, which travel with a dictionary."""

_DICTIONARY_VERSION = struct.pack("<Q", 1)  # keys and indexes come with the column
_DICTIONARY_FLAGS = 1 << 9 | 1 << 10  # the keys follow; they are this block's own
_INDEX_CODES = "BHI"  # of `struct`, for indexes of 1, 2 and 4 bytes
_LENGTHS = [chr(length) for length in range(128)]  # a length below 128 is one byte, and an ASCII character


def blocks_by_day(events: Sequence[UsageEvent]) -> dict[int, list[bytes]]:
    """The events as blocks, by the day (UTC, since 1970) on which they started: the store's partitions are days.

    A block of many days would be taken apart by the engine, row by row in every column; a block of one is not.
    """
    blocks: dict[int, list[bytes]] = {}
    for first in range(0, len(events), BLOCK_EVENTS):
        for day, those in _by_day(events[first : first + BLOCK_EVENTS]).items():
            blocks.setdefault(day, []).append(native_block(those))
    return blocks


def native_block(events: Sequence[UsageEvent]) -> bytes:
    """One block: the number of columns and of rows, then each column's name, type and content."""
    contents = (
        b"".join([event.id for event in events]),
        _numbers("I", [event.version for event in events]),
        _texts([event.kind for event in events]),
        _numbers("q", [event.started_us for event in events]),
        _numbers("q", [event.duration_us for event in events]),
        _numbers_or_null([event.ttfb_us for event in events]),
        _texts([event.workspace for event in events]),
        _texts([event.user for event in events]),
        _lists_of_texts([event.groups for event in events]),
        _texts([event.api_key for event in events]),
        _texts([event.api_key_hint for event in events]),
        _texts([event.product for event in events]),
        _texts([event.voice for event in events]),
        _texts([event.model for event in events]),
        _texts([event.region for event in events]),
        _texts([event.source for event in events]),
        _texts([event.method for event in events]),
        _texts([event.route for event in events]),
        _texts([event.path for event in events]),
        _numbers("H", [event.status for event in events]),
        _texts([event.outcome for event in events]),
        _texts([event.error for event in events]),
        _numbers("q", [event.request_bytes for event in events]),
        _numbers("q", [event.response_bytes for event in events]),
        _numbers("q", [event.credits_micro for event in events]),
        _maps_to_numbers([event.quantities for event in events]),
        _maps_to_texts([event.attributes for event in events]),
        _strings([event.request_id for event in events]),
        _strings([event.trace_id for event in events]),
        _texts([event.instance for event in events]),
    )
    columns = chain.from_iterable(zip(_HEADERS, contents, strict=True))
    return b"".join((_varint(len(contents)), _varint(len(events)), *columns))


def _by_day(events: Sequence[UsageEvent]) -> dict[int, Sequence[UsageEvent]]:
    days = [event.started_us // DAY_US for event in events]
    if min(days) == max(days):
        return {days[0]: events}
    found: dict[int, list[UsageEvent]] = {day: [] for day in sorted(set(days))}
    for day, event in zip(days, events, strict=True):
        found[day].append(event)
    return dict(found)


def _numbers(code: str, values: Collection[float]) -> bytes:
    """Integers or floats of a fixed size, by the code that `struct` has for it."""
    return struct.pack(f"<{len(values)}{code}", *values)


def _numbers_or_null(values: Sequence[int | None]) -> bytes:
    return bytes([value is None for value in values]) + _numbers("q", [value or 0 for value in values])


def _strings(values: Collection[str]) -> bytes:
    """Each text behind its length in bytes."""
    lengths = list(map(len, values))
    if max(lengths, default=0) < len(_LENGTHS) and "".join(values).isascii():
        return "".join([_LENGTHS[length] + value for length, value in zip(lengths, values, strict=True)]).encode()
    return b"".join([_varint(len(value)) + value for value in map(str.encode, values)])


def _texts(values: Collection[str]) -> bytes:
    return _DICTIONARY_VERSION + _dictionary(values)


def _dictionary(values: Collection[str]) -> bytes:
    """The distinct texts, then for each row which of them it has."""
    if not values:
        return b""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    indexes = list(map(numbers.__getitem__, values))
    size = (len(numbers) > 1 << 8) + (len(numbers) > 1 << 16)
    return b"".join(
        (
            _numbers("Q", (_DICTIONARY_FLAGS | size, len(numbers))),
            _strings(numbers),
            _numbers("Q", (len(indexes),)),
            _numbers(_INDEX_CODES[size], indexes) if size else bytes(indexes),
        )
    )


def _ends(values: Collection[Collection[object]]) -> bytes:
    """Where each row's elements end among all of them."""
    return struct.pack(f"<{len(values)}Q", *accumulate(map(len, values)))


def _lists_of_texts(values: Collection[Collection[str]]) -> bytes:
    return _DICTIONARY_VERSION + _ends(values) + _dictionary(_flat(values))


def _maps_to_numbers(values: Collection[dict[str, Any]]) -> bytes:
    contents = chain.from_iterable(map(dict.values, values))
    return _DICTIONARY_VERSION + _ends(values) + _dictionary(_flat(values)) + _numbers("d", list(contents))


def _maps_to_texts(values: Collection[dict[str, Any]]) -> bytes:
    keys, contents = _dictionary(_flat(values)), _dictionary(_flat(map(dict.values, values)))
    return _DICTIONARY_VERSION * 2 + _ends(values) + keys + contents


def _flat(values: Iterable[Iterable[str]]) -> list[str]:
    return list(chain.from_iterable(values))


def _varint(number: int) -> bytes:
    """A length as the format writes it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_HEADERS = [_varint(len(name)) + name.encode() + _varint(len(type)) + type.encode() for name, type in COLUMNS.items()]
