"""A call travels the whole way: ElevenLabs' own SDK speaks to the example API, and the numbers are there."""

import csv
import io
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import httpx

from examples.speech_api.traffic import Answer, speak
from tests.conftest import wait_until
from tests.processes import ServiceProcess, serving, speech_api


def spoken(answers: list[Answer]) -> dict[str, Decimal]:
    """The credits that each voice has cost, by what was asked."""
    credits: dict[str, Decimal] = defaultdict(Decimal)
    for answer in answers:
        if answer.ask.credits:
            credits[answer.ask.voice] += answer.ask.credits
    return dict(credits)


def counted(service: ServiceProcess) -> dict[str, Decimal]:
    answer = service.get("/v1/usage", metric="credits", breakdown="voice", interval="day", last="7d")
    return {one["key"]["voice"]: Decimal(str(one["total"])) for one in answer["series"] if one["total"]}


def test_what_the_sdk_spoke_is_counted_exactly_and_every_call_is_found(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as service, speech_api(service.redis_url, tmp_path / "journal") as api:
        answers = speak(api, 60, seed=1)
        wait_until(lambda: service.total("requests", last="24h") >= len(answers), "every call is stored")

        assert counted(service) == spoken(answers)
        by_csv: dict[str, Decimal] = defaultdict(Decimal)
        view = {"metric": "credits", "breakdown": "voice", "interval": "day", "last": "7d"}
        for row in csv.DictReader(io.StringIO(httpx.get(f"{service.page}v1/usage.csv", params=view).text)):
            by_csv[row["voice"]] += Decimal(row["credits"])
        assert {voice: credits for voice, credits in by_csv.items() if credits} == spoken(answers)
        for answer in answers:
            if answer.request_id:
                found = service.get("/v1/requests", q=answer.request_id)["requests"]
                assert [one["request_id"] for one in found] == [answer.request_id]
                assert found[0]["status"] == answer.status


def test_kill_9_of_the_aggregator_in_the_middle_changes_no_total(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as service, speech_api(service.redis_url, tmp_path / "journal") as api:
        answers = speak(api, 25, seed=2)
        service.kill()
        answers += speak(api, 25, seed=3)  # while nobody consumes
        with serving(tmp_path / "data") as again:
            answers += speak(api, 10, seed=4)
            wait_until(lambda: again.total("requests", last="24h") >= len(answers), "every call is stored")

            assert again.total("requests", last="24h") == len(answers)
            assert counted(again) == spoken(answers)


def test_with_redis_away_the_api_answers_all_the_same(tmp_path: Path) -> None:
    with speech_api("redis://127.0.0.1:1/0", tmp_path / "journal", workers=1) as api:
        answers = speak(api, 10, seed=5)

    assert [answer.status for answer in answers] == [answer.ask.status for answer in answers]
