"""The customers: the same plan for the same seed, and what they were told is what was recorded, call by call."""

import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path

import httpx
import pytest

from examples.speech_api.accounts import ACCOUNTS
from examples.speech_api.traffic import Answer, plan, run, speak
from tests.conftest import RedisServer, free_port, wait_until
from tests.examples.conftest import SpeechAPI, serving
from usage_meter import Meter
from usage_meter.event import to_micro

# the SDK asks websockets how a connection ended by names that websockets has retired
pytestmark = pytest.mark.filterwarnings(r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning")

CALLS = 120
FAST = 50  # calls a second
SEED = 7


def test_the_plan_is_the_same_for_the_same_seed_and_covers_everybody_and_every_fault() -> None:
    asks = list(islice(plan(SEED), 500))

    assert asks == list(islice(plan(SEED), 500))
    assert asks != list(islice(plan(SEED + 1), 500))
    assert {ask.account.user for ask in asks if ask.account} == {account.user for account in ACCOUNTS.values()}
    assert {ask.fault for ask in asks} == {"none", "wrong_key", "unknown_voice", "no_text", "hang_up"}
    assert {ask.way for ask in asks} == {"convert", "stream", "realtime", "voices"}
    assert any(not ask.text.isascii() for ask in asks)


def test_what_customers_were_told_is_what_was_planned_and_what_was_recorded(speech_api: SpeechAPI) -> None:
    answers = speak(speech_api.base_url, CALLS, SEED)

    assert [answer.ask for answer in answers] == list(islice(plan(SEED), CALLS))
    assert [answer.status for answer in answers] == [answer.ask.status for answer in answers]
    over_http = [answer for answer in answers if answer.ask.way != "realtime"]
    told = sum((answer.character_cost or Decimal(0) for answer in over_http), Decimal(0))
    assert told == sum(answer.ask.credits for answer in over_http) > 1_000
    assert all(answer.received_bytes > 1_000 for answer in answers if answer.ask.characters)

    wait_until(lambda: len(speech_api.recorded()) >= CALLS, "every call is recorded")
    recorded = speech_api.recorded()
    for answer in over_http:
        event = recorded[answer.request_id]
        assert (event.status, event.credits_micro) == (answer.status, to_micro(answer.ask.credits))
        assert event.user == (answer.ask.account.user if answer.ask.account else "")
        assert event.outcome == outcome_of(answer)
    sessions = Counter(event.credits_micro for event in recorded.values() if event.method == "WEBSOCKET")
    assert sessions == Counter(to_micro(answer.ask.credits) for answer in answers if answer.ask.way == "realtime")


def outcome_of(answer: Answer) -> str:
    if answer.ask.fault == "hang_up":
        return "disconnected"
    return "client_error" if answer.status >= 400 else "ok"


@pytest.fixture
def unvisited(redis_server: RedisServer, tmp_path: Path) -> Iterator[SpeechAPI]:
    """A speech API that nobody has called yet."""
    port = free_port()
    meter = Meter(redis_url=redis_server.url, journal_dir=tmp_path / "journal")
    with serving(meter, port), httpx.Client() as pool:
        yield SpeechAPI(f"http://127.0.0.1:{port}", redis_server, pool)


def test_traffic_goes_on_until_it_is_told_to_stop(unvisited: SpeechAPI) -> None:
    stop = threading.Event()
    traffic = threading.Thread(target=run, args=(unvisited.base_url, stop, FAST))
    traffic.start()
    try:
        wait_until(lambda: len(unvisited.recorded()) > 10, "calls come in")
    finally:
        stop.set()
        traffic.join(timeout=20)
    assert not traffic.is_alive()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_traffic_as_a_process_ends_without_a_word_when_asked_to(unvisited: SpeechAPI, ending: signal.Signals) -> None:
    command = [sys.executable, "-m", "examples.speech_api.traffic", unvisited.base_url, "--calls-per-second", str(FAST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as traffic:
        try:
            wait_until(unvisited.recorded, "calls come in")
            traffic.send_signal(ending)
            said, _ = traffic.communicate(timeout=20)
        finally:
            traffic.kill()
    assert (traffic.returncode, said) == (0, b"")


def test_traffic_outlives_an_api_that_breaks_its_calls(
    tmp_path: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """First somebody hangs up on every customer, then nobody is there at all, then the API is."""
    port, stop = free_port(), threading.Event()
    rude = socket.create_server(("127.0.0.1", port))
    address = f"http://127.0.0.1:{port}"
    traffic = threading.Thread(target=run, args=(address, stop, FAST))
    traffic.start()
    try:
        for _ in range(8):
            rude.accept()[0].close()
        rude.close()
        with serving(Meter(redis_url=redis_server.url, journal_dir=tmp_path), port), httpx.Client() as pool:
            api = SpeechAPI(address, redis_server, pool)
            wait_until(lambda: len(api.recorded()) > 5, "calls come in")
    finally:
        stop.set()
        traffic.join(timeout=20)
    assert not traffic.is_alive()
    assert not [record for record in caplog.records if record.name == "asyncio"], "an error went unnoticed"
