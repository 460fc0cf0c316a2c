"""Run by the fork tests: `forking.py HOW`. Records, forks, records in child and parent, and lives until told to go.

Each event's request id is its process's part and a number: `before-0`, `child-0`, `parent-0`.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time

from usage_meter import Meter, UsageEvent
from usage_meter.event import new_id

EVENTS = 500

meter = Meter()


def record(part: str) -> None:
    for number in range(EVENTS):
        started = time.time_ns() // 1000
        request_id = f"{part}-{number}"
        meter.record(UsageEvent(id=new_id(), started_us=started, workspace="acme", request_id=request_id))


def fork(how: str) -> None:
    """A child that records and dies without any farewell."""
    if how == "multiprocessing":
        multiprocessing.get_context("fork").Process(target=record, args=("child",)).start()
        return
    if os.fork() == 0:
        record("child")
        os._exit(0)


def fork_in_c() -> None:
    """As uWSGI does it, so that none of Python's hooks run. The interpreter survives that only without threads."""
    if ctypes.PyDLL(None).fork() == 0:
        record("child")
        os._exit(0)
    record("before")
    record("parent")
    sys.stdin.read()


def die_before_a_child() -> None:
    record("orphaned")
    if os.fork() == 0:
        sys.stdin.read()  # lives as long as the test, and never records
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def main(how: str) -> None:
    if how == "in C":
        fork_in_c()
        return
    if how == "idle child":
        die_before_a_child()
    record("before")
    fork(how)
    record("parent")
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
