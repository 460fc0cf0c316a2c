"""The consumer's promise: at least once, in this order, and nothing is lost or counted twice whatever breaks."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis

from aggregator.backlog import Backlog
from aggregator.batch import BATCH_EVENTS, FUTURE_US
from aggregator.consumer import FORGET_CONSUMERS, Consumer, Table
from aggregator.errors import RejectedError, StoreError
from aggregator.query import Statement
from aggregator.store import Store
from aggregator.totals import CallTotals
from tests.aggregator.events import NOON, call, entry, events_in
from tests.conftest import RedisServer, wait_until
from usage_meter import keys
from usage_meter.event import UsageEvent

DEAD_US = 120_000  # in milliseconds: pending for longer than any insert takes


class Obstacle:
    """The real store behind something that may go wrong before or after it does its work."""

    def __init__(
        self,
        store: Store,
        before: Callable[[bytes], None] = lambda blocks: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._before = before
        self._after = after
        self.loads: list[int] = []

    def load(self, blocks: bytes, table: Table = "events") -> None:
        self.loads.append(len(blocks))
        self._before(blocks)
        self._store.load(blocks, table)
        self._after()


def failing(times: int, error: Exception) -> Callable[..., None]:
    """Raises the error that many times, and never again."""
    errors = [error] * times

    def fail(*_: bytes) -> None:
        if errors:
            raise errors.pop()

    return fail


def consumer(client: "redis.Redis", store: Any, name: str = "us", exclusive: bool = False) -> Consumer:
    return Consumer(client, store, Backlog(client), name=name, exclusive=exclusive)


@contextmanager
def running(one: Consumer) -> Iterator[threading.Event]:
    """The consumer's loop in a thread; the event that stops it."""
    stop = threading.Event()
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def send(client: "redis.Redis", *events: UsageEvent, shard: int = 0) -> bytes:
    """As an app sends them: one entry; its id."""
    client.sadd(keys.SHARDS, shard)
    id: Any = client.xadd(keys.events(shard), entry(*events))
    assert isinstance(id, bytes)
    return id


def stored(store: Store) -> list[bytes]:
    """The ids of all events, each as often as a reader sees it."""
    return sorted(id for (id,) in store.select(Statement("SELECT id FROM events FINAL", {})))


def ids(events: Sequence[UsageEvent]) -> list[bytes]:
    return sorted(event.id for event in events)


def pending(client: "redis.Redis", shard: int = 0) -> int:
    return int(client.xpending(keys.events(shard), keys.GROUP)["pending"])


def letters(client: "redis.Redis", shard: int = 0) -> list[dict[bytes, bytes]]:
    found: Any = client.xrange(keys.dead(shard))
    return [fields for _, fields in found]


def deliver_to(client: "redis.Redis", name: str, idle_ms: int = 0) -> None:
    """Have everything that waits delivered to a consumer that then does nothing with it."""
    key = keys.events(0)
    client.xgroup_create(key, keys.GROUP, id="0", mkstream=True)
    client.xreadgroup(keys.GROUP, name, {key: ">"})
    taken: list[Any] = [one["message_id"] for one in client.xpending_range(key, keys.GROUP, "-", "+", 100)]
    client.xclaim(key, keys.GROUP, name, 0, taken, idle=idle_ms)


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_waits_is_stored_acknowledged_and_removed(redis_server: RedisServer, store: Store, protocol: int) -> None:
    events = [call(user=f"user-{number}") for number in range(6)]
    with redis.Redis(port=redis_server.port, protocol=protocol) as client:
        for event in events:
            send(client, event)

        entries = consumer(client, store).step()

        assert entries == 6
        assert stored(store) == ids(events)
        assert client.xlen(keys.events(0)) == 0
        assert pending(client) == 0


def test_many_small_entries_become_one_insert(redis_client: "redis.Redis", store: Store) -> None:
    events = [call(voice=f"voice-{number % 7}") for number in range(400)]
    for first in range(0, 400, 4):
        send(redis_client, *events[first : first + 4], shard=first % 3)
    watched = Obstacle(store)

    consumer(redis_client, watched).step()

    assert len(watched.loads) == 1
    assert stored(store) == ids(events)


def test_a_backlog_is_taken_in_batches_of_bounded_size(redis_client: "redis.Redis", store: Store) -> None:
    events = [call(user=f"user-{number}") for number in range(1000)]
    sent = BATCH_EVENTS // 1000 + 4
    fields = entry(*events)
    for _ in range(sent):
        redis_client.xadd(keys.events(0), fields)
    watched = Obstacle(store)
    one = consumer(redis_client, watched)

    taken = [one.step(), one.step()]

    assert taken == [BATCH_EVENTS // 1000 + 1, 3]
    assert max(watched.loads) < 400 * BATCH_EVENTS
    assert stored(store) == ids(events)


def test_a_long_backlog_of_one_shard_does_not_hold_up_another(redis_client: "redis.Redis", store: Store) -> None:
    fields = entry(*(call(user=f"user-{number}") for number in range(1000)))
    for _ in range(BATCH_EVENTS // 1000 + 4):
        redis_client.xadd(keys.events(0), fields)
    send(redis_client, call(), shard=5)

    consumer(redis_client, store).step()

    assert redis_client.xlen(keys.events(0)) > 0
    assert redis_client.xlen(keys.events(5)) == 0


def test_while_a_batch_is_stored_the_next_is_read(redis_client: "redis.Redis", store: Store) -> None:
    go_on = threading.Event()
    first, second = call(), call()
    send(redis_client, first)
    slow = Obstacle(store, before=lambda blocks: None if go_on.wait(20) else pytest.fail("nobody let it go on"))
    with running(consumer(redis_client, slow)):
        wait_until(lambda: slow.loads, "the first batch is being stored")
        send(redis_client, second)
        wait_until(lambda: pending(redis_client) == 2, "the second entry is delivered")
        go_on.set()

        wait_until(lambda: redis_client.xlen(keys.events(0)) == 0, "both are stored")

    assert stored(store) == ids([first, second])


def test_the_batch_in_hand_is_finished_at_the_end(redis_client: "redis.Redis", store: Store) -> None:
    go_on = threading.Event()
    event = call()
    send(redis_client, event)
    slow = Obstacle(store, before=lambda blocks: None if go_on.wait(20) else pytest.fail("nobody let it go on"))
    with running(consumer(redis_client, slow)) as stop:
        wait_until(lambda: slow.loads, "the batch is being stored")
        stop.set()
        go_on.set()

    assert stored(store) == [event.id]
    assert pending(redis_client) == 0


def test_own_entries_of_an_earlier_life_come_first(redis_client: "redis.Redis", store: Store) -> None:
    events = [call() for _ in range(40)]
    for event in events:
        send(redis_client, event)
    deliver_to(redis_client, "us")
    news = call()
    send(redis_client, news)

    consumer(redis_client, store).step()

    assert stored(store) == ids([*events, news])
    assert pending(redis_client) == 0


def test_what_a_dead_consumer_left_is_taken_over(redis_client: "redis.Redis", store: Store) -> None:
    events = [call() for _ in range(40)]
    for event in events:
        send(redis_client, event)
    deliver_to(redis_client, "the one that died", idle_ms=DEAD_US)

    consumer(redis_client, store).step()

    assert stored(store) == ids(events)
    assert pending(redis_client) == 0


def test_what_a_living_consumer_has_in_hand_is_left_to_it(redis_client: "redis.Redis", store: Store) -> None:
    send(redis_client, call())
    deliver_to(redis_client, "the other one")

    assert consumer(redis_client, store).step() == 0
    assert pending(redis_client) == 1


def test_beside_an_embedded_store_nobody_else_can_be_alive(redis_client: "redis.Redis", store: Store) -> None:
    events = [call() for _ in range(40)]
    for event in events:
        send(redis_client, event)
    deliver_to(redis_client, "an aggregator on another store")

    taken = consumer(redis_client, store, exclusive=True).step()

    assert taken == 40
    assert stored(store) == ids(events)


def test_an_entry_that_was_removed_while_it_was_pending_is_done_with(redis_client: "redis.Redis", store: Store) -> None:
    id = send(redis_client, call())
    deliver_to(redis_client, "us")
    redis_client.xdel(keys.events(0), id)

    consumer(redis_client, store).step()

    assert stored(store) == []
    assert pending(redis_client) == 0
    assert letters(redis_client) == []


def test_consumers_that_are_gone_are_forgotten_but_not_what_they_owe(redis_client: "redis.Redis") -> None:
    send(redis_client, call())
    deliver_to(redis_client, "owes one")
    redis_client.xreadgroup(keys.GROUP, "owes nothing", {keys.events(0): ">"})
    redis_client.xgroup_createconsumer(keys.events(0), keys.GROUP, "owes nothing")

    redis_client.eval(FORGET_CONSUMERS, 1, keys.events(0), keys.GROUP, "-1")

    assert [one["name"] for one in redis_client.xinfo_consumers(keys.events(0), keys.GROUP)] == [b"owes one"]
    assert pending(redis_client) == 1


GOOD = entry(call())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({b"v": b"1", b"n": b"1"}, "must have the fields v and n, whole numbers, and b"),
        ({**GOOD, b"n": b"one"}, "must have the fields v and n, whole numbers, and b"),
        ({**GOOD, b"v": b"99"}, "the entry's format is 99: this aggregator reads 1 and 2; it needs an update"),
        ({**GOOD, b"b": b"not deflated"}, "does not inflate"),
        ({**GOOD, b"b": GOOD[b"b"][:-9]}, "cut short"),
        ({**GOOD, b"n": b"2"}, "payload is not 2 events"),
        ({**GOOD, b"n": b"-1"}, "number of events is -1"),
        (entry(call(status=70_000)), "<= 65535"),
        (entry(call(id=b"short")), "length >= 16"),
        (entry(call(credits_micro=10**18)), "<= 999999999999999999"),
        (entry(call(quantities={"tokens": math.nan})), "an event cannot be read: Expected `float` >= -1.79"),
        (entry(call(quantities={"tokens": math.inf})), "<= 1.79"),
        (entry(call(outcome="fine")), "an event's dimensions cannot be read: Invalid enum value 'fine'"),
        (entry(call(workspace=7)), "an event's dimensions cannot be read: Expected `str`, got `int`"),
        (entry(call(attributes={"tier": 7})), "an event's attributes cannot be read: Expected `str`"),
    ],
)
def test_what_cannot_be_read_is_put_aside_with_the_reason(
    redis_client: "redis.Redis", store: Store, fields: Any, reason: str
) -> None:
    before, after = call(), call()
    send(redis_client, before)
    redis_client.xadd(keys.events(0), fields)
    send(redis_client, after)

    one = consumer(redis_client, store)
    one.step()

    assert stored(store) == ids([before, after])
    (letter,) = letters(redis_client)
    assert reason in letter.pop(b"reason").decode()
    assert letter == fields
    assert redis_client.xlen(keys.events(0)) == 0
    assert one.statistics.dead == 1


def test_one_event_that_cannot_be_read_does_not_cost_its_neighbours(redis_client: "redis.Redis", store: Store) -> None:
    good = [call() for _ in range(20)]
    too_dear = [call(credits_micro=10**18), call(credits_micro=10**18)]
    nobodys, ahead = call(workspace=7), call(started_us=time.time_ns() // 1000 + 7 * FUTURE_US)
    send(redis_client, *good[:7], too_dear[0], nobodys, *good[7:], ahead, too_dear[1])
    one = consumer(redis_client, store)

    one.step()

    assert stored(store) == ids(good)
    found = {letter[b"reason"].decode().partition(":")[0]: letter for letter in letters(redis_client)}
    assert set(found) == {
        "an event cannot be read",
        "an event's dimensions cannot be read",
        "starts more than a day in the future",
    }
    assert found["an event cannot be read"][b"b"] == entry(*too_dear)[b"b"]
    assert found["an event's dimensions cannot be read"][b"b"] == entry(nobodys)[b"b"]
    assert events_in(found["starts more than a day in the future"]) == [ahead]
    assert one.statistics.events == 20
    assert one.statistics.dead == 3


def test_what_was_salvaged_is_found_again_when_the_store_refuses_another(
    redis_client: "redis.Redis", store: Store
) -> None:
    good, refused, unreadable = call(), call(), call(credits_micro=10**18)
    send(redis_client, good, refused, unreadable)

    def refuse(blocks: bytes) -> None:
        if refused.id in blocks:
            raise RejectedError("no such colour")

    consumer(redis_client, Obstacle(store, before=refuse)).step()

    assert stored(store) == [good.id]
    first, second = letters(redis_client)
    assert first[b"b"] == entry(unreadable)[b"b"]
    assert events_in(second) == [refused]


def test_a_call_from_the_future_is_put_aside_without_its_neighbours(redis_client: "redis.Redis", store: Store) -> None:
    now_us = time.time_ns() // 1000
    present, tomorrow = call(), call(started_us=now_us + FUTURE_US - 60_000_000)
    next_week = call(started_us=now_us + 7 * FUTURE_US)
    send(redis_client, present, next_week, tomorrow)

    consumer(redis_client, store).step()

    assert stored(store) == ids([present, tomorrow])
    (letter,) = letters(redis_client)
    assert letter[b"reason"] == b"starts more than a day in the future"
    assert events_in(letter) == [next_week]


def test_one_event_that_the_store_refuses_is_put_aside_alone(redis_client: "redis.Redis", store: Store) -> None:
    events = [call() for _ in range(30)]
    refused = events[17]

    def refuse(blocks: bytes) -> None:
        if refused.id in blocks:
            raise RejectedError("no such colour")

    for first in range(0, 30, 10):
        send(redis_client, *events[first : first + 10])
    one = consumer(redis_client, Obstacle(store, before=refuse))
    totals: list[CallTotals] = []
    one.on_stored(totals.append)

    one.step()

    assert stored(store) == ids([event for event in events if event is not refused])
    (letter,) = letters(redis_client)
    assert letter[b"reason"] == b"the store refuses it: no such colour"
    assert events_in(letter) == [refused]
    assert one.statistics.events == 29
    assert [one.requests.total() for one in totals] == [29]


def test_a_store_that_fails_for_a_while_holds_up_and_loses_nothing(redis_client: "redis.Redis", store: Store) -> None:
    events = [call() for _ in range(5)]
    one = consumer(redis_client, Obstacle(store, before=failing(3, StoreError("the disk is full"))))
    with running(one):
        for event in events:
            send(redis_client, event)
        wait_until(lambda: redis_client.xlen(keys.events(0)) == 0, "all are stored")

    assert stored(store) == ids(events)
    assert letters(redis_client) == []
    assert one.statistics.errors == {"store": 3}
    assert one.statistics.events == 5


def test_a_fault_of_our_own_does_not_end_the_consumer(redis_client: "redis.Redis", store: Store) -> None:
    one = consumer(redis_client, Obstacle(store, before=failing(1, ZeroDivisionError("of our own"))))
    event = call()
    with running(one):
        send(redis_client, event)
        wait_until(lambda: redis_client.xlen(keys.events(0)) == 0, "it is stored")

    assert stored(store) == [event.id]
    assert one.statistics.errors == {"other": 1}


def test_dying_between_insert_and_acknowledgement_counts_nothing_twice(
    redis_client: "redis.Redis", store: Store
) -> None:
    events = [call() for _ in range(5)]
    send(redis_client, *events)
    with pytest.raises(KeyboardInterrupt):
        consumer(redis_client, Obstacle(store, after=failing(1, KeyboardInterrupt()))).step()  # type: ignore[arg-type]
    assert stored(store) == ids(events)
    assert pending(redis_client) == 1

    consumer(redis_client, store).step()

    assert stored(store) == ids(events)
    assert pending(redis_client) == 0


def test_a_redis_that_comes_back_empty_is_read_again(redis_server: RedisServer, store: Store) -> None:
    before, after = call(), call()
    client = redis_server.client()
    one = consumer(client, store)
    with running(one):
        send(client, before)
        wait_until(lambda: stored(store) == [before.id], "the first is stored")
        redis_server.kill()
        wait_until(lambda: one.statistics.errors.get("redis", 0) >= 2, "the consumer has noticed")
        redis_server.start()
        send(client, after)
        wait_until(lambda: stored(store) == ids([before, after]), "the second is stored")
    client.close()


def test_a_flush_of_redis_under_the_consumer_costs_only_what_was_in_it(
    redis_client: "redis.Redis", store: Store
) -> None:
    one, event = consumer(redis_client, store), call()
    one.step()
    redis_client.flushall()
    with running(one):
        send(redis_client, event)
        wait_until(lambda: stored(store) == [event.id], "it is stored")


def test_consumers_side_by_side_share_the_work(redis_client: "redis.Redis", store: Store) -> None:
    both = [consumer(redis_client, store, name) for name in ("left", "right")]
    events = [call(user=f"user-{number}") for number in range(300)]
    with running(both[0]), running(both[1]):
        for number, event in enumerate(events):
            send(redis_client, event, shard=number % 4)
        wait_until(lambda: sum(one.statistics.events for one in both) >= 300, "all are stored")

    assert stored(store) == ids(events)
    assert [one.statistics.entries for one in both] != [300, 0]
    assert sum(one.statistics.entries for one in both) == 300


def test_who_listens_is_told_what_was_stored(redis_client: "redis.Redis", store: Store) -> None:
    one = consumer(redis_client, store)
    told: list[CallTotals] = []
    one.on_stored(told.append)
    quick = call(product="tts", duration_us=4_000, credits="1.5")
    slow = call(product="tts", duration_us=61_000_000, credits="-2", outcome="server_error")
    send(redis_client, quick, slow, call(kind="webhook"), call(version=2), call(NOON - timedelta(days=3)))

    one.step()

    (totals,) = told
    assert totals.requests == {
        ("acme", "tts", "ok"): 1,
        ("acme", "tts", "server_error"): 1,
        ("acme", "", "ok"): 1,
    }
    assert totals.credits_micro == {("acme", "tts"): 1_500_000, ("acme", ""): 1_000_000}
    assert totals.durations == {("tts", 0): 1, ("tts", 13): 1, ("", 5): 1}
    assert totals.duration_us == {"tts": 61_004_000, "": 250_000}
