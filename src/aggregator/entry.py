"""A stream entry: from its fields to its events and back. Pure.

An entry has the fields `v` (format version), `n` (number of events) and `b` (their payload); see `usage_meter.event`.
"""

from collections.abc import Mapping, Sequence

from usage_meter.event import FORMAT_VERSION, UsageEvent, UsageEventError, concatenated, pack, unpack

Fields = Mapping[bytes, bytes]


def events_of(fields: Fields) -> list[UsageEvent]:
    """Raises UsageEventError that says why the entry cannot be read."""
    try:
        version, count, payload = int(fields[b"v"]), int(fields[b"n"]), fields[b"b"]
    except (KeyError, ValueError):
        raise UsageEventError("the entry must have the fields v and n, whole numbers, and b") from None
    if version != FORMAT_VERSION:
        raise UsageEventError(
            f"the entry's format is {version}: this aggregator reads {FORMAT_VERSION}; it needs an update"
        )
    return unpack(payload, count)


def fields_of(events: Sequence[UsageEvent]) -> dict[bytes, bytes]:
    return {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(events), b"b": pack(concatenated(events))}
