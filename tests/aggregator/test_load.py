"""Many clients at once while events come in: nobody gets an error, and nothing of what came is lost."""

import threading

import redis

from aggregator.store import Store
from benchmarks.load import QUESTIONS, Apps, Clients, admins
from tests.aggregator.service import TestedService, listening


def test_many_clients_ask_while_events_come_in(store: Store, redis_client: "redis.Redis") -> None:
    service, stop = TestedService(store, redis_client), threading.Event()
    running = [threading.Thread(target=one.run, args=(stop,)) for one in (service.consumer, service.rollup)]
    apps = Apps(redis_client, per_second=2000)
    for thread in running:
        thread.start()
    try:
        with listening(service) as address, apps.sending():
            clients = Clients(address, admins(24), service.tokens)
            clients.ask(seconds=60, each=2)
    finally:
        stop.set()
        for thread in running:
            thread.join()
    service.drain()

    assert clients.errors == []
    assert {name: len(seconds) for name, seconds in clients.seconds.items()} == dict.fromkeys(QUESTIONS, 24 * 2 // 6)
    assert service.get("/v1/usage", last="24h", metric="requests", interval="total")["series"][0]["total"] == apps.sent
