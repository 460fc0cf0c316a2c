"""How fast calls go through all rollups, by quarter of an hour, hour, day and month, and concurrency.

    python -m benchmarks.rollups [--calls 1000000] [--rounds 2]

The engine makes the calls itself, those of `benchmarks.query`: as dense as a service at 100,000 calls a second sees
them, so that a rollup's row stands for many, and as sparse as 50 million in 60 days of 200 workspaces, where it stands
for one or two. They came in the order of their time, so that every bucket is computed once. The best round counts,
since whatever else the machine does only ever slows things down.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from aggregator.buckets import to_us
from aggregator.freshness import Freshness
from aggregator.query import Statement
from aggregator.rollup import Rollup
from aggregator.store import Store
from benchmarks.query import CALLS, CHUNK, START

BAR = 100_000  # calls a second
TABLES = ("events", "published", "usage_15m", "usage_1h", "usage_1d", "usage_1mo", "peaks_15m")


@dataclass(frozen=True)
class Density:
    name: str
    calls_per_second: float


DENSITIES = (
    Density("as dense as 100,000 calls/s", 100_000.0),
    Density("as sparse as 50 million in 60 days", 50_000_000 / timedelta(days=60).total_seconds()),
)


@dataclass(frozen=True)
class Pace:
    density: Density
    calls_per_second: float
    cpu_us: float
    """For each call, of all threads: what others do does not inflate it."""

    def __str__(self) -> str:
        verdict = "" if self.calls_per_second >= BAR else ": misses the bar"
        return (
            f"rollups of calls {self.density.name}: {self.calls_per_second:,.0f} of at least {BAR:,} calls/s, "
            f"{self.cpu_us:.1f} µs of CPU each{verdict}"
        )


def paces(store: Store, calls: int, rounds: int) -> Iterator[Pace]:
    """The best of so many rounds, of each density. The store's tables are emptied before each."""
    for density in DENSITIES:
        found = [_measured(store, density, calls) for _ in range(rounds)]
        yield max(found, key=lambda pace: pace.calls_per_second)


def _measured(store: Store, density: Density, calls: int) -> Pace:
    for table in TABLES:
        store.select(Statement(f"TRUNCATE TABLE {table}", {}))
    times = {"start": to_us(START), "step": round(1_000_000 / density.calls_per_second)}
    for first in range(0, calls, CHUNK):
        store.execute(Statement(CALLS, {**times, "first": first, "count": min(CHUNK, calls - first)}), {})
    rollup = Rollup(store, Freshness(store), margin_seconds=0)
    began, cpu = time.perf_counter(), time.process_time()
    while rollup.step():
        pass
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Pace(density, calls / seconds, cpu / calls * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.calls < 1 or options.rounds < 1:
        parser.error("at least 1 call and 1 round")
    with tempfile.TemporaryDirectory() as directory, Store(f"chdb://{Path(directory) / 'data'}") as store:
        for pace in paces(store, options.calls, options.rounds):
            print(pace, flush=True)


if __name__ == "__main__":
    main()
