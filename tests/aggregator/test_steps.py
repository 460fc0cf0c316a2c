"""Buckets of a size in seconds: weeks and days by the zone's calendar, hours from its midnight, the rest from 1970."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.buckets import from_us, stepped, to_us

DAY = 86_400
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia")


def starts(start: str, end: str, seconds: int, zone: str) -> list[str]:
    clock = ZoneInfo(zone)
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    found = stepped(to_us(first.replace(tzinfo=clock)), to_us(last.replace(tzinfo=clock)), seconds, clock)
    return [f"{from_us(one, clock):%m-%dT%H:%M}" for one in found]


@pytest.mark.parametrize(
    ("start", "end", "seconds", "zone", "expected"),
    [
        ("2026-03-10", "2026-03-10T01:00", 900, "UTC", ["03-10T00:00", "03-10T00:15", "03-10T00:30", "03-10T00:45"]),
        # A size that is no whole hour counts from 1970 UTC, which in Kathmandu is 05:45.
        # 1,773,100,000 is a multiple of 7000.
        ("2026-03-10T05:00", "2026-03-10T07:00", 7000, "Asia/Kathmandu", ["03-10T05:00", "03-10T05:31"]),
        ("2026-03-10T01:00", "2026-03-10T08:00", 14_400, "Asia/Kathmandu", ["03-10T01:00", "03-10T04:00"]),
        # Five does not divide a day: the last bucket of a day is shorter, and the next day begins at its midnight.
        ("2026-03-10T14:00", "2026-03-11T06:00", 18_000, "Europe/Berlin",
         ["03-10T14:00", "03-10T15:00", "03-10T20:00", "03-11T00:00", "03-11T05:00"]),
        # The clock goes back from 3 to 2: that bucket of two hours is three hours long.
        ("2025-10-26", "2025-10-26T06:00", 7200, "Europe/Berlin", ["10-26T00:00", "10-26T02:00", "10-26T04:00"]),
        # The clock goes forward from 2 to 3.
        ("2026-03-29", "2026-03-29T06:00", 7200, "Europe/Berlin", ["03-29T00:00", "03-29T03:00", "03-29T04:00"]),
        # The 10th of March is day 20,522.
        ("2026-03-10", "2026-03-15", 2 * DAY, "Europe/Berlin", ["03-10T00:00", "03-12T00:00", "03-14T00:00"]),
        ("2026-03-10", "2026-03-15", 3 * DAY, "Europe/Berlin", ["03-10T00:00", "03-11T00:00", "03-14T00:00"]),
        ("2026-03-10", "2026-04-10", 14 * DAY, "Europe/Berlin", ["03-10T00:00", "03-16T00:00", "03-30T00:00"]),
        # 1,773,180,000 is a multiple of 90,000.
        ("2026-03-10", "2026-03-12", 25 * 3600, "Europe/Berlin", ["03-10T00:00", "03-10T23:00"]),
        ("2026-03-10", "2026-03-12", 7_000_000_000, "Europe/Berlin", ["03-10T00:00"]),
    ],
)  # fmt: skip
def test_where_the_buckets_begin(start: str, end: str, seconds: int, zone: str, expected: list[str]) -> None:
    assert starts(start, end, seconds, zone) == expected


@given(
    st.datetimes(datetime(2009, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001  # of whatever zone is drawn
    st.timedeltas(timedelta(seconds=1), timedelta(days=40)),
    st.one_of(st.integers(1, 60).map(lambda n: n * 3600), st.integers(600, 10**6), st.integers(1, 30).map(DAY.__mul__)),
    st.sampled_from(ZONES),
)
@settings(max_examples=200, deadline=None)
def test_buckets_rise_from_the_start_and_stay_in_the_range(
    start: datetime, length: timedelta, seconds: int, zone: str
) -> None:
    clock = ZoneInfo(zone)
    first = to_us(start.replace(tzinfo=clock))
    last = first + length // timedelta(microseconds=1)

    found = list(stepped(first, last, seconds, clock))

    assert found[0] == first
    assert all(one < other for one, other in pairwise(found))
    assert found[-1] < last
    # None is longer than its size, the hour or the day by which clocks change apart.
    slack = 0 if seconds % 3600 else DAY
    assert all(other - one <= (seconds + slack) * 1_000_000 for one, other in pairwise([*found, last]))


@given(st.dates(date(2009, 1, 1), date(2027, 1, 1)), st.integers(1, 4), st.sampled_from(ZONES))
@settings(max_examples=100, deadline=None)
def test_the_same_bucket_begins_at_the_same_moment_whatever_the_range(day: date, weeks: int, zone: str) -> None:
    clock = ZoneInfo(zone)
    first = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))

    whole = set(stepped(first, first + 200 * DAY * 1_000_000, weeks * 7 * DAY, clock))
    later = list(stepped(first + 80 * DAY * 1_000_000, first + 200 * DAY * 1_000_000, weeks * 7 * DAY, clock))

    assert set(later[1:]) <= whole
    assert all(from_us(one, clock).weekday() == 0 for one in later[1:])
