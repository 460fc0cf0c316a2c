"""How fast the service takes events from the stream into the store, beside what the engine itself can load.

    python -m benchmarks.ingest [--events 500000] [--rounds 3]

Each round runs everything once, one after the other, on one Redis and one embedded store; the table shows the best
round, since whatever else the machine does only ever slows things down. Trust the ratios. The limit is the engine
loading the same rows into the same table out of blocks that it has written itself: no Python looks at them. Memory is
the service's own, a process started as a user does: after its start, and at its highest while it drains a backlog.
The rollups' pace is that of `benchmarks.rollups`.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.backlog import Backlog
from aggregator.batch import BATCH_EVENTS, Batch, Delivered
from aggregator.block import COLUMNS
from aggregator.consumer import Consumer
from aggregator.formats import Format
from aggregator.query import Statement
from aggregator.rows import Rows
from aggregator.store import Store
from benchmarks import rollups
from benchmarks.recorder import calls
from tests.conftest import RedisServer, wait_until
from tests.processes import serving
from usage_meter import keys
from usage_meter.event import FORMAT_VERSION, UsageEvent, concatenated, pack

BAR_EVENTS, BAR_RATIO, BAR_MEGABYTES = 250_000, 0.25, 600
EVENTS_PER_ENTRY = 1000  # about what a busy app's recorder sends at once
BACKLOG_EVENTS = 2_000_000  # for the memory: many times what the service holds at once
NATIVE = Format("native", "application/octet-stream", "Native", {"max_block_size": BATCH_EVENTS})


@dataclass
class Result:
    """Of one thing measured once. The processor's time counts all threads, and what others do does not inflate it."""

    name: str
    events_per_second: float
    cpu_us: float


class Bench:
    """One Redis, one store, and the same events for everything."""

    def __init__(self, server: RedisServer, store: Store, entries: Sequence[dict[Any, Any]]) -> None:
        self.client: Any = server.client()
        self.store = store
        self.entries = entries
        self.events = sum(int(entry[b"n"]) for entry in entries)

    def results(self) -> Iterator[Result]:
        ours = [self.timed("the consumer: from the stream to the store", self.drain())]
        self.settle()
        ours.append(self.timed("  of it Python: entries into blocks, one core", self.blocks))
        yield self.timed("the engine: as many inserts of blocks that it wrote itself", self.load(self.written()))
        yield from ours

    def timed(self, name: str, run: Callable[[], None]) -> Result:
        started, cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        say(f"{name.strip()}: {self.events / seconds:,.0f}/s")
        return Result(name, self.events / seconds, cpu / self.events * 1e6)

    def written(self) -> list[bytes]:
        """What is stored as the engine's own blocks, in the order of arrival, one for each insert."""
        rows = f"SELECT {', '.join(COLUMNS)} FROM events WHERE toUnixTimestamp64Micro(started) BETWEEN "
        first, last = self.bounds()
        return [
            b"".join(
                self.store.stream([Statement(f"{rows}{one} AND {one + BATCH_EVENTS - 1} ORDER BY id", {})], NATIVE)
            )
            for one in range(first, last + 1, BATCH_EVENTS)
        ]

    def bounds(self) -> tuple[int, int]:
        """The first and the last call's start; they are a microsecond apart."""
        found = "SELECT toUnixTimestamp64Micro(min(started)), toUnixTimestamp64Micro(max(started)) FROM events"
        first, last = self.store.select(Statement(found, {}))[0]
        return int(first), int(last)

    def load(self, inserts: Sequence[bytes]) -> Callable[[], None]:
        self.store.select(Statement("TRUNCATE TABLE events", {}))

        def run() -> None:
            for blocks in inserts:
                self.store.load(blocks)

        return run

    def settle(self) -> None:
        """Wait until the engine has merged what it wants to: that takes a core, also beside the consumer."""
        merges = Statement("SELECT count() FROM system.merges", {})
        wait_until(lambda: not self.store.select(merges)[0][0], "the engine has merged", 60)

    def drain(self) -> Callable[[], None]:
        self.store.select(Statement("TRUNCATE TABLE events", {}))
        fill(self.client, self.entries)
        consumer = Consumer(self.client, self.store, Backlog(self.client), name="benchmark", exclusive=True)

        def run() -> None:
            stop = threading.Event()
            thread = threading.Thread(target=consumer.run, args=(stop,))
            thread.start()
            wait_until(lambda: consumer.statistics.events == self.events, "all is stored", 300)
            stop.set()
            thread.join()

        return run

    def blocks(self) -> None:
        """What the consumer does of its own between reading and storing."""
        known = Rows()
        batch = Batch(time.time_ns() // 1000, known=known)
        for entry in self.entries:
            batch.add(Delivered(0, b"", entry))
            if batch.is_full:
                batch.load.close()
                batch.load.blocks()
                batch = Batch(time.time_ns() // 1000, known=known)
        batch.load.close()
        batch.load.blocks()


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def fill(client: Any, entries: Sequence[dict[Any, Any]]) -> None:
    pipeline = client.pipeline(transaction=False)
    for entry in entries:
        pipeline.xadd(keys.events(0), entry)
    pipeline.execute()


def with_habits(events: Sequence[UsageEvent]) -> Sequence[UsageEvent]:
    """Each key keeps to one model, and mostly to one of its three voices: of 1000 calls, half have something new."""
    chance, habits = random.Random(2), dict[str, tuple[str, list[str]]]()
    for event in events:
        model, voices = habits.setdefault(event.api_key, (event.model, [chance.choice(events).voice for _ in range(3)]))
        event.path = event.path.replace(event.voice, voice := voices[int(chance.expovariate(1.2)) % 3])
        event.voice, event.model = voice, model
    return events


def as_entries(events: Sequence[UsageEvent]) -> list[dict[Any, Any]]:
    number = len(events)
    return [
        {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(some), b"b": pack(concatenated(some))}
        for some in (events[first : first + EVENTS_PER_ENTRY] for first in range(0, number, EVENTS_PER_ENTRY))
    ]


def memory(server: RedisServer, directory: Path, entries: Sequence[dict[Any, Any]]) -> tuple[int, int]:
    """Megabytes of the service after its start, and at most while it drains a long backlog."""
    client: Any = server.client()
    say(f"memory: {BACKLOG_EVENTS:,} events for the service")
    with serving(directory, redis_url=server.url) as service:
        idle = megabytes(service.process.pid, "VmRSS")
        for _ in range(BACKLOG_EVENTS // (EVENTS_PER_ENTRY * len(entries))):
            fill(client, entries)
        wait_until(lambda: not client.xlen(keys.events(0)), "all is stored", 300)
        return idle, megabytes(service.process.pid, "VmHWM")


def megabytes(pid: int, what: str) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) // 1024


def best(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: result.events_per_second)


def table(results: Sequence[Result]) -> Iterator[str]:
    limit = results[0].events_per_second
    yield f"{'':62} {'events/s':>10} {'ratio':>6} {'µs/event':>9} {'CPU µs':>7}"
    for result in results:
        rate = result.events_per_second
        yield f"{result.name:62} {rate:10,.0f} {rate / limit:6.2f} {1e6 / rate:9.2f} {result.cpu_us:7.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.events < EVENTS_PER_ENTRY or options.rounds < 1:
        parser.error(f"at least {EVENTS_PER_ENTRY} events and 1 round")
    directory = Path(tempfile.mkdtemp())
    server = RedisServer(directory)
    server.start()
    try:
        say(f"making {options.events:,} events")
        entries = as_entries(with_habits(calls(options.events)))
        with Store(f"chdb://{directory / 'data'}") as store:
            bench = Bench(server, store, entries)
            rounds = [list(bench.results()) for _ in range(options.rounds)]
            say("rollups")
            rolled = list(rollups.paces(store, options.events, options.rounds))
        idle, draining = memory(server, directory / "service", entries)
    finally:
        server.kill()
        shutil.rmtree(directory)
    results = [best(list(each)) for each in zip(*rounds, strict=True)]
    print("\n".join(table(results)))
    limit, ours = results[0].events_per_second, results[1].events_per_second
    print(f"\nmemory of the service: {idle} MB idle, at most {draining} MB while it drains {BACKLOG_EVENTS:,} events")
    print(f"bar: {ours:,.0f} of at least {BAR_EVENTS:,} events/s", end=", ")
    print(f"{ours / limit:.2f} of at least {BAR_RATIO} of the limit, {idle} of at most {BAR_MEGABYTES} MB idle")
    print("\n".join(map(str, rolled)))


if __name__ == "__main__":
    main()
