"""Many clients at once while events come in: nobody gets an error, and nothing of what came is lost."""

import redis

from aggregator.store import Store
from benchmarks.load import QUESTIONS, Apps, Clients, admins
from tests.aggregator.service import TestedService, listening
from tests.processes import alongside


def test_many_clients_ask_while_events_come_in(store: Store, redis_client: "redis.Redis") -> None:
    service, apps = TestedService(store, redis_client), Apps(redis_client, per_second=2000)
    with (
        alongside(service.consumer.run),
        alongside(service.rollup.run),
        listening(service) as address,
        alongside(apps.go_on),
    ):
        clients = Clients(address, admins(24), service.tokens)
        clients.ask(seconds=60, each=2)
    service.drain()

    assert clients.errors == []
    assert {name: len(seconds) for name, seconds in clients.seconds.items()} == dict.fromkeys(QUESTIONS, 24 * 2 // 6)
    assert service.get("/v1/usage", last="24h", metric="requests", interval="total")["series"][0]["total"] == apps.sent
