"""The customers: users of two workspaces who speak to the API by the official `elevenlabs` SDK.

`plan` decides what is asked, the same for the same seed: mostly good calls, some with a wrong key, an unknown voice or
no text, some that hang up in the middle. `speak` asks a number of them and tells what came back, so that a test can
compare it with what was recorded; `run` goes on until it is told to stop,
and `python -m examples.speech_api.traffic URL` does so until Ctrl-C or SIGTERM.
"""

import argparse
import asyncio
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from itertools import islice
from typing import Literal, TypeVar

import httpx
from elevenlabs import AsyncElevenLabs, ElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.core.request_options import RequestOptions
from elevenlabs.realtime_tts import text_chunker
from websockets.exceptions import WebSocketException

from examples.speech_api.accounts import ACCOUNTS, MODELS, VOICES, Account, billable
from examples.speech_api.sentences import SENTENCES

T = TypeVar("T")
Way = Literal["convert", "stream", "realtime", "voices"]
Fault = Literal["none", "wrong_key", "unknown_voice", "no_text", "hang_up"]

Pause = Callable[[], object]
"""Called by a customer who types, after each word."""

_WAYS: dict[Way, int] = {"convert": 45, "stream": 35, "realtime": 12, "voices": 8}
_FAULTS: dict[Fault, int] = {"none": 86, "wrong_key": 3, "unknown_voice": 3, "no_text": 3, "hang_up": 5}
_MODELS = {"eleven_multilingual_v2": 50, "eleven_flash_v2_5": 40, "eleven_v3": 10}
_VOICES = {
    "acme": {"en-us": 40, "de": 30, "fr": 12, "es": 10, "pl": 8},
    "globex": {"hi": 40, "en-gb": 30, "en-us": 20, "cmn": 10},
}
_STATUS: dict[Fault, int] = {"none": 200, "hang_up": 200, "wrong_key": 401, "unknown_voice": 404, "no_text": 422}

_HANG_UP_CHARACTERS = (
    2_500  # 6 MB of sound: more than sockets hold back, so the API cannot be done before the client goes
)
_AT_ONCE = 8  # calls in flight at most: customers, not a load test
_TYPING_SECONDS = 0.3  # between two pieces of a live session
_PATIENCE_SECONDS = 30  # for an answer; the engine takes a fifth of a second for the longest text
_ONCE: RequestOptions = {"max_retries": 0}  # one call asked is one call recorded


@dataclass(frozen=True, slots=True)
class Ask:
    """One call, decided beforehand. `pieces` is the text, in more than one piece where it comes bit by bit."""

    way: Way
    fault: Fault
    asynchronous: bool
    account: Account | None
    """None is a caller whose key nobody knows."""
    voice: str
    model: str
    pieces: tuple[str, ...]

    @property
    def api_key(self) -> str:
        return self.account.api_key if self.account else "sk_nobody_knows_this_key"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def status(self) -> int:
        """What the API has to answer; 101 for a WebSocket, as HTTP has it."""
        return 101 if self.way == "realtime" else _STATUS[self.fault]

    @property
    def characters(self) -> int:
        """What has to be charged: nothing for a refusal, all of it for a client that hangs up."""
        if self.way == "voices" or self.status >= 400:
            return 0
        return billable(list(text_chunker(iter(self.pieces)))) if self.way == "realtime" else len(self.text)

    @property
    def credits(self) -> Decimal:
        return MODELS[self.model].price(self.characters)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client saw. A WebSocket client of the SDK sees neither request id nor cost."""

    ask: Ask
    status: int
    request_id: str
    character_cost: Decimal | None
    received_bytes: int


def plan(seed: int) -> Iterator[Ask]:
    """What will be asked, without end; the same for the same seed."""
    chance = random.Random(seed)
    while True:
        yield _ask(chance)


def speak(base_url: str, sentences: int, seed: int = 0) -> list[Answer]:
    """Ask the first `sentences` calls of the plan, a few at once, and return the answers in the plan's order.

    Raises what the network raises; a refusal is an answer.
    """
    return asyncio.run(_speak_all(base_url, list(islice(plan(seed), sentences))))


def run(base_url: str, stop: threading.Event, calls_per_second: float = 3.0, seed: int = 0) -> None:
    """Ask on and on, at random moments, until `stop` is set. An API that is away for a while is only missed."""
    asyncio.run(_keep_speaking(base_url, stop, calls_per_second, seed))


async def _speak_all(base_url: str, asks: list[Ask]) -> list[Answer]:
    async with _customers(base_url, pause=lambda: None) as customers:
        return await asyncio.gather(*map(customers.ask, asks))


async def _keep_speaking(base_url: str, stop: threading.Event, calls_per_second: float, seed: int) -> None:
    pace = random.Random(seed)
    calls: set[asyncio.Task[None]] = set()
    # typing ends early as well when all is to stop: the rest of the text then comes at once
    async with _customers(base_url, pause=lambda: stop.wait(_TYPING_SECONDS)) as customers:
        for ask in plan(seed):
            if await asyncio.to_thread(stop.wait, pace.expovariate(calls_per_second)):
                break
            call = asyncio.create_task(_try(customers, ask))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)


async def _try(customers: "Customers", ask: Ask) -> None:
    # the API is away, or went away during the call: the next call tries again
    with suppress(httpx.HTTPError, WebSocketException, OSError):
        await customers.ask(ask)


class Customers:
    """The SDK's clients, one for each key, all on the same two connection pools."""

    def __init__(self, base_url: str, pause: Pause, pool: httpx.Client, async_pool: httpx.AsyncClient) -> None:
        self._pause = pause
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="customer")
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._client: Callable[[str], ElevenLabs] = cache(partial(_client, base_url, pool))
        self._async_client: Callable[[str], AsyncElevenLabs] = cache(partial(_async_client, base_url, async_pool))

    async def ask(self, ask: Ask) -> Answer:
        """One call, by the client that the plan says."""
        async with self._turns:
            try:
                if ask.asynchronous:
                    return await self._ask_async(ask)
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, ask)
            except ApiError as refusal:
                return _answer(ask, refusal.status_code or 0, refusal.headers or {}, 0)

    def close(self) -> None:
        self._threads.shutdown()

    def _ask(self, ask: Ask) -> Answer:
        client = self._client(ask.api_key)
        if ask.way == "voices":
            voices = client.voices.with_raw_response.get_all(request_options=_ONCE)
            return _answer(ask, 200, voices.headers, 0)
        if ask.way == "realtime":
            return self._talk(client, ask)
        speech = client.text_to_speech.with_raw_response
        call = speech.convert if ask.way == "convert" else speech.stream
        with call(ask.voice, text=ask.text, model_id=ask.model, request_options=_ONCE) as response:
            received = 0
            for chunk in response.data:
                received += len(chunk)
                if ask.fault == "hang_up":
                    break
            return _answer(ask, response.status_code, response.headers, received)

    async def _ask_async(self, ask: Ask) -> Answer:
        client = self._async_client(ask.api_key)
        if ask.way == "voices":
            voices = await client.voices.with_raw_response.get_all(request_options=_ONCE)
            return _answer(ask, 200, voices.headers, 0)
        speech = client.text_to_speech.with_raw_response
        call = speech.convert if ask.way == "convert" else speech.stream
        async with call(ask.voice, text=ask.text, model_id=ask.model, request_options=_ONCE) as response:
            received = 0
            async for chunk in response.data:
                received += len(chunk)
                if ask.fault == "hang_up":
                    break
            return _answer(ask, response.status_code, response.headers, received)

    def _talk(self, client: ElevenLabs, ask: Ask) -> Answer:
        sound = client.text_to_speech.convert_realtime(
            ask.voice, text=self._typed(ask.pieces), model_id=ask.model, output_format="pcm_22050"
        )
        return _answer(ask, 101, {}, sum(map(len, sound)))

    def _typed(self, pieces: tuple[str, ...]) -> Iterator[str]:
        for piece in pieces:
            yield piece
            self._pause()


@asynccontextmanager
async def _customers(base_url: str, pause: Pause) -> AsyncIterator[Customers]:
    with httpx.Client(timeout=_PATIENCE_SECONDS) as pool:
        async with httpx.AsyncClient(timeout=_PATIENCE_SECONDS) as async_pool:
            customers = Customers(base_url, pause, pool, async_pool)
            try:
                yield customers
            finally:
                customers.close()


def _client(base_url: str, pool: httpx.Client, api_key: str) -> ElevenLabs:
    client = ElevenLabs(base_url=base_url, api_key=api_key, httpx_client=pool)
    # the SDK takes TLS for granted here, whatever the base URL says; it has no other way to speak to plain HTTP
    client.text_to_speech._ws_base_url = base_url
    return client


def _async_client(base_url: str, pool: httpx.AsyncClient, api_key: str) -> AsyncElevenLabs:
    return AsyncElevenLabs(base_url=base_url, api_key=api_key, httpx_client=pool)


def _answer(ask: Ask, status: int, headers: dict[str, str], received_bytes: int) -> Answer:
    cost = headers.get("character-cost")
    return Answer(ask, status, headers.get("request-id", ""), Decimal(cost) if cost else None, received_bytes)


def _ask(chance: random.Random) -> Ask:
    """Draw one call."""
    account = chance.choice(list(ACCOUNTS.values()))
    way, model = _draw(chance, _WAYS), _draw(chance, _MODELS)
    voice = _draw(chance, _VOICES[account.workspace])
    fault: Fault = _draw(chance, _FAULTS) if way in ("convert", "stream") else "none"
    spoken = SENTENCES[VOICES[voice].language]
    pieces: tuple[str, ...] = tuple(f"{sentence} " for sentence in chance.choices(spoken, k=chance.randint(1, 3)))
    if fault == "no_text" or way == "voices":
        pieces = ()
    if fault == "hang_up":
        way, pieces = "stream", (" ".join(spoken * _HANG_UP_CHARACTERS)[:_HANG_UP_CHARACTERS],)
    if way == "realtime":
        pieces = tuple(f"{word} " for word in "".join(pieces).split())
    return Ask(
        way=way,
        fault=fault,
        asynchronous=way != "realtime" and chance.random() < 0.5,  # the SDK's realtime client is a synchronous one
        account=None if fault == "wrong_key" else account,
        voice="no-such-voice" if fault == "unknown_voice" else voice,
        model=model,
        pieces=pieces,
    )


def _draw(chance: random.Random, weights: dict[T, int]) -> T:
    return chance.choices(list(weights), list(weights.values()))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Live traffic for the speech API, until Ctrl-C.")
    parser.add_argument("base_url", help="where the API is, such as http://127.0.0.1:8000")
    parser.add_argument("--calls-per-second", type=float, default=3.0, help="on average (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed asks the same (default: now)")
    arguments = parser.parse_args()
    stop = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: stop.set())
    run(arguments.base_url, stop, arguments.calls_per_second, arguments.seed)


if __name__ == "__main__":
    main()
