"""The journal's disk is full, or becomes full: events wait in memory, and arrive."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.conftest import StartApp, Traffic, expect_all, paused
from usage_meter.disk import Disk
from usage_meter.journal import Journal

MIB = 1024 * 1024


@contextmanager
def mounted(disk: Path, option: str) -> Iterator[Path]:
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    with mounted(tmp_path / "disk", "size=3m") as disk:
        yield disk


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "ro") as disk:
        yield disk


def test_an_app_without_room_for_a_journal_loses_nothing(start_app: StartApp, redis_server: RedisServer) -> None:
    limited = ("sh", "-c", 'ulimit -f 256; exec "$@"', "sh")  # no file may grow beyond 256 blocks
    app = start_app("gunicorn", redis_server.url, prefix=limited)
    with Traffic(app.port) as traffic:
        traffic.wait_for(200)
        with paused(redis_server):
            traffic.wait_for(200)
        app.terminate()

    expect_all(traffic, redis_server)


def test_a_disk_that_fills_up_is_no_bus_error(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(threading.Lock(), Disk(small_disk, "a"), max_bytes=64 * MIB)

    for number in range(20_000):
        assert journal.append(0, b"%06d" % number * 100)

    assert len(list(small_disk.glob("a/*"))) == 3
    events = b""
    while found := journal.next_slice(0):
        segment, taken = found
        events += bytes(taken.data)
        journal.accept(segment, taken)
    assert events == b"".join(b"%06d" % number * 100 for number in range(20_000))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_read_only_disk_is_said_once_and_events_wait_in_memory(
    read_only_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(threading.Lock(), Disk(read_only_disk / "journals", "a"), max_bytes=64 * MIB)
    for number in range(5000):
        assert journal.append(0, b"%06d" % number * 100)
    journal.look_around()
    journal.prepare()

    waiting = 0
    while found := journal.next_slice(0):
        waiting += len(found[1].data)
        journal.accept(*found)
    assert waiting == 5000 * 600
    assert ["Read-only file system" in record.message for record in caplog.records] == [True]
