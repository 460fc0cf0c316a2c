"""The payload of a stream entry: both ways to compress it are read, and nothing hostile gets past."""

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from backports import zstd

from usage_meter.event import (
    FORMAT_VERSION,
    MAX_PAYLOAD_BYTES,
    ZLIB,
    ZSTD,
    UsageEvent,
    UsageEventError,
    concatenated,
    new_id,
    pack,
    unpack,
)

EVENTS = [
    UsageEvent(id=new_id(1_000_000 * second), started_us=1_000_000 * second, workspace="acme", voice=f"voice-{second}")
    for second in range(100)
]
ENCODED = concatenated(EVENTS)


def test_what_is_packed_is_zstd_and_comes_back() -> None:
    assert FORMAT_VERSION == ZSTD
    assert pack(ENCODED)[:4] == zstd.compress(b"")[:4]
    assert unpack(pack(ENCODED), len(EVENTS), ZSTD) == EVENTS


def test_zlib_of_apps_without_zstd_is_read_too() -> None:
    assert unpack(zlib.compress(ENCODED), len(EVENTS), ZLIB) == EVENTS


def test_an_app_without_zstd_packs_with_zlib_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['backports.zstd'] = sys.modules['compression.zstd'] = None\n"
        "from usage_meter.event import *; from usage_meter import event\n"
        "one = UsageEvent(id=bytes(16), started_us=1, workspace='acme')\n"
        "payload = event.pack(event.concatenated([one]))\n"
        "assert event.unpack(payload, 1) == [one]\n"
        "sys.stdout.buffer.write(b'%d' % event.FORMAT_VERSION + payload)\n"
        "try: event.unpack(payload, 1, 2)\n"
        "except UsageEventError as error: print(error, file=sys.stderr)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert done.stdout[:1] == b"1"
    assert [event.workspace for event in unpack(done.stdout[1:], 1, ZLIB)] == ["acme"]
    assert b"install usage-meter[zstd]" in done.stderr


def zstd_frame_with_a_huge_window() -> bytes:
    """Says by its header that its reader has to keep 2 GiB to look back into."""
    large: dict[int, int] = {zstd.CompressionParameter.window_log: 31, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=large)
    frame: bytes = compressor.compress(ENCODED) + compressor.flush()
    return frame


BOMB = b"\0" * (MAX_PAYLOAD_BYTES + 1)
DAMAGED = bytearray(pack(ENCODED))
DAMAGED[len(DAMAGED) // 2] ^= 1


@pytest.mark.parametrize(
    ("payload", "version", "reason"),
    [
        (zlib.compress(BOMB), ZLIB, "inflates to more than"),
        (zstd.compress(BOMB), ZSTD, "inflates to more than"),
        (zstd_frame_with_a_huge_window(), ZSTD, "does not inflate"),
        (zlib.compress(ENCODED)[:-1], ZLIB, "cut short"),
        (pack(ENCODED)[:-1], ZSTD, "cut short"),
        (bytes(DAMAGED), ZSTD, "does not inflate"),
        (b"", ZLIB, "cut short"),
        (b"", ZSTD, "cut short"),
        (zlib.compress(ENCODED), ZSTD, "does not inflate"),
        (pack(ENCODED), ZLIB, "does not inflate"),
        (zstd.compress(b"\xc1"), ZSTD, "payload is not 100 events"),
        (zstd.compress(b"\x91" * 1_000_000), ZSTD, "payload is not 100 events"),
        (pack(ENCODED), 3, "the entry's format is 3"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_a_hostile_payload_is_an_error_of_ours(payload: bytes, version: int, reason: str) -> None:
    with pytest.raises(UsageEventError, match=reason):
        unpack(payload, len(EVENTS), version)


def test_ids_of_one_process_differ_sort_by_time_and_are_version_7() -> None:
    made = [new_id(second * 1_000_000) for second in range(1000) for _ in range(3)]

    assert len(set(made)) == len(made)
    assert made == sorted(made)
    assert {(id[6] >> 4, id[8] >> 6) for id in made} == {(7, 0b10)}


def test_two_processes_share_no_id() -> None:
    script = "from usage_meter.event import new_id; print(*(new_id(1).hex() for _ in range(1000)))"

    made = [subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)]

    first, second = (set(text.split()) for text in made)
    assert len(first) == len(second) == 1000
    assert not first & second
