"""Redis is away for ten minutes: the journal grows up to its cap, the process does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port

MIB = 1024 * 1024
CAP = 16 * MIB
EVENTS = 200_000  # ten minutes of a process that serves 333 calls a second


@pytest.mark.parametrize("disk", ["a disk", "no disk"])
def test_memory_stays_flat_while_redis_is_away(disk: str, tmp_path: Path) -> None:
    place = tmp_path / "journal"
    if disk == "no disk":
        place.write_text("a file, where there should be a directory")
    environ = {
        **os.environ,
        "USAGE_METER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "USAGE_METER_JOURNAL_DIR": str(place),
        "USAGE_METER_JOURNAL_MAX_BYTES": str(CAP),
    }

    command = [sys.executable, "-m", "tests.faults.away", str(EVENTS)]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)

    early, late, counts = done.stdout.splitlines()
    recorded, dropped, queued_bytes = map(int, counts.split())
    assert recorded == EVENTS
    assert dropped > 0  # the cap was reached, so this is as much as it ever takes
    assert queued_bytes <= CAP
    room = CAP if disk == "no disk" else 8 * MIB  # in memory the queue itself still grows up to its cap
    assert int(late) - int(early) < room
