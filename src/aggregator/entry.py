"""A stream entry: from its fields to its rows and back. Pure.

An entry has the fields `v` (format version), `n` (number of events) and `b` (their payload); see `usage_meter.event`.
What is sent again by hand, to be let in for a sealed day, has UNSEAL beside them.
"""

from collections.abc import Mapping, Sequence

from usage_meter.event import (
    FORMAT_VERSION,
    EventRow,
    UsageEventError,
    decode_event,
    pack,
    split,
    unpack_rows,
)

Fields = Mapping[bytes, bytes]

UNSEAL = b"unseal"


def rows_of(fields: Fields) -> list[EventRow]:
    """Raises UsageEventError that says why the entry cannot be read."""
    version, count, payload = _parts(fields)
    return unpack_rows(payload, count, version)


def salvaged(fields: Fields) -> tuple[list[EventRow], dict[str, list[bytes]]]:
    """The rows that can be read, and the other events, still encoded, by the reason why they cannot.

    Raises UsageEventError when the entry cannot even be taken apart.
    """
    version, count, payload = _parts(fields)
    rows: list[EventRow] = []
    unreadable: dict[str, list[bytes]] = {}
    for encoded in split(payload, count, version):
        try:
            rows.append(decode_event(encoded))
        except UsageEventError as error:
            unreadable.setdefault(str(error), []).append(encoded)
    return rows, unreadable


def fields_of(encoded: Sequence[bytes]) -> dict[bytes, bytes]:
    """An entry of these events."""
    return {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(encoded), b"b": pack(b"".join(encoded))}


def _parts(fields: Fields) -> tuple[int, int, bytes]:
    try:
        return int(fields[b"v"]), int(fields[b"n"]), fields[b"b"]
    except (KeyError, ValueError):
        raise UsageEventError("the entry must have the fields v and n, whole numbers, and b") from None
