"""What is packed ahead is what will be sent, or else it is not used."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, wait_until
from tests.meter.test_recorder import an_event, stored
from usage_meter import Meter
from usage_meter.disk import Disk
from usage_meter.event import pack
from usage_meter.journal import Journal
from usage_meter.parcel import Parcel


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """With some segments of 1,000-byte events."""
    journal = Journal(threading.Lock(), Disk(tmp_path / "journals", "a"), 64 * 1024 * 1024)
    for number in range(3000):
        journal.append(0, b"%04d" % number * 250)
    yield journal
    journal.close()


def test_what_follows_is_what_is_sent_next(journal: Journal) -> None:
    segment, taken = journal.next_slice(0) or pytest.fail("there is something to send")
    parcel = Parcel(*(journal.next_slice(0, after=segment) or pytest.fail("a second segment waits")))
    journal.accept(segment, taken)

    following, rest = journal.next_slice(0) or pytest.fail("a second segment waits")

    assert parcel.begins(following, rest)
    assert parcel.payload() == pack(rest.data)


def test_what_came_meanwhile_is_left_for_the_next_time(journal: Journal) -> None:
    while found := journal.next_slice(0):
        last, taken = found
        parcel = Parcel(last, taken)
        if journal.next_slice(0, after=last) is None:
            break
        journal.accept(last, taken)
    journal.append(0, b"meanwhile")

    segment, more = journal.next_slice(0) or pytest.fail("there is something to send")

    assert parcel.begins(segment, more)
    assert more.last == parcel.taken.last + 1
    journal.accept(segment, parcel.taken)
    _, rest = journal.next_slice(0) or pytest.fail("one event is left")
    assert bytes(rest.data) == b"meanwhile"


def test_what_has_to_be_sent_again_is_packed_anew(journal: Journal) -> None:
    segment, taken = journal.next_slice(0) or pytest.fail("there is something to send")
    journal.accept(segment, taken._replace(last=10))
    parcel = Parcel(*(journal.next_slice(0) or pytest.fail("the rest waits")))

    journal.rewind(0)

    segment, again = journal.next_slice(0) or pytest.fail("everything waits again")
    assert again.first == 0
    assert not parcel.begins(segment, again)


def test_a_process_without_a_thread_to_spare_packs_by_itself(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    segment, taken = journal.next_slice(0) or pytest.fail("there is something to send")

    assert Parcel(segment, taken).payload() == pack(taken.data)


def test_a_long_queue_arrives_once_and_in_order(redis_server: RedisServer, redis_client: Any, tmp_path: Path) -> None:
    """Redis is away while they are recorded: then whole segments wait, and each is packed while another is sent."""
    redis_server.kill()
    events = [an_event(path=f"/v1/{number}" + "x" * 200) for number in range(15_000)]
    with Meter(redis_server.url, journal_dir=tmp_path / "journal", environ={}) as meter:
        assert all(meter.record(event) for event in events)
        redis_server.start()
        wait_until(lambda: meter.recorder.statistics().sent == len(events), "everything is sent")
        assert meter.recorder.statistics().resent == 0

    assert stored(redis_client) == events
