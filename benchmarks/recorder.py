"""How fast one process carries events from its journal to Redis, and what they cost there.

    python -m benchmarks.recorder [--events 200000] [--rounds 3]

Each round runs everything once, one after the other, on one Redis of its own; the table shows the best round, since
whatever else the machine does only ever slows things down. Trust the ratios. Redis's own time is `used_cpu_*` of INFO
(with the live tally), its bytes are MEMORY USAGE of the stream. `record()` is timed without its sender, in the best of
50 short runs.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import RedisServer
from usage_meter import UsageEvent, keys
from usage_meter.event import encode, new_id
from usage_meter.failures import Failures
from usage_meter.outbox import Outbox
from usage_meter.settings import MeterSettings

BAR_EVENTS, BAR_BYTES = 500_000, 100
BAR_OF_REDIS = 0.65  # of redis-benchmark's pipelined XADD, 774k/s where 500k was set: holds on a slower machine too
MIB = 1024 * 1024
ROUTES = [  # method, route, product, how often
    ("POST", "/v1/text-to-speech/{voice_id}", "text_to_speech", 50),
    ("POST", "/v1/text-to-speech/{voice_id}/stream", "text_to_speech", 30),
    ("POST", "/v1/speech-to-text", "speech_to_text", 8),
    ("GET", "/v1/voices/{voice_id}", "voices", 7),
    ("GET", "/v1/history/{item_id}", "history", 5),
]
MODELS = ["multilingual_v2", "turbo_v2_5", "flash_v2_5"]
STATUSES = [(200, "ok", ""), (401, "client_error", "unauthorized"), (429, "client_error", "too_many_requests")]


def calls(number: int) -> list[UsageEvent]:
    """Calls as an API sees them, all 30 fields filled: 500 keys and 100 voices, some far busier than others."""
    chance = random.Random(1)
    callers = [a_caller(chance) for _ in range(500)]
    voices = [f"{chance.getrandbits(80):020x}" for _ in range(100)]
    busy_callers = chance.choices(callers, [1 / (rank + 1) for rank in range(500)], k=number)
    busy_voices = chance.choices(voices, [1 / (rank + 1) for rank in range(100)], k=number)
    routes = chance.choices(ROUTES, [route[3] for route in ROUTES], k=number)
    now = time.time_ns() // 1000 - number
    return [
        a_call(chance, now + index, *parts)
        for index, parts in enumerate(zip(busy_callers, busy_voices, routes, strict=True))
    ]


def a_caller(chance: random.Random) -> dict[str, Any]:
    return {
        "workspace": f"workspace-{chance.randint(0, 80)}",
        "user": f"user_{chance.getrandbits(48):012x}",
        "groups": (f"team-{chance.randint(0, 9)}",),
        "api_key": f"{chance.getrandbits(64):016x}",
        "api_key_hint": f"{chance.getrandbits(16):04x}",
        "region": chance.choice(["eu-west-1", "us-east-1"]),
        "attributes": {"tier": chance.choice(["free", "pro", "scale"])},
    }


def a_call(
    chance: random.Random, started_us: int, caller: dict[str, Any], voice: str, route: tuple[str, str, str, int]
) -> UsageEvent:
    method, template, product, _ = route
    status, outcome, error = chance.choices(STATUSES, [95, 2, 3])[0]
    characters = chance.randint(5, 2000)
    duration = int(chance.lognormvariate(12, 1))
    path = template.replace("{voice_id}", voice).replace("{item_id}", f"{chance.getrandbits(64):016x}")
    return UsageEvent(
        id=new_id(started_us),
        started_us=started_us,
        duration_us=duration,
        ttfb_us=duration // 3,
        product=product,
        voice=voice,
        model=chance.choice(MODELS),
        source="api",
        method=method,
        route=template,
        path=path,
        status=status,
        outcome=outcome,  # type: ignore[arg-type]
        error=error,
        request_bytes=characters + 60,
        response_bytes=chance.randint(1000, 900_000),
        credits_micro=characters * 1_000_000,
        quantities={"characters": float(characters), "audio_seconds": round(characters * 0.06, 2)},
        request_id=f"{chance.getrandbits(80):020x}",
        trace_id=f"{chance.getrandbits(128):032x}",
        **caller,
    )


@dataclass
class Result:
    """Of one thing measured once; None where it does not apply."""

    name: str
    events_per_second: float
    redis_us: float | None = None
    redis_bytes: float | None = None


class Bench:
    """One Redis, and everything that is measured against it."""

    def __init__(self, server: RedisServer, directory: Path, events: list[UsageEvent]) -> None:
        self.server = server
        self.directory = directory
        self.events = events
        self.client: Any = server.client()

    def results(self) -> Iterator[Result]:
        one, slice_ = len(encode(self.events[0])), 30_000
        yield self.redis_benchmark(f"redis-benchmark: XADD of one event ({one} B), pipelined", one, 16, 200_000)
        yield self.redis_benchmark("redis-benchmark: XADD of 30 kB, one at a time", slice_, 1, 20_000)
        yield self.in_redis("one XADD per event, as msgpack (redis-py, pipelines of 500)", "single", self.one_by_one)
        yield self.recording()
        yield self.in_redis("usage-meter: journal to Redis", keys.events(0), self.journal_to_redis())

    def redis_benchmark(self, name: str, size: int, pipeline: int, requests: int) -> Result:
        command = ["redis-benchmark", "-p", str(self.server.port), "-n", str(requests), "-P", str(pipeline), "-c", "8"]
        done = subprocess.run(
            [*command, "-q", "XADD", "benchmark", "*", "b", "x" * size], check=True, capture_output=True, text=True
        )
        self.client.delete("benchmark")
        found = re.findall(r"([\d.]+) requests per second", done.stdout)
        return Result(name, float(found[-1]))

    def in_redis(self, name: str, stream: str, run: Callable[[], None]) -> Result:
        """What `run` costs here and in Redis, per event."""
        self.client.flushall()
        cpu = self.redis_cpu()
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        number = len(self.events)
        redis_us = (self.redis_cpu() - cpu) / number * 1e6
        return Result(name, number / seconds, redis_us, self.client.memory_usage(stream, samples=0) / number)

    def one_by_one(self) -> None:
        for start in range(0, len(self.events), 500):
            pipeline = self.client.pipeline(transaction=False)
            for event in self.events[start : start + 500]:
                pipeline.xadd("single", {"e": encode(event)})
            pipeline.execute()

    def recording(self) -> Result:
        """`record()` alone, into a journal whose sender has not begun."""
        outbox = self.outbox()
        some = self.events[:400]  # few enough to be at hand, as an event is that was made just now
        best = float("inf")
        for _ in range(50):
            started = time.perf_counter()
            for event in some:
                outbox.record(event, None)
            best = min(best, time.perf_counter() - started)
        outbox.journal.close()
        return Result("usage-meter: record(), in the app's thread", len(some) / best)

    def journal_to_redis(self) -> Callable[[], None]:
        """A journal with everything in it; what is timed is the sender, from its first look to the last answer."""
        outbox = self.outbox()
        for event in self.events:
            outbox.record(event, None)

        def run() -> None:
            outbox.sender.start()
            while outbox.sender.sent < len(self.events):
                time.sleep(0.001)
            outbox.close(10)

        return run

    def outbox(self) -> Outbox:
        place = self.directory / os.urandom(4).hex()
        settings = MeterSettings(redis_url=self.server.url, journal_dir=place, journal_max_bytes=4096 * MIB)
        return Outbox(settings, Failures(), {})

    def redis_cpu(self) -> float:
        used = self.client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])


def best(results: list[Result]) -> Result:
    return max(results, key=lambda result: result.events_per_second)


def table(results: list[Result]) -> Iterator[str]:
    limit = results[0].events_per_second
    yield f"{'':62} {'events/s':>10} {'ratio':>6} {'µs/event':>9} {'Redis µs':>9} {'Redis B':>8}"
    for result in results:
        redis_us = f"{result.redis_us:9.2f}" if result.redis_us is not None else " " * 9
        redis_bytes = f"{result.redis_bytes:8.0f}" if result.redis_bytes is not None else " " * 8
        rate = result.events_per_second
        yield f"{result.name:62} {rate:10,.0f} {rate / limit:6.2f} {1e6 / rate:9.2f} {redis_us} {redis_bytes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp())
    server = RedisServer(directory)
    server.start()
    try:
        bench = Bench(server, directory, calls(options.events))
        rounds = [list(bench.results()) for _ in range(options.rounds)]
    finally:
        server.kill()
        shutil.rmtree(directory)
    results = [best(list(each)) for each in zip(*rounds, strict=True)]
    print("\n".join(table(results)))
    ours = results[-1]
    assert ours.redis_bytes is not None
    print(f"\nbar: {ours.events_per_second:,.0f} of at least {BAR_EVENTS:,} events/s", end=", ")
    print(f"{ours.events_per_second / results[0].events_per_second:.2f} of at least {BAR_OF_REDIS} of XADD's", end=", ")
    print(f"{ours.redis_bytes:.0f} of at most {BAR_BYTES} bytes in Redis")


if __name__ == "__main__":
    main()
