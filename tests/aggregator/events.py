"""Calls for tests: an event with what matters to the test, the rest plausible."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from aggregator.batch import Load
from usage_meter.event import FORMAT_VERSION, UsageEvent, concatenated, decode_rows, new_id, pack, to_micro, unpack

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def call(moment: datetime = NOON, credits: Decimal | int | str = 1, **fields: Any) -> UsageEvent:
    started_us = us(moment)
    event = UsageEvent(
        id=new_id(started_us),
        started_us=started_us,
        duration_us=fields.pop("duration_us", 250_000),
        workspace=fields.pop("workspace", "acme"),
        user=fields.pop("user", "alice"),
        credits_micro=to_micro(credits),
        status=fields.pop("status", 200),
        method="POST",
        route="/v1/text-to-speech/{voice_id}",
        path="/v1/text-to-speech/en",
    )
    return msgspec.structs.replace(event, **fields)


def entry(*events: UsageEvent) -> dict[Any, Any]:
    """The fields of a stream entry, as an app sends it."""
    return {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(events), b"b": pack(concatenated(events))}


def events_in(fields: Mapping[bytes, bytes]) -> list[UsageEvent]:
    """What an entry holds."""
    return unpack(fields[b"b"], int(fields[b"n"]))


def load(*events: UsageEvent) -> Load:
    """Ready to be stored, and added up."""
    load = Load(decode_rows(concatenated(events), len(events)))
    load.blocks()
    return load
