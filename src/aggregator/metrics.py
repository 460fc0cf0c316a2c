"""The service's Prometheus metrics: the only file that makes any, on a registry of its own.

The counters of calls count events as they are stored, so a redelivery after a crash counts again and a correction
does not: they are for rates and alerts. The exact numbers are those of `/v1/usage`. What waits in Redis and what is
in flight is asked when somebody scrapes.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aggregator.backlog import Backlog
from aggregator.batch import KINDS
from aggregator.consumer import ConsumerStatistics
from aggregator.cover import LEVELS
from aggregator.ledger import Ledger
from aggregator.live import Live
from aggregator.query import OTHER
from aggregator.rollup import RollupStatistics
from aggregator.totals import LATENCY_BUCKETS, CallTotals
from usage_meter.event import MICRO

T = TypeVar("T")

MOST_PRODUCTS = 1000  # each is a histogram of fifteen series
MOST_PAIRS = 10_000  # of workspace and product, each with a series for every outcome: what one scrape may well bring
"""What is new beyond them counts as `__other__`: the sums stay right, and neither this process nor who scrapes it grows
without an end because an app takes ids for products."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`calls_stored` is the consumer's hook; `render` is the body of `GET /metrics`."""

    def __init__(
        self,
        backlog: Backlog,
        live: Live,
        consumer: ConsumerStatistics,
        rollup: RollupStatistics,
        ledger: Ledger,
        posts_refused: Mapping[str, int],
    ) -> None:
        self._registry = CollectorRegistry()
        self._calls = _Calls()
        self._registry.register(self._calls)
        self._registry.register(_Pipeline(backlog, live, consumer, ledger, posts_refused))
        self._registry.register(_Rollups(rollup))

    def calls_stored(self, totals: CallTotals) -> None:
        self._calls.add(totals)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Calls(Collector):
    """The calls that this process stored. The consumer adds to it while a scrape reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = CallTotals()
        self._products: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()

    def add(self, totals: CallTotals) -> None:
        sums = self._totals
        with self._lock:
            for (workspace, product, outcome), calls in totals.requests.items():
                sums.requests[*self._pair(workspace, product), outcome] += calls
            for (workspace, product), credits_micro in totals.credits_micro.items():
                sums.credits_micro[self._pair(workspace, product)] += credits_micro
            for (product, bucket), calls in totals.durations.items():
                sums.durations[self._product(product), bucket] += calls
            for product, duration_us in totals.duration_us.items():
                sums.duration_us[self._product(product)] += duration_us

    def _product(self, product: str) -> str:
        return _admitted(product, self._products, MOST_PRODUCTS, OTHER)

    def _pair(self, workspace: str, product: str) -> tuple[str, str]:
        return _admitted((workspace, self._product(product)), self._pairs, MOST_PAIRS, (OTHER, OTHER))

    def describe(self) -> Iterator[Metric]:
        """The families as they are before the first call: they exist in any case."""
        return iter(self._families(CallTotals()))

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            return iter(self._families(self._totals))

    def _families(self, totals: CallTotals) -> list[Metric]:
        requests = CounterMetricFamily(
            "usage_meter_requests",
            "Calls stored, by workspace, product and outcome.",
            labels=("workspace", "product", "outcome"),
        )
        for labels, count in totals.requests.items():
            requests.add_metric(labels, count)
        credits = CounterMetricFamily(
            "usage_meter_credits", "Credits of the calls stored.", labels=("workspace", "product")
        )
        for workspace_and_product, credits_micro in totals.credits_micro.items():
            credits.add_metric(workspace_and_product, credits_micro / MICRO)
        latency = HistogramMetricFamily(
            "usage_meter_latency_seconds",
            "Duration of the calls stored, to the last byte.",
            labels=("product",),
        )
        for product, duration_us in totals.duration_us.items():
            counts = accumulate(totals.durations[product, number] for number in range(len(LATENCY_BUCKETS) + 1))
            bounds = map(floatToGoString, (*LATENCY_BUCKETS, math.inf))
            latency.add_metric((product,), list(zip(bounds, counts, strict=True)), duration_us / MICRO)
        return [requests, credits, latency]


def _admitted(value: T, known: set[T], most: int, other: T) -> T:
    """The value, or the other where it is one too many."""
    if value not in known:
        if len(known) >= most:
            return other
        known.add(value)
    return value


class _Pipeline(Collector):
    """The way from Redis to the store, read at the moment of the scrape. Redis away is a metric, not an error."""

    def __init__(
        self,
        backlog: Backlog,
        live: Live,
        consumer: ConsumerStatistics,
        ledger: Ledger,
        posts_refused: Mapping[str, int],
    ) -> None:
        self._ledger = ledger
        self._posts_refused = posts_refused
        self._backlog = backlog
        self._live = live
        self._consumer = consumer

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry must not ask Redis when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        statistics = self._consumer
        yield _counter("usage_meter_events_stored", "Events that this process stored.", statistics.events)
        yield _counter("usage_meter_entries_stored", "Stream entries that this process stored.", statistics.entries)
        yield _counter("usage_meter_entries_dead", "Entries that this process dead-lettered.", statistics.dead)
        refused = CounterMetricFamily(
            "usage_meter_events_refused", "Events that this process dead-lettered, by reason.", labels=["reason"]
        )
        for reason in (*KINDS.values(), "rejected", "undecodable"):
            refused.add_metric([reason], statistics.refused.get(reason, 0))
        yield refused
        posts = CounterMetricFamily(
            "usage_meter_posts_refused", "Bodies of POST /v1/events refused, by reason.", labels=["reason"]
        )
        for reason in ("ahead", "sealed", "invalid"):
            posts.add_metric([reason], self._posts_refused.get(reason, 0))
        yield posts
        errors = CounterMetricFamily("usage_meter_errors", "Failures of the consumer, by what failed.", labels=["kind"])
        for kind in ("redis", "store", "other"):
            errors.add_metric([kind], statistics.errors.get(kind, 0))
        yield errors
        try:
            found = list(self._from_redis())
            yield _gauge("usage_meter_redis_up", "Whether Redis answered this scrape.", 1)
            yield from found
        except redis.RedisError:
            yield _gauge("usage_meter_redis_up", "Whether Redis answered this scrape.", 0)

    def _from_redis(self) -> Iterator[Metric]:
        yield _gauge("usage_meter_backlog_entries", "Stream entries that wait to be stored.", self._backlog.entries())
        yield _gauge(
            "usage_meter_backlog_seconds", "Age of the oldest entry that waits; 0 if none.", self._backlog.age_seconds()
        )
        yield _gauge("usage_meter_dead_entries", "Entries in the dead-letter streams.", self._backlog.dead_entries())
        missing = sum(map(self._ledger.missing_entries, self._backlog.shards()))
        yield _gauge("usage_meter_missing_entries", "Entries accepted, and neither settled nor waiting.", missing)
        yield _gauge("usage_meter_instances", "Processes that record now.", len(self._live.instances()))
        in_flight = GaugeMetricFamily("usage_meter_in_flight", "Calls in flight, by workspace.", labels=["workspace"])
        for workspace, count in self._live.in_flight_by_workspace().items():
            in_flight.add_metric([workspace], count)
        yield in_flight


class _Rollups(Collector):
    """What the rollups' worker of this process has done, and what waits for it."""

    def __init__(self, statistics: RollupStatistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        statistics = self._statistics
        buckets = CounterMetricFamily("usage_meter_rollup_buckets", "Buckets computed and published.", labels=["level"])
        for level in LEVELS:
            buckets.add_metric([level.name], statistics.buckets.get(level.name, 0))
        yield buckets
        yield _counter("usage_meter_rollup_seconds", "Time spent on computing rollups.", statistics.seconds)
        yield _counter("usage_meter_rollup_added", "Calls added to the rollups of sealed days.", statistics.added)
        yield _counter("usage_meter_rollup_errors", "Failures of the rollups' worker.", statistics.errors)
        yield _gauge("usage_meter_rollup_waiting", "Buckets that wait to be computed.", statistics.waiting)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(name, help, value=value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)
