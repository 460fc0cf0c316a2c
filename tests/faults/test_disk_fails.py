"""The journal's disk is full, or becomes full: events wait in memory, and arrive."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.faults.conftest import StartApp, Traffic, expect_all, paused
from usage_meter.disk import Disk
from usage_meter.journal import Journal

MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


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
