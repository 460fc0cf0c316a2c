"""The counters of calls at `/metrics`: their sums are right however many workspaces and products there are."""

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from aggregator import metrics
from aggregator.store import Store
from tests.aggregator.events import call, load
from tests.aggregator.service import TestedService


def samples(service: TestedService, name: str) -> dict[tuple[str, str], float]:
    """By workspace and product."""
    text = service.http.get("/metrics").text
    return {
        (sample.labels.get("workspace", ""), sample.labels["product"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_an_app_that_takes_ids_for_products_does_not_make_ever_more_series(
    store: Store, redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_PRODUCTS", 3)
    monkeypatch.setattr(metrics, "MOST_PAIRS", 4)
    service = TestedService(store, redis_client, secret="")
    with service.http:
        for number in range(6):
            one = call(workspace="acme", product=f"p{number}", credits=2)
            service.metrics.calls_stored(load(one, call(workspace=f"w{number}", product="p0")).totals)

        requests = samples(service, "usage_meter_requests_total")
        credits = samples(service, "usage_meter_credits_total")
        latency = samples(service, "usage_meter_latency_seconds_count")

    named = {("acme", "p0"), ("w0", "p0"), ("acme", "p1"), ("w1", "p0")}
    assert set(requests) == {*named, ("__other__", "__other__")}
    assert sum(requests.values()) == 12
    assert sum(credits.values()) == 18
    assert latency == {("", "p0"): 7, ("", "p1"): 1, ("", "p2"): 1, ("", "__other__"): 3}
