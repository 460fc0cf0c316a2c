"""Run by the memory test: `away.py EVENTS`. Records while Redis is away; prints its memory early on, and at the end."""

import sys
import time

import psutil

from usage_meter import Meter, UsageEvent
from usage_meter.event import new_id

meter = Meter()


def record(first: int, last: int) -> None:
    for number in range(first, last):
        started = time.time_ns() // 1000
        meter.record(
            UsageEvent(
                id=new_id(started),
                started_us=started,
                workspace=f"workspace-{number % 100}",
                user=f"user-{number % 5000}",
                path=f"/v1/history/{number}",
                request_id=f"call-{number}",
                credits_micro=number,
            )
        )


def main(events: int) -> None:
    record(0, events // 10)
    print(psutil.Process().memory_info().rss, flush=True)
    record(events // 10, events)
    print(psutil.Process().memory_info().rss, flush=True)
    statistics = meter.recorder.statistics()
    print(statistics.recorded, sum(statistics.dropped.values()), statistics.queued_bytes)
    meter.close(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
