"""The customers: the same plan for the same seed, and what they were told is what was recorded, call by call."""

import threading
from collections import Counter
from decimal import Decimal
from itertools import islice

import pytest

from examples.speech_api.accounts import ACCOUNTS
from examples.speech_api.traffic import Answer, plan, run, speak
from tests.conftest import wait_until
from tests.examples.conftest import SpeechAPI
from usage_meter.event import to_micro

# the SDK asks websockets for a connection's end by a name that websockets has retired
pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning")

CALLS = 120
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


def test_traffic_goes_on_until_it_is_told_to_stop(speech_api: SpeechAPI) -> None:
    before, stop = len(speech_api.recorded()), threading.Event()
    traffic = threading.Thread(target=run, args=(speech_api.base_url, stop), kwargs={"calls_per_second": 50})
    traffic.start()
    try:
        wait_until(lambda: len(speech_api.recorded()) > before + 10, "calls come in")
    finally:
        stop.set()
        traffic.join(timeout=20)
    assert not traffic.is_alive()
