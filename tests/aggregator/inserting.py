"""A process that inserts and is killed: `python -m tests.aggregator.inserting DIRECTORY [FIRST]`.

Says on its standard output how many events the store holds, then the number of each batch that an insert has returned
for. Without FIRST it only says the first. Batch N is made of N's own events, so that it can be asked what is there.
"""

import sys
from datetime import timedelta

from aggregator.query import Statement
from aggregator.store import Store
from tests.aggregator.events import NOON, call
from usage_meter.event import UsageEvent

EVENTS = 500


def batch(number: int) -> list[UsageEvent]:
    moment = NOON + timedelta(days=number % 3)
    return [call(moment, user=f"{number}", credits=number) for _ in range(EVENTS)]


def main(directory: str, first: str = "") -> None:
    with Store(f"chdb://{directory}") as store:
        counted = store.select(Statement("SELECT toUInt32(user) AS n, count() FROM events FINAL GROUP BY n", {}))
        print(" ".join(f"{number}:{events}" for number, events in counted), flush=True)
        number = int(first or 0)
        while first:
            store.insert(batch(number))
            print(number, flush=True)
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
