"""The cover of a range: exact whatever the zone, the asked buckets and what is dirty."""

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.buckets import DAY_US, HOUR_US, INTERVALS, QUARTER_US, Interval, boundaries, to_us
from aggregator.cover import DAYS, HOURS, MONTHS, QUARTERS, USAGE_LEVELS, Level, Segment, Span, cover, spans_of

PROFILE = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

ZONES = (
    "UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Apia", "Asia/Pyongyang", "America/St_Johns", "Africa/Cairo", "Africa/Monrovia",
)  # fmt: skip
MOMENTS = [
    to_us(datetime.fromisoformat(text))
    for text in (
        "2025-03-09T10:00:00+00:00", "2025-11-02T09:00:00+00:00", "2024-12-31T23:00:00+00:00",
        "2011-12-30T10:00:00+00:00", "2018-05-04T15:00:00+00:00", "2025-04-05T15:00:00+00:00",
        "1972-01-07T00:00:00+00:00",  # Monrovia, until then 44:30 behind
    )
]  # fmt: skip


@st.composite
def dirty_spans(draw: st.DrawFn, level: Level, start_us: int, end_us: int) -> list[Span]:
    """Some whole buckets of the level, also such as reach out of the range."""
    starts = set()
    for moment in draw(st.lists(st.integers(start_us - DAY_US, end_us + DAY_US), max_size=6)):
        start = level.floor(moment)
        for _ in range(draw(st.integers(1, 3))):
            starts.add(start)
            start = level.next(start)
    return spans_of(level, sorted(starts))


def buckets_of(segment: Segment) -> list[int]:
    """The starts of the level's buckets that a segment consists of; fails unless they are whole."""
    assert segment.level
    found, position = [], segment.start_us
    while position < segment.end_us:
        assert segment.level.floor(position) == position
        found.append(position)
        position = segment.level.next(position)
    assert position == segment.end_us
    return found


@given(
    st.sampled_from(ZONES),
    st.sampled_from(INTERVALS),
    st.sampled_from(MOMENTS),
    st.integers(-40 * 96, 40 * 96),
    st.sampled_from((QUARTER_US, HOUR_US, DAY_US, 40 * DAY_US, 400 * DAY_US)),
    st.integers(-QUARTER_US, QUARTER_US),
    st.data(),
)
@example("Asia/Kolkata", "day", MOMENTS[0], 0, 40 * DAY_US, 0, None)
@PROFILE
def test_every_cover_is_exact(
    zone: str, interval: Interval, moment: int, quarters: int, length: int, odd: int, data: st.DataObject | None
) -> None:
    start_us = moment + quarters * QUARTER_US
    end_us = start_us + (min(length, 4 * DAY_US) if interval in ("minute", "hour") else length) + max(odd, 0)
    start_us += min(odd, 0)
    bounds = list(boundaries(start_us, end_us, interval, ZoneInfo(zone)))
    dirty = {level: data.draw(dirty_spans(level, start_us, end_us)) if data else [] for level in USAGE_LEVELS}

    segments = cover(start_us, end_us, bounds, dirty)

    # They partition the range,
    assert [segments[0].start_us, *(one.end_us for one in segments)] == [
        *(one.start_us for one in segments),
        end_us,
    ]
    assert segments[0].start_us == start_us
    for one in segments:
        assert one.start_us < one.end_us
        if one.level is None:
            continue
        unusable = {start for span in dirty[one.level] for start in buckets_of(Segment(one.level, *span))}
        for start in buckets_of(one):
            # none touches a dirty bucket,
            assert start not in unusable
            # and each bucket lies inside one asked bucket.
            assert bisect_right(bounds, start) == bisect_left(bounds, one.level.next(start))


def at(*when: int, zone: tzinfo = UTC) -> int:
    return to_us(datetime(*when, tzinfo=zone))  # type: ignore[arg-type,misc]  # year, month, day, hour, minute


def levels_of(segments: list[Segment]) -> list[tuple[str, float]]:
    """Their levels, and how many hours they are long."""
    return [(one.level.name if one.level else "calls", (one.end_us - one.start_us) / HOUR_US) for one in segments]


def test_a_clean_month_is_one_bucket() -> None:
    start, end = at(2026, 1, 1), at(2026, 3, 1)

    assert cover(start, end, [start], {}) == [Segment(MONTHS, start, end)]


def test_a_day_in_kolkata_begins_with_two_quarters() -> None:
    zone = ZoneInfo("Asia/Kolkata")
    start, end = at(2026, 3, 10, zone=zone), at(2026, 3, 11, zone=zone)

    assert levels_of(cover(start, end, [start], {})) == [("15m", 0.5), ("1h", 23), ("15m", 0.5)]


def test_what_is_dirty_is_read_from_the_calls_and_the_rest_from_the_next_finer_level() -> None:
    start, end = at(2026, 3, 10), at(2026, 3, 11)
    quarter = Span(at(2026, 3, 10, 7, 15), at(2026, 3, 10, 7, 30))
    hour = Span(at(2026, 3, 10, 7), at(2026, 3, 10, 8))
    dirty = {QUARTERS: [quarter], HOURS: [hour], DAYS: [Span(start, end)]}

    assert levels_of(cover(start, end, [start], dirty)) == [
        ("1h", 7), ("15m", 0.25), ("calls", 0.25), ("15m", 0.5), ("1h", 16),
    ]  # fmt: skip


@pytest.mark.parametrize("interval", ["minute", "hour"])
def test_a_month_of_small_buckets_needs_no_larger_level(interval: Interval) -> None:
    start, end = at(2026, 1, 1), at(2026, 1, 31)
    bounds = list(boundaries(start, end, interval, UTC))

    found = cover(start, end, bounds, {})

    assert found == [Segment(None if interval == "minute" else HOURS, start, end)]


def test_a_month_ends_where_the_next_begins() -> None:
    day = datetime(2023, 1, 1, tzinfo=UTC)
    while day.year < 2026:
        start, following = to_us(day), (day + timedelta(days=32)).replace(day=1)
        assert MONTHS.next(start) == to_us(following)
        assert MONTHS.ceiling(start) == start
        assert MONTHS.ceiling(start + 1) == to_us(following)
        day = following
