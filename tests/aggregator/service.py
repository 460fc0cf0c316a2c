"""A service for tests: the real application over a real store, without a network port unless one is asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import uvicorn
from fastapi.testclient import TestClient

from aggregator.app import create_app
from aggregator.backlog import Backlog
from aggregator.consumer import Consumer
from aggregator.freshness import Freshness
from aggregator.ingest import Ingest
from aggregator.ledger import Ledger
from aggregator.live import Live
from aggregator.metrics import Metrics
from aggregator.page.look import Look
from aggregator.reader import Reader
from aggregator.retention import Retention
from aggregator.revocations import Revocations
from aggregator.rollup import Rollup
from aggregator.store import Store
from aggregator.tokens import OPERATOR, Principal, Tokens
from tests.conftest import free_port, wait_until

SECRET = "a secret of the tests, long enough to sign"


class TestedService:
    """What a test says to the service: store these calls, ask that question as this principal."""

    __test__ = False

    def __init__(
        self,
        store: Store,
        client: "redis.Redis",
        secret: str = SECRET,
        look: Look | None = None,
        retention: Retention | None = None,
        reader: Reader | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.revocations = Revocations(store)
        self.tokens = Tokens(secret, revoked=self.revocations)
        self.backlog = backlog = Backlog(client, now)
        self.consumer = Consumer(client, store, backlog, name="embedded", exclusive=True, retention=retention)
        live = Live(client, backlog, now)
        self.freshness = Freshness(store)
        self.rollup = Rollup(
            store,
            self.freshness,
            margin_seconds=0,
            grace_seconds=0,
            removed_us=lambda table: (retention or Retention()).removed_us(table, time.time_ns() // 1000),
        )  # nothing else inserts meanwhile
        ingest = Ingest(client, retention=retention)
        self.metrics = Metrics(
            backlog, live, self.consumer.statistics, self.rollup.statistics, Ledger(client), ingest.refused
        )
        self.consumer.on_stored(self.metrics.calls_stored)
        self.app = create_app(
            reader=reader or Reader(store, backlog.complete_until_us, freshness=self.freshness, retention=retention),
            ingest=ingest,
            tokens=self.tokens,
            revocations=self.revocations,
            metrics=self.metrics,
            store=store,
            client=client,
            live=live,
            look=look,
            now=now,
        )
        self.http = TestClient(self.app, base_url="http://localhost", raise_server_exceptions=False)

    def headers(self, principal: Principal) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens.make(principal, days=1)}"} if self.tokens.required else {}

    def get(self, path: str, principal: Principal = OPERATOR, **parameters: Any) -> Any:
        """The JSON answer; fails with the body when it isn't one."""
        names = {name.replace("__", "."): value for name, value in parameters.items()}
        response = self.http.get(path, params=names, headers=self.headers(principal))
        assert response.status_code == 200, response.text
        return response.json()

    def drain(self) -> None:
        """Move all that waits in Redis into the store."""
        while self.backlog.entries():
            self.consumer.step()

    def roll_up(self) -> None:
        """Compute all that is due."""
        while self.rollup.step():
            pass


@contextmanager
def listening(service: TestedService) -> Iterator[str]:
    """The application on a real port: a stream that never ends cannot be read from within the process."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(service.app, port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "uvicorn listens")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
