"""Calls for tests: an event with what matters to the test, the rest plausible."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from usage_meter.event import UsageEvent, new_id, to_micro

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
