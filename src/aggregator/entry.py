"""A stream entry: from its fields to its rows and back. Pure.

An entry has the fields `v` (format version), `n` (number of events) and `b` (their payload); see `usage_meter.event`.
"""

from collections.abc import Mapping, Sequence

from usage_meter.event import FORMAT_VERSION, EventRow, UsageEventError, encode_row, pack, unpack_rows

Fields = Mapping[bytes, bytes]


def rows_of(fields: Fields) -> list[EventRow]:
    """Raises UsageEventError that says why the entry cannot be read."""
    try:
        version, count, payload = int(fields[b"v"]), int(fields[b"n"]), fields[b"b"]
    except (KeyError, ValueError):
        raise UsageEventError("the entry must have the fields v and n, whole numbers, and b") from None
    return unpack_rows(payload, count, version)


def fields_of(rows: Sequence[EventRow]) -> dict[bytes, bytes]:
    payload = pack(b"".join(map(encode_row, rows)))
    return {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(rows), b"b": payload}
