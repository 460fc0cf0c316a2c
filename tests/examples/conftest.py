"""The speech API under a real uvicorn, its meter connected to a real Redis: one of each for all tests here."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import httpx
import pytest
import uvicorn
from elevenlabs import ElevenLabs

from examples.speech_api.app import create_app
from tests.conftest import RedisServer, free_port, wait_until
from usage_meter import Meter, UsageEvent, keys
from usage_meter.event import unpack

ALICE = "sk_acme_alice_website_7f3a"


@dataclass
class SpeechAPI:
    """A running API, and what its meter has recorded."""

    base_url: str
    redis: RedisServer
    pool: httpx.Client

    def client(self, api_key: str = ALICE) -> ElevenLabs:
        return ElevenLabs(base_url=self.base_url, api_key=api_key, httpx_client=self.pool)

    def recorded(self) -> dict[str, UsageEvent]:
        """The newest version of each call, by its request id."""
        client = self.redis.client()
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrange(keys.events(0)))
        client.close()
        newest: dict[str, UsageEvent] = {}
        for _, entry in entries:
            for event in unpack(entry[b"b"], int(entry[b"n"])):
                if event.request_id not in newest or newest[event.request_id].version < event.version:
                    newest[event.request_id] = event
        return newest

    def event(self, request_id: str, ready: Callable[[UsageEvent], bool] = lambda event: True) -> UsageEvent:
        """What was recorded of one call, as soon as it is there."""

        def look() -> UsageEvent | None:
            found = self.recorded().get(request_id)
            return found if found and ready(found) else None

        found = wait_until(look, f"the call {request_id} is recorded")
        assert found
        return found


@contextmanager
def serving(meter: Meter, port: int) -> Iterator[None]:
    """The speech API on that port, by a real uvicorn, as long as the context lasts."""
    server = uvicorn.Server(uvicorn.Config(create_app(meter), port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the speech API listens")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def speech_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechAPI]:
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    port = free_port()
    meter = Meter(redis_url=redis.url, journal_dir=tmp_path_factory.mktemp("journal"))
    with serving(meter, port), httpx.Client() as pool:
        yield SpeechAPI(f"http://127.0.0.1:{port}", redis, pool)
    redis.kill()
