"""The recorder's health as Prometheus metrics: of one process, and of several in multiprocess mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from tests.conftest import RedisServer, wait_until
from usage_meter import Meter, UsageEvent
from usage_meter.event import new_id
from usage_meter.prometheus import COUNTERS, GAUGES, PREFIX, expose

README = (Path(__file__).parents[2] / "README.md").read_text()


def an_event(**fields: object) -> UsageEvent:
    return UsageEvent(id=new_id(), started_us=1, workspace="acme", **fields)  # type: ignore[arg-type]


def test_what_the_recorder_does_is_seen_at_each_scrape(redis_server: RedisServer, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with Meter(redis_server.url, journal_dir=tmp_path, distinct_values=1, environ={}) as meter:
        expose(meter, registry)

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(PREFIX + name, labels)

        assert (value("recorded_total"), value("sent_total"), value("queue_bytes")) == (0, 0, 0)
        meter.recorder.enter(an_event())
        meter.record(an_event())
        meter.record(an_event(path="x" * 300_000))
        meter.record(an_event(status="not a number"))
        meter.guard.admit("voice", "one")
        meter.guard.admit("voice", "one too many")

        assert value("recorded_total") == 1
        assert value("in_flight") == 1
        assert value("dropped_total", reason="oversized") == 1
        assert value("dropped_total", reason="invalid") == 1
        assert value("failures_total", kind="a recorded event") == 1
        assert value("values_cut_total", dimension="voice") == 1
        wait_until(lambda: value("sent_total") == 1, "the event is sent")
        redis_server.kill()
        meter.record(an_event())
        wait_until(lambda: (value("send_errors_total") or 0) > 0, "an error is counted")
        assert (value("queue_bytes") or 0) > 0
        redis_server.start()


def test_two_meters_in_one_registry_are_refused(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    expose(Meter(environ={}), registry)

    with pytest.raises(ValueError, match=r"Duplicated timeseries"):
        expose(Meter(environ={}), registry)


WORKERS = """
import os
from usage_meter import Meter, UsageEvent
from usage_meter.event import new_id
from usage_meter.prometheus import expose

meter = Meter()
expose(meter)
def record(events):
    for _ in range(events):
        meter.record(UsageEvent(id=new_id(), started_us=1, workspace="acme"))
record(5)
children = []
for events in (30, 7):
    child = os.fork()
    if not child:
        record(events)
        meter.guard.cut["voice"] += 1
        meter.close()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
meter.close()
"""


def test_of_several_workers_one_scrape_sees_the_sum(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "prometheus"
    shared.mkdir()
    environ = os.environ | {
        "PROMETHEUS_MULTIPROC_DIR": str(shared),
        "USAGE_METER_REDIS_URL": redis_server.url,
        "USAGE_METER_JOURNAL_DIR": str(tmp_path / "journal"),
    }
    subprocess.run([sys.executable, "-c", WORKERS], env=environ, check=True)

    registry = CollectorRegistry()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(shared))
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

    text = generate_latest(registry).decode().splitlines()
    assert f"{PREFIX}recorded_total 42.0" in text
    assert f"{PREFIX}sent_total 42.0" in text
    assert f'{PREFIX}values_cut_total{{dimension="voice"}} 2.0' in text
    assert f"{PREFIX}queue_bytes 0.0" in text


@pytest.mark.parametrize("metric", [metric.name + "_total" for metric in COUNTERS] + [one.name for one in GAUGES])
def test_every_metric_is_in_the_readme(metric: str) -> None:
    assert f"`{PREFIX}{metric}" in README
