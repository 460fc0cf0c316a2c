"""ElevenLabs' terms for ours: breakdowns, metrics, columns, sizes of buckets and ends of ranges. Pure.

Their enumerations are open, so our own names may be asked for as well, with their unmodified SDK. What has no
counterpart here is refused with the way to get it, never answered with something else.
"""

from aggregator.buckets import DAY_SECONDS, Interval
from aggregator.dimensions import ATTRIBUTE, QUANTITY, is_dimension
from usage_meter.event import MAX_TIME_US

MAX_TIME_MS = MAX_TIME_US // 1000
MIN_TIME_MS = 1_577_836_800_000  # 2020-01-01: theirs
MAX_STEP_SECONDS = MAX_TIME_US // 1_000_000  # one bucket for all there is

AUDIO_SECONDS = f"{QUANTITY}audio_seconds"
CHARACTERS = f"{QUANTITY}characters"
SECONDS_PER_MINUTE = 60

BREAKDOWNS = {
    "none": "", "voice": "voice", "user": "user", "groups": "group", "api_keys": "api_key", "all_api_keys": "api_key",
    "product_type": "product", "model": "model", "region": "region", "reporting_workspace_id": "workspace",
    "request_source": "source",
}  # fmt: skip
"""Of character-stats; `has_api_key` is none of these, since its two series are two questions."""

HAS_API_KEY = "has_api_key"
OF_THE_WORKSPACE = ("user", "all_api_keys")
"""Breakdowns that make sense only for the workspace's calls."""

METRICS = {
    "credits": "credits", "request_count": "requests", "tts_characters": CHARACTERS, "minutes_used": AUDIO_SECONDS,
    "ttfb_avg": "ttfb_avg", "ttfb_p95": "ttfb_p95", "concurrency": "concurrency",
    "concurrency_average": "concurrency_average",
}  # fmt: skip

COLUMNS = {
    "product_type": "product", "model": "model", "voice_id": "voice", "user_id": "user", "hashed_xi_api_key": "api_key",
    "region": "region", "request_source": "source", "reporting_workspace_id": "workspace",
}  # fmt: skip
"""Of the tables: what can be grouped by and filtered on."""

LABEL_COLUMNS = {"user": "user_label", "voice": "voice_name", "api_key": "api_key_name"}
"""By dimension: the column of its display names, which stands behind all others."""

_NO_MONEY = "credits are metered here, not money: record money with usage.set(NAME=…) and take quantity.NAME"
ABSENT = {
    "voice_multiplier": "", "resource": "", "resource_id": "", "subresource_id": "", "request_queue": "",
    "request_queue_type": "", "billing_group_id": "take 'group', the user's groups",
    "surface": "take 'request_source'", "actor": "take 'user_id' or 'hashed_xi_api_key'",
    "fiat_currency": _NO_MONEY, "fiat_charge_type": _NO_MONEY, "fiat_units_spent": _NO_MONEY,
}  # fmt: skip
"""What ElevenLabs knows and an event here does not say, with what to take instead."""


def why_absent(name: str) -> str | None:
    """Why one of their names has no answer here; None for every other name."""
    if name not in ABSENT:
        return None
    instead = ABSENT[name] or f"record it with usage.set({name}=…) and take '{ATTRIBUTE}{name}'"
    return f"'{name}' is not known of a call here: {instead}"


def dimension_of(column: str, operator: bool) -> str | None:
    """The dimension of one of their columns, or of our own name; None if this asker has no such dimension."""
    dimension = COLUMNS.get(column, column)
    return dimension if is_dimension(dimension, operator) else None


def unknown(column: str) -> str:
    return why_absent(column) or f"'{column[:60]}' is unknown: must be one of {', '.join(COLUMNS)}, or a dimension"


def step_of(seconds: int) -> tuple[Interval, int | None]:
    """The interval of buckets of that size; where no interval is, one that is finer, and the size itself."""
    intervals: dict[int, Interval] = {60: "minute", 3600: "hour", DAY_SECONDS: "day", 7 * DAY_SECONDS: "week"}
    if seconds in intervals:
        return intervals[seconds], None
    if seconds % DAY_SECONDS == 0:
        return ("day" if seconds % (7 * DAY_SECONDS) else "week"), seconds
    return "minute", seconds


def end_us(end_ms: int) -> int:
    """Where a range ends whose last moment, as their users write it, may be 23:59:59.

    An end in the 59th second of a minute means all of that second, so that days that are asked for one after another
    have nothing between them; every other end is exclusive.
    """
    second = end_ms // 1000
    return (second + 1) * 1_000_000 if second % 60 == 59 else end_ms * 1000
