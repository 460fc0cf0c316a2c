"""What the README says of the running service: its endpoints, its metrics and the questions it shows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from aggregator.store import Store
from tests.aggregator.events import call, load
from tests.aggregator.service import TestedService

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client, secret="")
    with tested.http:
        yield tested


def test_every_endpoint_is_in_the_readme(service: TestedService) -> None:
    paths = service.http.get("/openapi.json").json()["paths"]

    assert [path for path in paths if path.removesuffix(".csv") not in README] == []


def test_every_metric_is_in_the_readme_and_none_that_is_not(service: TestedService) -> None:
    service.store.insert([call()])
    service.metrics.calls_stored(load(call(product="tts")).totals)
    text = service.http.get("/metrics").text
    served = set(re.findall(r"^# TYPE (usage_meter_\w+) ", text, re.MULTILINE))

    assert set(re.findall(r"`(usage_meter_(?!app_)\w+)`", README)) - {"usage_meter_"} == {
        name for name in served if not name.endswith("_created")
    }


def test_every_question_that_the_readme_shows_is_answered(service: TestedService) -> None:
    shown = re.findall(r"http://127\.0\.0\.1:8080(/[^'`\s]*)", README)
    questions = [path for path in shown if path != "/v1/events"]

    assert len(questions) >= 4
    assert {path: service.http.get(path).status_code for path in questions} == dict.fromkeys(questions, 200)


def test_the_event_that_the_readme_sends_is_taken(service: TestedService) -> None:
    body = re.search(r"-d '(\[.*?\])'", README, re.DOTALL)
    assert body

    assert service.http.post("/v1/events", content=body[1]).json() == {"accepted": 1}
