"""What the journal promises: nothing that was appended is lost, unless the cap demands it, and then it is counted."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from usage_meter.disk import Disk
from usage_meter.journal import FOUND, Journal
from usage_meter.journal_directory import SUFFIX, UNBORN, JournalDirectory, owned
from usage_meter.segment import DATA, HEADER_WORDS, MAX_EVENT_BYTES, SEGMENT_BYTES, WORD

MIB = 1024 * 1024
Make = Callable[..., Journal]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def make(parent: Path) -> Make:
    """A journal as a process opens it: `make("a")` and `make("b")` are two processes on one directory."""

    def make(name: str, max_bytes: int = 64 * MIB) -> Journal:
        return Journal(threading.Lock(), Disk(parent, name), max_bytes)

    return make


def send(journal: Journal, chain: int = 0, at_most: int = 1_000_000) -> list[bytes]:
    """Takes slices as the sender does until nothing is left; each slice's bytes."""
    slices: list[bytes] = []
    while len(slices) < at_most and (found := journal.next_slice(chain)):
        segment, taken = found
        slices.append(bytes(taken.data))
        journal.accept(segment, taken)
    return slices


def die(journal: Journal) -> None:
    """What the kernel does for a killed process: the lock goes, the files stay."""
    journal._disk.abandon()


def files(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"*/*{SUFFIX}"))


def test_events_leave_in_order_as_one_piece(make: Make) -> None:
    journal = make("a")
    for number in range(1000):
        journal.append(0, b"event %d;" % number)

    assert send(journal) == [b"".join(b"event %d;" % number for number in range(1000))]
    assert journal.chains() == []
    assert journal.queued_bytes() == 0


def test_a_shard_has_its_own_chain(make: Make) -> None:
    journal = make("a")
    journal.append(3, b"three")
    journal.append(0, b"zero")

    assert journal.chains() == [3, 0]
    assert send(journal, 3) == [b"three"]
    assert send(journal, 0) == [b"zero"]


def test_more_than_a_segment_goes_into_the_next(make: Make, parent: Path) -> None:
    journal = make("a")
    event = bytes(1000)
    for _ in range(5000):
        journal.append(0, event)

    assert len(files(parent)) == 6
    assert b"".join(send(journal)) == event * 5000


def test_what_a_killed_process_left_is_sent_by_another(make: Make, parent: Path) -> None:
    first = make("first")
    for number in range(10):
        first.append(number % 2, b"%d" % number)
    send(first, 1)
    die(first)

    second = make("second")
    second.look_around()

    assert second.chains() == [FOUND]
    assert send(second, FOUND) == [b"02468"]
    assert [path.name for path in parent.iterdir()] == ["second"]


def test_a_living_process_keeps_its_journal(make: Make) -> None:
    first, second = make("first"), make("second")
    first.append(0, b"mine")

    second.look_around()

    assert second.chains() == []
    assert send(first) == [b"mine"]


def test_what_was_taken_over_survives_the_next_death_too(make: Make) -> None:
    journals = [make(name) for name in ("first", "second", "third")]
    journals[0].append(0, b"old")
    die(journals[0])
    journals[1].look_around()
    journals[1].append(0, b"new")
    die(journals[1])

    journals[2].look_around()

    assert sorted(send(journals[2], FOUND)) == [b"new", b"old"]


def test_a_torn_event_is_skipped_and_counted(make: Make, parent: Path) -> None:
    first = make("first")
    for number in range(5):
        first.append(0, b"event %d;" % number)
    die(first)
    with files(parent)[0].open("r+b") as file:
        file.seek(DATA + len("event 0;event 1;") + 3)
        file.write(b"!")

    second = make("second")
    second.look_around()

    assert send(second, FOUND) == [b"event 0;event 1;", b"event 3;event 4;"]
    assert second.dropped["torn"] == 1


def test_a_torn_directory_ends_the_segment_without_an_error(make: Make, parent: Path) -> None:
    first = make("first")
    for number in range(5):
        first.append(0, b"event %d;" % number)
    die(first)
    with files(parent)[0].open("r+b") as file:
        file.seek((HEADER_WORDS + 3) * WORD)
        file.write(b"\xff" * WORD)

    second = make("second")
    second.look_around()

    assert send(second, FOUND) == [b"event 0;event 1;event 2;"]
    assert second.dropped["torn"] == 2


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0" * SEGMENT_BYTES])
def test_a_file_that_holds_nothing_is_deleted(make: Make, parent: Path, content: bytes) -> None:
    dead = JournalDirectory.create(parent, "dead")
    (dead.path / f"00000001{SUFFIX}").write_bytes(content)
    dead.release()

    journal = make("a")
    journal.look_around()

    assert send(journal, FOUND) == []
    assert files(parent) == []


def test_a_file_of_another_version_stays_for_whoever_can_read_it(make: Make, parent: Path) -> None:
    dead = JournalDirectory.create(parent, "dead")
    (dead.path / f"00000001{SUFFIX}").write_bytes(b"UMETER99" + bytes(SEGMENT_BYTES - 8))
    dead.release()

    journal = make("a")
    journal.look_around()
    assert send(journal, FOUND) == []
    journal.close()

    assert [file.read_bytes()[:8] for file in files(parent)] == [b"UMETER99"]


def test_a_page_of_the_directory_that_was_never_written_costs_only_its_events(make: Make, parent: Path) -> None:
    first = make("first")
    for number in range(9):
        first.append(0, b"event %d;" % number)
    die(first)
    with files(parent)[0].open("r+b") as file:
        file.seek((HEADER_WORDS + 3) * WORD)
        file.write(bytes(2 * WORD))

    second = make("second")
    second.look_around()

    assert send(second, FOUND) == [b"event 0;event 1;event 2;", b"event 6;event 7;event 8;"]
    assert second.dropped["torn"] == 3  # one too many: where it begins is not known


def test_beyond_the_cap_the_oldest_are_dropped_and_counted(make: Make, parent: Path) -> None:
    journal = make("a", max_bytes=16 * MIB)
    event = bytes(1000)
    for _ in range(40_000):
        journal.append(0, event)

    assert sum(file.stat().st_size for file in files(parent)) <= 16 * MIB
    kept = sum(len(piece) for piece in send(journal)) // 1000
    assert journal.dropped == {"journal_full": 40_000 - kept}
    assert kept > 14_000


def test_the_cap_counts_what_other_processes_hold(make: Make, parent: Path) -> None:
    first, second = make("first", max_bytes=16 * MIB), make("second", max_bytes=16 * MIB)
    for _ in range(10_000):
        first.append(0, bytes(1000))
    second.look_around()

    for _ in range(20_000):
        second.append(0, bytes(1000))

    assert sum(file.stat().st_size for file in files(parent)) <= 17 * MIB
    assert first.dropped == {}
    assert second.dropped["journal_full"] > 0


def test_many_short_journals_of_dead_processes_are_counted_by_their_size(make: Make, parent: Path) -> None:
    for number in range(50):  # as workers that are recycled leave them while Redis is away
        worker = make(f"worker-{number}")
        worker.append(0, b"event")
        worker.close()
    journal = make("a", max_bytes=16 * MIB)
    journal.look_around()
    journal.append(0, b"event")

    assert sum(len(piece) for piece in send(journal, FOUND)) == 50 * len("event")
    assert journal.dropped.total() == 0


def test_what_is_sent_is_kept_a_while_and_then_let_go(make: Make, parent: Path) -> None:
    journal = make("a")
    for _ in range(3000):
        journal.append(0, bytes(1000))
    send(journal)
    assert len(files(parent)) == 4

    journal.release(before=0.0)  # nothing was sent that long ago
    assert len(files(parent)) == 4

    journal.release(before=2**40)
    assert len(files(parent)) == 1  # which is being written


def test_another_server_gets_again_what_the_last_one_took(make: Make) -> None:
    journal = make("a")
    journal.meet(0, "first run")
    journal.append(0, b"long ago;")
    send(journal)
    journal.release(before=2**40)
    journal.append(0, b"lately;")
    send(journal)

    journal.meet(0, "second run")
    journal.append(0, b"now;")

    segment, taken = journal.next_slice(0) or pytest.fail("there is something to send")
    assert bytes(taken.data) == b"lately;now;"
    assert journal.accept(segment, taken) == 1  # for another time
    journal.meet(0, "second run")
    assert send(journal) == []


def test_a_server_that_went_back_gets_again_what_it_took(make: Make) -> None:
    journal = make("a")
    for number in range(3000):
        journal.append(0, b"%d" % number * 300)
    sent = send(journal)

    journal.rewind(0)

    assert send(journal) == sent


def test_a_dead_process_s_last_events_go_to_another_server_again(make: Make) -> None:
    first = make("first")
    first.meet(0, "first run")
    first.append(0, b"taken by the first;")
    send(first)
    first.append(0, b"never sent;")
    die(first)

    second = make("second")
    second.meet(0, "second run")
    second.look_around()

    assert send(second, FOUND) == [b"taken by the first;never sent;"]


def test_a_closed_journal_leaves_what_is_not_yet_safe_and_nothing_else(make: Make, parent: Path) -> None:
    first = make("first")
    first.append(0, b"sent a moment ago")
    first.meet(0, "a run")
    send(first)
    first.close()
    assert [file.stat().st_size for file in files(parent)] == [DATA + len("sent a moment ago")]

    second = make("second")
    second.meet(0, "a run")
    second.look_around()
    assert send(second, FOUND) == []
    second.release(before=2**40)
    second.close()
    assert list(parent.iterdir()) == []


def test_a_closed_journal_leaves_the_others_when_one_file_is_gone(make: Make, parent: Path) -> None:
    first = make("first")
    for shard in range(3):
        first.append(shard, b"shard %d;" % shard)
    files(parent)[0].unlink()
    first.close()
    assert first.dropped == {"journal_lost": 1}

    second = make("second")
    second.look_around()

    assert sorted(send(second, FOUND)) == [b"shard 1;", b"shard 2;"]


def test_without_a_disk_events_wait_in_memory(make: Make, parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    parent.write_text("a file, where there should be a directory")
    journal = make("a")
    for number in range(10_000):
        journal.append(0, b"%05d" % number)

    assert b"".join(send(journal)) == b"".join(b"%05d" % number for number in range(10_000))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_memory_has_its_cap_too(make: Make, parent: Path) -> None:
    parent.write_text("a file, where there should be a directory")
    journal = make("a", max_bytes=16 * MIB)
    for _ in range(40_000):
        journal.append(0, bytes(1000))

    kept = sum(len(piece) for piece in send(journal)) // 1000
    assert journal.dropped == {"memory_full": 40_000 - kept}
    assert kept > 13_000


def test_a_journal_that_somebody_deleted_is_made_again(make: Make, parent: Path) -> None:
    journal = make("a")
    journal.append(0, b"before;")
    for file in files(parent):
        file.unlink()
    (parent / "a").rmdir()

    for _ in range(2000):
        journal.append(0, bytes(1000))

    assert send(journal)[0].startswith(b"before;")  # what is mapped is not lost with its name
    assert len(files(parent)) == 2


def test_what_was_deleted_takes_nothing_along_that_came_after_it(make: Make, parent: Path) -> None:
    journal = make("a")
    journal.append(0, b"before;")
    files(parent)[0].unlink()
    (parent / "a").rmdir()  # as a tidy system does it in its temporary directory
    for _ in range(1500):
        journal.append(0, bytes(1000))

    send(journal)
    journal.release(before=2**40)

    assert len(files(parent)) == 1  # which is being written


def test_a_file_deleted_while_it_waits_is_counted(make: Make, parent: Path) -> None:
    journal = make("a")
    for _ in range(10_000):
        journal.append(0, bytes(1000))
    files(parent)[0].unlink()

    sent = sum(len(piece) for piece in send(journal)) // 1000

    assert journal.dropped["journal_lost"] == 10_000 - sent
    assert sent > 8000


@pytest.fixture
def no_more_files() -> Callable[[], AbstractContextManager[None]]:
    """While it is entered, the process can open no file."""

    @contextmanager
    def none() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return none


def test_a_process_out_of_open_files_loses_nothing_of_what_waits(
    make: Make, no_more_files: Callable[[], AbstractContextManager[None]]
) -> None:
    journal = make("a")
    for _ in range(10_000):
        journal.append(0, bytes(1000))

    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        journal.next_slice(0)

    assert sum(len(piece) for piece in send(journal)) == 10_000_000
    assert journal.dropped == {}


def test_nor_of_what_a_dead_process_left(make: Make, no_more_files: Callable[[], AbstractContextManager[None]]) -> None:
    dead, journal = make("dead"), make("a")
    dead.append(0, b"event")
    die(dead)
    journal.look_around()

    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        journal.next_slice(FOUND)

    assert send(journal, FOUND) == [b"event"]


def test_what_could_not_be_taken_over_is_at_the_next_look(make: Make, parent: Path) -> None:
    dead, journal = make("dead"), make("a")
    dead.append(0, b"event")
    die(dead)
    in_the_way = parent / f"{UNBORN}a"
    in_the_way.write_text("a file, where our own directory should be made")
    journal.look_around()
    assert journal.chains() == []

    in_the_way.unlink()
    journal.look_around()

    assert send(journal, FOUND) == [b"event"]


def test_a_process_id_that_comes_again_hides_no_orphan(make: Make, parent: Path) -> None:
    dead = make(f"host-{os.getpid()}-0badcafe")  # as a container names its only process, each time
    dead.append(0, b"event")
    die(dead)

    journal = make(f"host-{os.getpid()}-600dcafe")
    journal.look_around()

    assert send(journal, FOUND) == [b"event"]


def test_a_directory_is_this_user_s_own_whatever_the_umask(tmp_path: Path) -> None:
    usual = os.umask(0o002)  # as many systems set it
    try:
        JournalDirectory.create(tmp_path / "home" / "redis", "a").release()
    finally:
        os.umask(usual)

    assert owned(tmp_path / "home")
    assert owned(tmp_path / "home" / "redis")


def test_an_event_too_large_to_be_kept_is_counted(make: Make) -> None:
    journal = make("a")

    assert not journal.append(0, bytes(MAX_EVENT_BYTES + 1))

    assert journal.dropped == {"oversized": 1}
    assert journal.append(0, bytes(MAX_EVENT_BYTES))


def test_a_prepared_file_spares_the_next_segment_the_disk(make: Make, parent: Path) -> None:
    journal = make("a")
    journal.append(0, b"first")
    journal.prepare()
    assert len(files(parent)) == 2

    for _ in range(1500):
        journal.append(0, bytes(1000))

    assert len(files(parent)) == 2


def test_many_threads_lose_nothing_and_tear_nothing(make: Make) -> None:
    journal = make("a")
    lock = journal._lock

    def write(name: int) -> None:
        for number in range(5000):
            with lock:
                journal.append(0, b"%d:%05d;" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    events = []
    while any(thread.is_alive() for thread in threads):
        events += send(journal, at_most=1)
    events += send(journal)

    for name in range(4):
        own = [event for event in b"".join(events).split(b";") if event.startswith(b"%d:" % name)]
        assert own == [b"%d:%05d" % (name, number) for number in range(5000)]


def test_what_was_on_its_way_when_it_had_to_go_is_not_counted_as_dropped(make: Make) -> None:
    journal = make("a", max_bytes=16 * MIB)
    for _ in range(2000):
        journal.append(0, bytes(1000))
    segment, taken = journal.next_slice(0) or pytest.fail("there is something to send")
    for _ in range(20_000):
        journal.append(0, bytes(1000))

    journal.accept(segment, taken)

    left = sum(len(piece) for piece in send(journal)) // 1000
    assert taken.last - taken.first + left + journal.dropped["journal_full"] == 22_000


def test_a_directory_that_is_being_made_is_nobody_s_orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another = Disk(tmp_path, "another")
    seize = JournalDirectory.seize

    def seize_late(path: Path) -> JournalDirectory | None:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(JournalDirectory, "seize", seize)
            another.look_around()
        return seize(path)

    monkeypatch.setattr(JournalDirectory, "seize", seize_late)
    directory = JournalDirectory.create(tmp_path, "mine")

    assert directory.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_whose_maker_died_before_it_was_locked_is_tidied_away(make: Make, parent: Path) -> None:
    journal = make("a")
    journal.append(0, b"event")
    young, old = parent / ".young", parent / ".old"
    for directory in (young, old):
        directory.mkdir()
    os.utime(old, (0, 0))

    journal.look_around()

    assert young.exists()
    assert not old.exists()
