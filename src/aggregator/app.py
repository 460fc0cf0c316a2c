"""Where the service's objects are made and joined, and nowhere else.

`Service` owns what must be ended in order: the web server stops first, then the consumer finishes its batch, then
the store closes, and an embedded Redis goes last, since the consumer still talks to it.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import redis
from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.middleware.trustedhost import TrustedHostMiddleware

from aggregator import api, directory, export, live_api, pages
from aggregator.audit import Audit
from aggregator.backlog import Backlog
from aggregator.consumer import Consumer
from aggregator.elevenlabs import api as elevenlabs
from aggregator.embedded_redis import EmbeddedRedis
from aggregator.errors import SettingsError, StoreError
from aggregator.freshness import Freshness
from aggregator.http import openapi, problems
from aggregator.ingest import Ingest
from aggregator.labels import Labels
from aggregator.lease import Lease
from aggregator.ledger import Ledger
from aggregator.limits import Limits
from aggregator.live import Live
from aggregator.metrics import CONTENT_TYPE, Metrics
from aggregator.page.drawing import Drawing
from aggregator.page.look import Look
from aggregator.reader import Reader
from aggregator.revocations import Revocations
from aggregator.rollup import Rollup
from aggregator.settings import EMBEDDED, Settings, without_password
from aggregator.store import START_SECONDS, Store
from aggregator.tokens import Failures, Tokens
from usage_meter import keys

logger = logging.getLogger(__name__)

Role = Literal["all", "consumer", "api"]

CONNECT_SECONDS = 2.0  # a Redis that does not take a connection by then is away, and a question must say so
ANSWER_SECONDS = 10.0  # longer than any single command or blocking read of ours takes
DRAIN_SECONDS = 30.0  # for the batch in hand; what is not stored by then stays in Redis
LOOPBACK_HOSTS = ["localhost", "127.0.0.1", "[::1]"]


class Service:
    """Everything that one process runs, as a context manager. Raises SettingsError and StoreError when entered."""

    def __init__(self, settings: Settings, role: Role = "all") -> None:
        self.settings = settings
        self.role = role
        self.redis_url = settings.redis_url
        self._stack = ExitStack()
        self._stop = threading.Event()

    def __enter__(self) -> "Service":
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()

    @property
    def shown_store_url(self) -> str:
        return without_password(self.settings.store_url)

    @property
    def shown_redis_url(self) -> str:
        return without_password(self.redis_url)

    def _open(self) -> None:
        settings = self.settings
        self.store = self._stack.enter_context(Store(settings.store_url, patience=START_SECONDS))
        if settings.redis_url == EMBEDDED:
            self.redis_url = self._stack.enter_context(EmbeddedRedis(settings.directory / "redis")).url
        client = self._stack.enter_context(connect(self.redis_url))
        backlog, revocations = Backlog(client), Revocations(self.store)
        tokens = Tokens(settings.secret, settings.previous_secret, revocations)
        keep = self.store.kept if self.role == "api" else self.store.keep
        retention = keep(settings.retention)
        self.ingest = Ingest(client, retention=retention)
        self.consumer = consumer = Consumer(
            client,
            self.store,
            backlog,
            name=_consumer_name(settings),
            exclusive=settings.is_embedded_store,
            retention=retention,
        )
        live = Live(client, backlog)
        freshness = Freshness(self.store)
        lease = Lease(client, keys.ROLLUP_LEASE, f"{_consumer_name(settings)}:{secrets.token_hex(4)}")
        self.rollup = rollup = Rollup(
            self.store,
            freshness,
            removed_us=lambda table: retention.removed_us(table, time.time_ns() // 1000),
            # An embedded store has no other process that could compute them.
            may_run=(lambda: True) if settings.is_embedded_store else lease.held,
            may_add=(lambda: True) if settings.is_embedded_store else lease.surely_held,
        )
        self.metrics = Metrics(
            backlog, live, consumer.statistics, rollup.statistics, Ledger(client), self.ingest.refused
        )
        consumer.on_stored(self.metrics.calls_stored)
        drawing = Drawing()
        self._stack.callback(drawing.close)
        if self.role != "consumer":
            drawing.prepare()
        self.app = create_app(
            drawing=drawing,
            reader=Reader(self.store, backlog.complete_until_us, freshness=freshness, retention=retention),
            ingest=self.ingest,
            tokens=tokens,
            revocations=revocations,
            metrics=self.metrics,
            store=self.store,
            client=client,
            live=live,
            role=self.role,
            look=settings.look,
        )
        if self.role != "api":
            self._start("consumer", consumer.run)
            self._stack.callback(lease.release)
            self._start("rollup", rollup.run)

    def _start(self, name: str, run: Callable[[threading.Event], None]) -> None:
        thread = threading.Thread(target=run, args=(self._stop,), name=f"usage-meter-{name}", daemon=True)
        thread.start()
        self._stack.callback(self._end, thread)

    def _end(self, thread: threading.Thread) -> None:
        self._stop.set()
        thread.join(DRAIN_SECONDS)


def create_app(
    *,
    reader: Reader,
    ingest: Ingest,
    tokens: Tokens,
    revocations: Revocations,
    metrics: Metrics,
    store: Store,
    client: "redis.Redis",
    live: Live,
    role: Role = "all",
    look: Look | None = None,
    drawing: Drawing | None = None,
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """The web application over these objects: no I/O happens here. `now` in Unix seconds."""
    app = FastAPIOffline(docs_url="/docs", redoc_url=None, static_url="/static/docs", title="usage-meter")
    problems.add_error_handlers(app)
    _add_operations(app, metrics, store, client)
    if role != "consumer":
        failures = Failures()
        principal = api.principal_of(tokens, failures)
        app.include_router(live_api.router(reader, live, Labels(store), principal, now))  # before /requests/{id}
        labels, limits, audit = Labels(store), Limits(store), Audit(store)
        app.include_router(api.router(reader, ingest, audit, principal, now))
        app.include_router(directory.router(reader, labels, limits, audit, revocations, principal, now))
        app.include_router(elevenlabs.router(reader, labels, limits, principal, now))
        app.include_router(
            pages.router(
                reader,
                principal,
                drawing,
                now,
                tokens=tokens,
                failures=failures,
                look=look,
                labels=labels,
                limits=limits,
            )
        )
    if not tokens.required:
        # Without a secret whoever reaches us is an operator: a web page elsewhere must not, by a name that it
        # makes point to this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_HOSTS)
    return app


def _add_operations(app: FastAPI, metrics: Metrics, store: Store, client: "redis.Redis") -> None:
    @app.get("/metrics", response_class=Response, tags=["operations"], **openapi.METRICS_TEXT)
    def prometheus() -> Response:
        """Prometheus metrics of the calls and of their way into the store."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/healthz", response_class=Response, tags=["operations"], **openapi.HEALTH)
    def healthy() -> Response:
        """200 while the process answers."""
        return Response(export.to_json({"status": "ok"}), media_type="application/json")

    @app.get("/readyz", response_class=Response, tags=["operations"], **openapi.READINESS)
    def ready() -> Response:
        """200 when Redis and the store answer; 503 that says which does not."""
        checks = {"redis": _answers(client.ping), "store": _answers(store.ping)}
        is_ready = all(state == "ok" for state in checks.values())
        body = export.to_json({"status": "ok" if is_ready else "unavailable", **checks})
        return Response(body, 200 if is_ready else 503, media_type="application/json")


def _answers(ping: Callable[[], object]) -> str:
    try:
        ping()
    except (redis.RedisError, StoreError) as error:
        logger.warning("not ready: %s", error)
        return "unavailable"
    return "ok"


def connect(url: str) -> "redis.Redis":
    """A client that answers or fails within seconds; what retries, and how, is its user's decision."""
    try:
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            client_name="usage-meter-aggregator",
        )
    except ValueError as error:
        raise SettingsError(f"AGGREGATOR_REDIS_URL is '{without_password(url)}': {error}") from error


def check_redis(url: str) -> None:
    """Raises SettingsError that says what would be right when nothing answers there."""
    with connect(url) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            raise SettingsError(
                f"no Redis answers at {without_password(url)} ({error}): start one, set AGGREGATOR_REDIS_URL, or use "
                "AGGREGATOR_REDIS_URL=embedded to have one started beside the store"
            ) from error


@contextmanager
def redis_in_use(settings: Settings) -> Iterator["redis.Redis"]:
    """The Redis of a service that runs elsewhere. Raises SettingsError when it does not answer, or no longer."""
    url = settings.redis_url
    if url == EMBEDDED:
        embedded = EmbeddedRedis(settings.directory / "redis")
        if not embedded.find():
            raise SettingsError(f"no embedded Redis runs in {settings.directory}: start the service first")
        url = embedded.url
    check_redis(url)
    with connect(url) as client:
        try:
            yield client
        except redis.RedisError as error:
            raise SettingsError(f"the Redis at {without_password(url)} failed: {error}") from error


def _consumer_name(settings: Settings) -> str:
    """An embedded store has one consumer, whose name outlives its process: its pending entries are its own again."""
    return "embedded" if settings.is_embedded_store else f"{socket.gethostname()}:{os.getpid()}"
