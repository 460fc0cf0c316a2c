"""A process forks after it has begun to record: both go on, and neither writes into the other's journal."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer, wait_until
from tests.faults.conftest import recorded_ids
from tests.faults.forking import EVENTS

Run = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def run(tmp_path: Path, redis_server: RedisServer) -> Iterator[Run]:
    """`forking.py` in a mode; it lives until its standard input is closed."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(how: str) -> "subprocess.Popen[bytes]":
        environ = {
            **os.environ,
            "USAGE_METER_REDIS_URL": redis_server.url,
            "USAGE_METER_JOURNAL_DIR": str(tmp_path / "journal"),
        }
        command = [sys.executable, "-m", "tests.faults.forking", how]
        processes.append(subprocess.Popen(command, env=environ, stdin=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.communicate()


def ids(*parts: str) -> set[str]:
    return {f"{part}-{number}" for part in parts for number in range(EVENTS)}


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "in C"])
def test_parent_and_child_lose_nothing(how: str, run: Run, redis_server: RedisServer) -> None:
    run(how)

    expected = ids("before", "child", "parent")
    wait_until(lambda: recorded_ids(redis_server) == expected, "all events of both are in the stream")


def test_a_living_child_does_not_hold_its_dead_parent_s_journal(run: Run, redis_server: RedisServer) -> None:
    redis_server.kill()
    run("idle child").wait()
    redis_server.start()

    run("os.fork")

    wait_until(lambda: ids("orphaned") <= recorded_ids(redis_server), "the dead parent's events are in the stream")


FORK_IN_C = """
import ctypes, os, sys
from usage_meter import fork_mark
mark = getattr(fork_mark, sys.argv[1])()
child = ctypes.PyDLL(None).fork()
if child == 0:
    os._exit(mark[0])
print(os.waitpid(child, 0)[1], int(mark[0]))
"""


@pytest.mark.parametrize("make", ["fork_mark", "ProcessId"])
def test_a_fork_is_told_from_its_parent_even_without_hooks(make: str) -> None:
    told = subprocess.run([sys.executable, "-c", FORK_IN_C, make], capture_output=True, text=True, check=True)

    assert told.stdout.split() == ["0", "1"]
