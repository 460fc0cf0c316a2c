"""The books: accepted = stored + dead + dropped + waiting, whatever dies in between."""

from typing import Any

import pytest
import redis

from aggregator.backlog import Backlog
from aggregator.batch import FUTURE_US
from aggregator.consumer import Consumer, Table
from aggregator.dead_letters import DeadLetters
from aggregator.ledger import Account, Ledger
from aggregator.store import Store
from tests.aggregator.events import call, entry
from tests.aggregator.service import TestedService
from usage_meter import keys


def consumer(client: "redis.Redis", store: Any, name: str = "us") -> Consumer:
    return Consumer(client, store, Backlog(client), name=name)


def account(client: "redis.Redis") -> Account:
    found = Ledger(client).account(0)
    assert found is not None
    return found


def send(client: "redis.Redis", number: int, **fields: Any) -> None:
    client.xadd(keys.events(0), entry(*(call(**fields) for _ in range(number))))


def send_broken(client: "redis.Redis", events: int) -> None:
    client.xadd(keys.events(0), {b"v": b"99", b"n": b"%d" % events, b"b": b"?"})


class DyingStore:
    """Stores, and then the process dies before it can acknowledge."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, blocks: bytes, table: Table = "events") -> None:
        self._store.load(blocks, table)
        raise KeyboardInterrupt


def test_what_came_is_stored_dead_dropped_or_waits(redis_client: "redis.Redis", store: Store) -> None:
    send(redis_client, 5)
    send_broken(redis_client, 3)
    send_broken(redis_client, 4)
    consumer(redis_client, store).step()
    letters = DeadLetters(redis_client, Backlog(redis_client))
    first, _ = letters.all()

    letters.drop(first)
    letters.drop(first)
    send(redis_client, 7)

    found = account(redis_client)
    assert (found.accepted, found.settled, found.waiting, found.missing_entries) == (4, 3, 1, 0)
    assert (found.events, found.stored, found.dead, found.dropped, found.missing_events) == (12, 5, 4, 3, 0)


def test_part_of_an_entry_may_be_dead(redis_client: "redis.Redis", store: Store) -> None:
    ahead = call()
    ahead.started_us += 10 * 366 * FUTURE_US
    redis_client.xadd(keys.events(0), entry(call(), ahead, call()))

    consumer(redis_client, store).step()

    found = account(redis_client)
    assert (found.events, found.stored, found.dead, found.missing_events) == (3, 2, 1, 0)


def test_what_is_stored_twice_after_a_crash_is_settled_once(redis_client: "redis.Redis", store: Store) -> None:
    send(redis_client, 5)
    send_broken(redis_client, 2)
    with pytest.raises(KeyboardInterrupt):
        consumer(redis_client, DyingStore(store)).step()
    died = account(redis_client)

    consumer(redis_client, store).step()

    assert (died.settled, died.waiting, died.missing_entries) == (0, 2, 0)
    found = account(redis_client)
    assert (found.events, found.stored, found.dead, found.missing_entries, found.missing_events) == (7, 5, 2, 0, 0)


def test_two_consumers_that_store_the_same_entry_settle_it_once(redis_client: "redis.Redis", store: Store) -> None:
    """The slow one is taken for dead, and acknowledges after the other."""
    send(redis_client, 5)
    send_broken(redis_client, 2)
    other = consumer(redis_client, store, "other")

    class Slow:
        def load(self, blocks: bytes, table: Table = "events") -> None:
            pending: Any = redis_client.xpending_range(keys.events(0), keys.GROUP, "-", "+", 100)
            taken: list[Any] = [one["message_id"] for one in pending]
            redis_client.xclaim(keys.events(0), keys.GROUP, "other", 0, taken)
            other.step()
            store.load(blocks, table)

    consumer(redis_client, Slow()).step()

    found = account(redis_client)
    assert (found.settled, found.events, found.stored, found.dead) == (2, 7, 5, 2)
    assert redis_client.xlen(keys.dead(0)) == 1


def test_what_is_sent_again_waits_and_is_settled_anew(redis_client: "redis.Redis", store: Store) -> None:
    send_broken(redis_client, 3)
    consumer(redis_client, store).step()
    letters = DeadLetters(redis_client, Backlog(redis_client))
    (letter,) = letters.all()

    letters.retry(letter)
    letters.retry(letter)
    waits = account(redis_client)
    consumer(redis_client, store).step()

    assert (waits.waiting, waits.retried, waits.dead, waits.missing_events) == (1, 3, 0, 0)
    found = account(redis_client)
    assert (found.events, found.retried, found.dead, found.missing_entries, found.missing_events) == (6, 3, 3, 0, 0)


def test_an_entry_that_somebody_else_removes_is_missing(redis_client: "redis.Redis", store: Store) -> None:
    consumer(redis_client, store).step()
    send(redis_client, 5)
    send(redis_client, 5)
    consumer(redis_client, store).step()

    send(redis_client, 5)
    redis_client.xtrim(keys.events(0), maxlen=0, approximate=False)

    assert account(redis_client).missing_entries == 1
    assert Ledger(redis_client).missing_entries(0) == 1
    service = TestedService(store, redis_client)
    assert "usage_meter_missing_entries 1.0" in service.http.get("/metrics").text


def test_what_was_settled_before_there_were_books_is_no_part_of_them(redis_client: "redis.Redis", store: Store) -> None:
    send(redis_client, 5)
    redis_client.xtrim(keys.events(0), maxlen=0, approximate=False)
    send(redis_client, 2)

    consumer(redis_client, store).step()

    found = account(redis_client)
    assert (found.accepted, found.settled, found.events, found.missing_entries) == (1, 1, 2, 0)


def test_a_shard_without_a_stream_has_no_account(redis_client: "redis.Redis") -> None:
    assert Ledger(redis_client).account(0) is None
