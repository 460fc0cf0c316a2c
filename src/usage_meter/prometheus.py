"""The recorder's own health as Prometheus metrics of the app: what is recorded, sent, dropped, waiting, in flight.

    expose(meter)          # once, where the meter is made; then as the app exposes its registry anyway

Read at each scrape, so calls pay nothing for it. With several workers behind one port use Prometheus' multiprocess
mode (`PROMETHEUS_MULTIPROC_DIR`): a scrape meets one worker only, so there each writes its values once a second and
when it is closed, and the scrape adds them up.
"""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from usage_meter.meter import Meter

PREFIX = "usage_meter_app_"  # without `app`, the aggregator's own metrics begin with it


class Metric(NamedTuple):
    name: str
    help: str
    label: str = ""


COUNTERS = (
    Metric("recorded", "Events that were recorded."),
    Metric("sent", "Events that Redis has accepted."),
    Metric("resent", "Events that were sent once more, because Redis may have lost them."),
    Metric("dropped", "Events that were given up, by reason.", "reason"),
    Metric("send_errors", "Attempts to send that failed."),
    Metric("failures", "What went wrong within the meter, and was kept from the app.", "kind"),
    Metric("values_cut", "Values that became __other__, by dimension.", "dimension"),
)
GAUGES = (
    Metric("queue_bytes", "Bytes of events that wait to be sent."),
    Metric("in_flight", "Calls in flight."),
)

Values = Mapping[str, Mapping[str, float]]
"""Metric → label value ("" without a label) → value."""


def expose(meter: Meter, registry: CollectorRegistry = REGISTRY) -> None:
    """Registers the metrics of this meter. Raises ValueError for a second meter in one registry."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        meter.recorder.watch(Shared(meter, registry).update)
    else:
        registry.register(Own(meter))


def values(meter: Meter) -> Values:
    """Of this process."""
    now = meter.recorder.statistics()
    return {
        "recorded": {"": now.recorded},
        "sent": {"": now.sent},
        "resent": {"": now.resent},
        "dropped": now.dropped,
        "send_errors": {"": now.send_errors},
        "failures": now.failures,
        "values_cut": dict(meter.guard.cut),
        "queue_bytes": {"": now.queued_bytes},
        "in_flight": {"": now.in_flight},
    }


class Own(Collector):
    """The values of this process, as of each scrape."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def describe(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        return [*self._families({})]

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return self._families(values(self._meter))

    def _families(self, values: Values) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for kind, metrics in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for metric in metrics:
                family = kind(PREFIX + metric.name, metric.help, labels=[metric.label] if metric.label else [])
                for label, value in values.get(metric.name, {}).items():
                    family.add_metric([label] if metric.label else [], value)
                yield family


class Shared:
    """The values of this process where all workers' are added up: counters grow by what is new since the last time."""

    def __init__(self, meter: Meter, registry: CollectorRegistry) -> None:
        self._meter = meter
        self._counters = {
            metric.name: Counter(PREFIX + metric.name, metric.help, _labels(metric), registry=registry)
            for metric in COUNTERS
        }
        self._gauges = {
            metric.name: Gauge(PREFIX + metric.name, metric.help, registry=registry, multiprocess_mode="livesum")
            for metric in GAUGES
        }
        self._process = os.getpid()
        self._counted: dict[tuple[str, str], float] = {}

    def update(self) -> None:
        if self._process != os.getpid():  # a forked child counts from nought
            self._process = os.getpid()
            self._counted = {}
        now = values(self._meter)
        for name, counter in self._counters.items():
            for label, value in now[name].items():
                self._count(counter.labels(label) if label else counter, (name, label), value)
        for name, gauge in self._gauges.items():
            gauge.set(now[name][""])

    def _count(self, counter: Counter, key: tuple[str, str], value: float) -> None:
        """What was given up and has arrived after all makes a value fall; a counter waits until it has risen again."""
        more = value - self._counted.get(key, 0)
        if more > 0:
            counter.inc(more)
            self._counted[key] = value


def _labels(metric: Metric) -> list[str]:
    return [metric.label] if metric.label else []
