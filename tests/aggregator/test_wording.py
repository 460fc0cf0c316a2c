"""How numbers and moments are written, and where an axis has its labels."""

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from aggregator.buckets import Interval, boundaries, to_us
from aggregator.measures import Number
from aggregator.page.ticks import MAX_TICKS, ticks
from aggregator.page.wording import (
    bucket_name,
    dimension_name,
    last_name,
    metric_name,
    percent,
    range_name,
    share,
    written,
)

BERLIN = ZoneInfo("Europe/Berlin")


def at(*moment: int, zone: ZoneInfo = BERLIN) -> int:
    return to_us(datetime(*moment, tzinfo=zone))  # type: ignore[misc,arg-type]  # year, month, day, …


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (None, "credits", "–"),
        (0, "credits", "0"),
        (Decimal("12.5"), "credits", "12.5"),
        (Decimal("999.999999"), "credits", "1,000"),
        (Decimal("24903054.480257"), "credits", "24,903,054"),
        (1234, "requests", "1,234"),
        (31.4, "quantity.audio_seconds", "31.4"),
        (1.0, "success_rate", "100 %"),
        (0.999999, "success_rate", "99.99 %"),
        (0.9, "success_rate", "90 %"),
        (0.4219, "latency_avg", "0.42 ms"),
        (132.4, "latency_p95", "132 ms"),
        (999.4, "latency_p95", "999 ms"),
        (999.6, "latency_p95", "1 s"),
        (6160.0, "latency_p95", "6.16 s"),
        (9996.0, "latency_p95", "10 s"),
        (29_812.0, "ttfb_p95", "29.8 s"),
        (99_960.0, "ttfb_p95", "100 s"),
        (1_240_400.0, "ttfb_p95", "1,240 s"),
        (17, "concurrency", "17"),
        (0.123456, "concurrency_average", "0.12"),
        (999, "response_bytes", "999 B"),
        (1_234_567, "response_bytes", "1.23 MB"),
    ],
)
def test_a_number_is_written_with_what_one_reads_of_it(value: Number | None, metric: str, text: str) -> None:
    assert written(value, metric) == text


def test_names_are_words_and_not_identifiers() -> None:
    assert metric_name("quantity.audio_seconds") == "Audio seconds"
    assert metric_name("latency_p95") == "Latency, 95th percentile"
    assert dimension_name("attribute.customer_tier") == "Customer tier"
    assert dimension_name("api_key") == "API key"


@pytest.mark.parametrize(
    ("last", "name"),
    [("60d", "Last 60 days"), ("1h", "Last hour"), ("12mo", "Last 12 months"), ("nonsense", "Last nonsense")],
)
def test_a_range_that_ends_now_is_words(last: str, name: str) -> None:
    assert last_name(last) == name


def test_a_share_is_nothing_where_there_is_nothing_to_share() -> None:
    assert share(1, 4) == 0.25
    assert share(0, 4) is None
    assert share(-1, 4) is None
    assert share(3, 0) is None
    assert [percent(0.25), percent(0.004), percent(None)] == ["25 %", "< 1 %", "–"]


@pytest.mark.parametrize(
    ("start", "interval", "name"),
    [
        (at(2026, 3, 10), "day", "Tue 10 Mar 2026"),
        (at(2026, 3, 10, 14), "hour", "Tue 10 Mar 2026, 14:00"),
        (at(2026, 3, 9), "week", "Week of 9 Mar 2026"),
        (at(2026, 3, 1), "month", "March 2026"),
        (at(2026, 1, 1), "year", "2026"),
        (at(2026, 10, 25, 2), "hour", "Sun 25 Oct 2026, 02:00 (UTC+02:00)"),
        (at(2026, 10, 25, 2) + 3_600_000_000, "hour", "Sun 25 Oct 2026, 02:00 (UTC+01:00)"),
    ],
)
def test_a_bucket_has_a_name_and_an_hour_that_comes_twice_has_two(start: int, interval: Interval, name: str) -> None:
    assert bucket_name(start, interval, BERLIN) == name


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        (at(2026, 3, 1), at(2026, 3, 31), "1 – 30 Mar 2026"),
        (at(2026, 2, 27), at(2026, 3, 6), "27 Feb – 5 Mar 2026"),
        (at(2025, 11, 1), at(2026, 2, 1), "1 Nov 2025 – 31 Jan 2026"),
        (at(2026, 3, 10, 14), at(2026, 3, 10, 15), "10 Mar 2026, 14:00 – 15:00"),
        (at(2026, 3, 10, 22), at(2026, 3, 11, 4), "10 Mar 2026, 22:00 – 11 Mar 2026, 04:00"),
    ],
)
def test_a_range_says_each_part_of_its_dates_once(start: int, end: int, name: str) -> None:
    assert range_name(start, end, BERLIN) == name


@pytest.mark.parametrize(
    ("start", "end", "interval", "labels"),
    [
        (at(2026, 3, 2), at(2026, 3, 5), "day", ["2 Mar/2026", "3 Mar", "4 Mar"]),
        (at(2026, 3, 2), at(2026, 4, 1), "day", ["2 Mar/2026", "9 Mar", "16 Mar", "23 Mar", "30 Mar"]),
        (at(2025, 11, 1), at(2026, 2, 1), "month", ["Nov/2025", "Dec", "Jan/2026"]),
        (at(2024, 1, 1), at(2027, 1, 1), "year", ["2024", "2025", "2026"]),
        (at(2026, 3, 2), at(2026, 3, 5), "hour", [
            "00:00/2 Mar", "06:00", "12:00", "18:00", "00:00/3 Mar", "06:00", "12:00", "18:00", "00:00/4 Mar", "06:00",
            "12:00", "18:00",
        ]),
        (at(2026, 3, 2, 10, 7), at(2026, 3, 2, 10, 57), "minute", [
            "10:10/2 Mar", "10:15", "10:20", "10:25", "10:30", "10:35", "10:40", "10:45", "10:50", "10:55",
        ]),
    ],
)  # fmt: skip
def test_an_axis_has_its_labels_where_the_calendar_turns(
    start: int, end: int, interval: Interval, labels: list[str]
) -> None:
    found = ticks(list(boundaries(start, end, interval, BERLIN)), interval, BERLIN)

    assert ["/".join(tick.lines) for tick in found] == labels


@pytest.mark.parametrize("hours", range(1, 24 * 400, 131))
@pytest.mark.parametrize("interval", ["hour", "day", "week"])
def test_no_axis_has_more_labels_than_there_is_room_for(hours: int, interval: Interval) -> None:
    start = at(2025, 12, 30, 5)
    bounds = list(boundaries(start, start + hours * 3_600_000_000, interval, BERLIN))

    found = ticks(bounds, interval, BERLIN)

    assert 1 <= len(found) <= MAX_TICKS
    assert all(tick.index < len(bounds) for tick in found)
