"""Of several aggregators one computes the rollups, and another goes on when it dies."""

import redis

from aggregator.freshness import Freshness
from aggregator.lease import Lease
from aggregator.query import Statement
from aggregator.rollup import Rollup
from aggregator.store import Store
from tests.aggregator.events import call
from tests.conftest import RedisServer, wait_until
from usage_meter import keys


def lease(client: "redis.Redis", holder: str, seconds: float = 60) -> Lease:
    return Lease(client, keys.ROLLUP_LEASE, holder, seconds)


def test_one_holds_it_and_keeps_it(redis_client: "redis.Redis") -> None:
    one, other = lease(redis_client, "one"), lease(redis_client, "other")

    assert [one.held(), other.held(), one.held(), other.held()] == [True, False, True, False]


def test_another_goes_on_when_it_is_released_or_its_holder_dies(redis_client: "redis.Redis") -> None:
    one, other = lease(redis_client, "one"), lease(redis_client, "other", 0.05)
    one.held()

    other.release()
    assert not other.held()
    one.release()
    assert other.held()

    wait_until(one.held, "the dead holder's lease has aged out")


def test_without_redis_everybody_works(redis_server: RedisServer) -> None:
    one, other = lease(redis_server.client(), "one"), lease(redis_server.client(), "other")
    one.held()

    redis_server.kill()

    assert one.held()
    assert other.held()


def test_of_two_workers_one_computes(redis_client: "redis.Redis", store: Store) -> None:
    store.insert([call()])
    workers = [
        Rollup(store, Freshness(store), margin_seconds=0, may_run=lease(redis_client, name).held)
        for name in ("one", "other")
    ]

    done = [worker.turn() for _ in range(6) for worker in workers]

    assert done == [True, False, True, False, True, False, True, False, True, False, False, False]
    assert store.select(Statement("SELECT count(), uniqExact(level) FROM published", {})) == [(5, 5)]
