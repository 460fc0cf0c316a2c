"""Charts: the numbers of the answer in a specification, and no name of a caller's where it could mean something."""

import json
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from aggregator.charts import (
    MAX_DRAWN,
    Spec,
    description,
    heat_map,
    image,
    is_drawable,
    lines_chart,
    series_slots,
    theme,
    usage_chart,
)
from aggregator.page.colors import OTHER_SLOT, color
from aggregator.page.sparkline import sparkline
from aggregator.query import OTHER
from tests.aggregator.answers import answer

HOSTILE = "'];alert(1)//\"</script>\\u0027 · datum.x"


def rows(spec: Spec) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["data"]["values"]
    return found


def marks(spec: Spec) -> list[str]:
    return [layer["mark"]["type"] for layer in spec["layer"]]


def test_a_chart_holds_exactly_the_numbers_of_its_answer() -> None:
    spec = usage_chart(answer({"a": [1, Decimal("2.5"), 0], "b": [4, 0, Decimal("0.000001")]}), "credits")

    assert rows(spec) == [
        {"i": 0, "s0": 1, "s1": 4},
        {"i": 1, "s0": 2.5, "s1": 0},
        {"i": 2, "s0": 0, "s1": 0.000001},
    ]


def test_what_adds_up_is_stacked_with_the_greatest_at_the_bottom() -> None:
    spec = usage_chart(answer({"a": [5, 5], "b": [1, 1]}), "credits")

    assert marks(spec) == ["bar", "bar"]  # what lies under the pointer, and the numbers
    encoding = spec["layer"][1]["encoding"]
    assert encoding["y"]["stack"] == "zero"
    assert encoding["order"] == {"field": "rank", "type": "quantitative", "sort": "ascending"}


def test_an_average_is_a_line_that_breaks_where_there_is_nothing() -> None:
    spec = usage_chart(answer([120.0, None, 90.0, 80.0], metric="latency_avg"), "latency_avg")

    assert marks(spec) == ["bar", "line", "point"]
    assert [row["s0"] for row in rows(spec)] == [120.0, None, 90.0, 80.0]
    assert spec["layer"][2]["data"]["values"] == [{"i": 0, "series": "s0", "value": 120.0}]  # alone, so a point


def test_a_logarithmic_chart_leaves_out_what_has_no_logarithm() -> None:
    spec = usage_chart(answer([100, 0, 1000]), "credits", "bars", log=True)

    assert "line" in marks(spec)
    assert [row["s0"] for row in rows(spec)] == [100, None, 1000]
    assert spec["layer"][1]["encoding"]["y"]["axis"]["values"] == [100, 200, 500, 1000, 2000, 5000]


def test_many_buckets_are_an_area_because_bars_would_be_thinner_than_a_pixel() -> None:
    assert "area" in marks(usage_chart(answer([1] * 400, interval="hour"), "credits"))


def test_a_running_total_is_an_area_that_rises() -> None:
    spec = usage_chart(answer([1, 3, 6], cumulative=True), "credits")

    assert spec["layer"][1]["mark"]["type"] == "area"
    assert spec["description"].startswith("Credits, cumulative")


def test_a_total_is_a_bar_per_series_with_its_number() -> None:
    spec = usage_chart(answer({"a": [2000], "b": [500]}, interval="total"), "credits")

    assert [(row["value"], row["text"]) for row in rows(spec)] == [(2000, "2,000"), (500, "500")]


def test_the_axis_says_what_and_the_zone() -> None:
    spec = usage_chart(answer([12.0, 13.0], metric="latency_p95", zone="Asia/Kolkata"), "latency_p95")

    assert spec["encoding"]["x"]["axis"]["title"] == "Day (Asia/Kolkata)"
    assert spec["layer"][1]["encoding"]["y"]["axis"]["title"] == "Latency, 95th percentile (ms)"


def test_long_latencies_are_seconds_on_the_axis() -> None:
    spec = usage_chart(answer([12_000.0, 30_000.0], metric="latency_p95"), "latency_p95")

    assert spec["layer"][1]["encoding"]["y"]["axis"]["title"] == "Latency, 95th percentile (s)"


def test_a_day_of_25_hours_has_25_places() -> None:
    day = answer([1] * 25, interval="hour", zone="Europe/Berlin", start=datetime(2026, 10, 25))  # noqa: DTZ001

    assert usage_chart(day, "credits")["encoding"]["x"]["scale"]["domain"] == list(range(25))


def test_a_bucket_that_may_still_grow_is_paler() -> None:
    complete = answer([1, 1, 1])
    open_ = answer([1, 1, 1], complete_until_us=complete.bounds[2] + 1)

    def first_pale(spec: Spec) -> str:
        test: str = spec["layer"][1]["encoding"]["opacity"]["condition"]["test"]
        return test

    assert first_pale(usage_chart(complete, "credits")) == "datum.i >= 3"
    assert first_pale(usage_chart(open_, "credits")) == "datum.i >= 2"


def test_a_name_of_a_callers_is_never_a_field_or_part_of_an_expression_unless_quoted() -> None:
    hostile = answer({HOSTILE: [1, 2], "de": [0, 0]})

    shown = json.dumps({k: v for k, v in usage_chart(hostile, "credits").items() if k != "description"})
    drawn = image(usage_chart(hostile, "credits"), "Credits", "", [HOSTILE, "de"])
    label = drawn["layer"][1]["encoding"]["color"]["legend"]["labelExpr"]

    assert "alert" not in shown
    assert label == f"({json.dumps({'s0': HOSTILE, 's1': 'de'})})[datum.value]"


def test_a_series_keeps_its_colour_when_its_place_changes() -> None:
    one = answer({"a": [9], "b": [1], OTHER: [0]})
    other = answer({"b": [9], "a": [1]})

    slots = dict(zip("ab_", series_slots(one), strict=True))

    assert series_slots(other) == [slots["b"], slots["a"]]
    assert slots["_"] == OTHER_SLOT


def test_a_theme_gives_the_series_their_colours_in_order() -> None:
    assert theme("dark", [3, 0])["range"]["category"] == [color(3, "dark"), color(0, "dark")]


def test_a_chart_is_also_a_sentence() -> None:
    assert description(answer([1, Decimal("7.5"), 2]), "credits") == (
        "Credits per day, 2 – 4 Mar 2026 (UTC). In all 10.5; the most 7.5, Tue 3 Mar 2026."
    )
    assert description(answer({"a": [4], "": [1], OTHER: [1]}), "credits") == (
        "Credits per day by voice, 2 Mar 2026 (UTC). 3 series; first a 4, (none) 1, Other 1."
    )


def test_what_no_browser_could_draw_is_not_drawn() -> None:
    assert is_drawable(answer([1] * MAX_DRAWN, interval="minute"))
    assert not is_drawable(answer([1] * (MAX_DRAWN + 1), interval="minute"))
    assert not is_drawable(answer({f"v{i}": [1] * 1000 for i in range(25)}, interval="minute"))


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ([0, 5, 10], "M0 23L50 12L100 1"),
        ([10, None, 10], "M0 1M100 1"),
        ([], ""),
        ([0, 0], "M0 23L100 23"),
    ],
)
def test_a_sparkline_goes_from_zero_at_the_bottom_to_the_greatest_at_the_top(
    values: list[int | None], path: str
) -> None:
    assert sparkline(values, 48) == path


def test_a_sparkline_of_many_values_is_of_the_means_of_a_few() -> None:
    assert sparkline([0, 2, 4, 4], 2) == "M0 17.5L100 1"


def test_several_metrics_of_one_unit_share_an_axis_and_a_limit_lies_across_it() -> None:
    peak, average = answer([4, 7], metric="concurrency"), answer([0.5, 1.25], metric="concurrency_average")
    both = replace(peak, series=[*peak.series, *average.series])

    spec = lines_chart(both, "Concurrent requests", limit=10)

    assert rows(spec) == [{"i": 0, "s0": 4, "s1": 0.5}, {"i": 1, "s0": 7, "s1": 1.25}]
    assert spec["layer"][-1]["mark"]["type"] == "rule"
    assert spec["layer"][-1]["encoding"]["y"] == {"datum": 10, "type": "quantitative"}
    assert "rule" not in marks(lines_chart(both, "Concurrent requests"))


def test_a_heat_map_has_a_place_for_every_value_and_none_where_there_is_nothing() -> None:
    spec = heat_map(answer({"a": [120.0, None], "b": [10.0, 20.0]}, metric="latency_p95"), "latency_p95")

    assert rows(spec) == [
        {"i": 0, "row": 0, "value": 120.0},
        {"i": 0, "row": 1, "value": 10.0},
        {"i": 1, "row": 1, "value": 20.0},
    ]


def test_an_image_has_its_title_and_a_size_of_its_own() -> None:
    chart = usage_chart(answer({"a": [1], "b": [2]}), "credits")

    found = image(chart, "Credits per day", "2 Mar 2026", ["a", "b"])

    assert found["title"] == {"text": "Credits per day", "subtitle": "2 Mar 2026"}
    assert isinstance(found["width"], int)
    assert chart["layer"][1]["encoding"]["color"]["legend"] is None  # the page's own chart is as it was
