"""The speech API as its customers see it, through the official SDK, and what its meter records of them."""

import base64
import io
import json
import wave
from decimal import Decimal
from typing import Any

import httpx
import pytest
from elevenlabs.core.api_error import ApiError
from elevenlabs.errors import UnprocessableEntityError
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from examples.speech_api.accounts import plain
from tests.examples.conftest import ALICE, SpeechAPI

SENTENCE = "Grüße aus Köln, schöne Straße!"  # 30 characters, 35 bytes
FLASH = "eleven_flash_v2_5"


def realtime(api: SpeechAPI, path: str = "en-us/stream-input", api_key: str = ALICE) -> ClientConnection:
    url = f"{api.base_url.replace('http', 'ws')}/v1/text-to-speech/{path}"
    return connect(url, additional_headers={"xi-api-key": api_key})


def detail_of(refusal: ApiError) -> dict[str, Any]:
    detail: dict[str, Any] = refusal.body["detail"]
    return detail


def test_the_sdk_reads_the_voices_and_models(speech_api: SpeechAPI) -> None:
    client = speech_api.client()

    voices = {voice.voice_id: voice for voice in client.voices.get_all().voices}
    models = {model.model_id: model for model in client.models.list()}

    assert (voices["de"].name, voices["de"].category) == ("Hanna", "premade")
    assert voices["de"].labels == {"language": "de", "accent": "standard", "gender": "female"}
    rates = models[FLASH].model_rates
    assert rates
    assert rates.character_cost_multiplier == 0.5


def test_a_call_is_answered_with_sound_and_its_price_and_recorded_exactly(speech_api: SpeechAPI) -> None:
    with speech_api.client().text_to_speech.with_raw_response.convert("de", text=SENTENCE) as answer:
        sound = b"".join(answer.data)

    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["character-cost"] == "30"
    with wave.open(io.BytesIO(sound)) as wav:
        seconds = wav.getnframes() / wav.getframerate()
    event = speech_api.event(answer.headers["request-id"])
    assert (event.workspace, event.user, event.groups) == ("acme", "alice", ("product", "leads"))
    assert (event.api_key_hint, event.region, event.attributes) == (ALICE[-4:], "eu", {"tier": "gold"})
    assert (event.product, event.voice, event.model) == ("text_to_speech", "de", "eleven_multilingual_v2")
    assert (event.method, event.route) == ("POST", "/v1/text-to-speech/{voice_id}")
    assert (event.path, event.status, event.outcome) == ("/v1/text-to-speech/de", 200, "ok")
    assert (event.credits_micro, event.response_bytes) == (30_000_000, len(sound))
    assert event.quantities == {"characters": 30, "audio_seconds": seconds}


def test_a_flash_model_costs_half_to_the_last_decimal(speech_api: SpeechAPI) -> None:
    text = SENTENCE[:29]
    with speech_api.client().text_to_speech.with_raw_response.convert("de", text=text, model_id=FLASH) as answer:
        assert answer.headers["character-cost"] == "14.5"
    assert speech_api.event(answer.headers["request-id"]).credits_micro == 14_500_000


def test_a_stream_is_the_same_sound_in_chunks(speech_api: SpeechAPI) -> None:
    client = speech_api.client()
    whole = b"".join(client.text_to_speech.convert("de", text=SENTENCE, output_format="pcm_22050"))
    assert whole[:4] != b"RIFF"

    with client.text_to_speech.with_raw_response.stream("de", text=SENTENCE) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        streamed = b"".join(answer.data)

    assert streamed[:4] == b"RIFF"
    assert len(streamed) - 44 == pytest.approx(len(whole), rel=0.02)  # no two readings are quite the same
    event = speech_api.event(answer.headers["request-id"])
    assert event.response_bytes == len(streamed)
    assert event.quantities["audio_seconds"] == (len(streamed) - 44) / 44_100


def test_speech_can_be_asked_for_faster(speech_api: SpeechAPI) -> None:
    def length(speed: float | None) -> int:
        body = {"text": SENTENCE, "model_id": None, "voice_settings": {"speed": speed}}
        url = f"{speech_api.base_url}/v1/text-to-speech/de"
        return len(httpx.post(url, json=body, headers={"xi-api-key": ALICE}).raise_for_status().content)

    assert length(1.2) < length(None) < length(0.8)


def test_who_hangs_up_in_the_middle_has_paid_and_is_recorded_as_gone(speech_api: SpeechAPI) -> None:
    text = (SENTENCE * 167)[:5_000]  # 13 MB of sound, more than any socket holds back
    with speech_api.client().text_to_speech.with_raw_response.stream("de", text=text) as answer:
        next(answer.data)

    event = speech_api.event(answer.headers["request-id"])
    assert (event.outcome, event.status, event.credits_micro) == ("disconnected", 200, 5_000_000_000)
    assert 0 < event.quantities["audio_seconds"] < 5_000 / 20


def test_a_wrong_key_is_refused_as_elevenlabs_does_it(speech_api: SpeechAPI) -> None:
    with pytest.raises(ApiError) as refusal:
        speech_api.client("sk_nobody_knows_this_key").voices.get_all()

    request_id = (refusal.value.headers or {})["request-id"]
    assert refusal.value.status_code == 401
    assert detail_of(refusal.value) == {
        "type": "authentication_error",
        "code": "invalid_api_key",
        "message": "Invalid API key.",
        "status": "invalid_api_key",
        "request_id": request_id,
        "param": "xi-api-key",
    }
    event = speech_api.event(request_id)
    assert (event.status, event.outcome, event.error) == (401, "client_error", "invalid_api_key")
    assert (event.workspace, event.user, event.api_key_hint) == ("default", "", "_key")


def test_no_key_at_all_is_refused(speech_api: SpeechAPI) -> None:
    answer = httpx.get(f"{speech_api.base_url}/v1/models")

    assert answer.status_code == 401
    assert answer.json()["detail"]["code"] == "missing_api_key"


def test_an_unknown_voice_or_model_is_not_found_and_costs_nothing(speech_api: SpeechAPI) -> None:
    speech = speech_api.client().text_to_speech
    with pytest.raises(ApiError) as no_voice:
        b"".join(speech.convert("no-such-voice", text=SENTENCE))
    with pytest.raises(ApiError) as no_model:
        b"".join(speech.convert("de", text=SENTENCE, model_id="no-such-model"))

    for refusal, code in ((no_voice.value, "voice_not_found"), (no_model.value, "model_not_found")):
        assert refusal.status_code == 404
        assert (detail_of(refusal)["type"], detail_of(refusal)["code"]) == ("not_found", code)
        event = speech_api.event(detail_of(refusal)["request_id"])
        assert (event.user, event.product, event.voice, event.credits_micro) == ("alice", "text_to_speech", "", 0)


@pytest.mark.parametrize(
    ("wrong", "loc", "kind"),
    [
        ({"text": ""}, ["body", "text"], "string_too_short"),
        ({"text": "x" * 5_001}, ["body", "text"], "string_too_long"),
        ({"text": SENTENCE, "output_format": "mp3_44100_128"}, ["query", "output_format"], "literal_error"),
        ({"text": SENTENCE, "voice_settings": {"speed": 3}}, ["body", "voice_settings", "speed"], "less_than_equal"),
    ],
)
def test_bad_input_is_explained_as_fastapi_does_it_and_costs_nothing(
    speech_api: SpeechAPI, wrong: dict[str, Any], loc: list[str], kind: str
) -> None:
    with pytest.raises(UnprocessableEntityError) as refusal:
        b"".join(speech_api.client().text_to_speech.convert("de", **wrong))

    [problem] = refusal.value.body["detail"]
    assert (problem["loc"], problem["type"], set(problem)) == (loc, kind, {"loc", "msg", "type"})
    event = speech_api.event((refusal.value.headers or {})["request-id"])
    assert (event.status, event.error, event.credits_micro) == (422, "invalid_parameters", 0)


@pytest.mark.parametrize("body", [b'{"text": "cut', b'{"text": "\\ud800"}'], ids=["cut short", "half a character"])
def test_a_broken_body_is_the_clients_error(speech_api: SpeechAPI, body: bytes) -> None:
    headers = {"xi-api-key": ALICE, "content-type": "application/json"}
    answer = httpx.post(f"{speech_api.base_url}/v1/text-to-speech/de", content=body, headers=headers)

    assert answer.status_code == 422
    assert speech_api.event(answer.headers["request-id"]).outcome == "client_error"


def test_a_list_of_voices_is_a_call_like_any_other_but_free(speech_api: SpeechAPI) -> None:
    request_id = speech_api.client().voices.with_raw_response.get_all().headers["request-id"]

    event = speech_api.event(request_id)
    assert (event.user, event.route, event.product, event.credits_micro) == ("alice", "/v1/voices", "", 0)


def test_a_websocket_speaks_each_sentence_as_it_comes(speech_api: SpeechAPI) -> None:
    with realtime(speech_api, f"en-us/stream-input?model_id={FLASH}") as socket:
        assert socket.response
        request_id = socket.response.headers["request-id"]
        socket.send(json.dumps({"text": " "}))
        for piece in ("How are ", "you? ", "I am"):
            socket.send(json.dumps({"text": piece}))
        first = json.loads(socket.recv())  # before the text is at its end
        socket.send(json.dumps({"text": ""}))
        rest = [json.loads(message) for message in socket]

    assert first["isFinal"] is False
    assert len(base64.b64decode(first["audio"])) > 1_000
    assert [message["isFinal"] for message in rest] == [False] * (len(rest) - 1) + [True]
    assert rest[-1]["audio"] is None
    event = speech_api.event(request_id, ready=lambda event: event.duration_us > 0)
    sound = sum(len(base64.b64decode(message["audio"] or "")) for message in (first, *rest))
    assert (event.user, event.voice, event.model, event.outcome) == ("alice", "en-us", FLASH, "ok")
    assert event.credits_micro == len("How are you? I am") * 500_000
    assert event.quantities["audio_seconds"] == sound / 44_100


def test_flush_speaks_what_is_not_a_whole_sentence_yet(speech_api: SpeechAPI) -> None:
    with realtime(speech_api) as socket:
        socket.send(json.dumps({"text": "Hello", "flush": True}))
        assert json.loads(socket.recv())["audio"]


def test_a_websocket_is_refused_before_it_opens(speech_api: SpeechAPI) -> None:
    refused = {
        ("no-such-voice/stream-input", ALICE): (404, "voice_not_found"),
        ("en-us/stream-input", "sk_nobody_knows_this_key"): (401, "invalid_api_key"),
    }
    for (path, api_key), (status, code) in refused.items():
        with pytest.raises(InvalidStatus) as refusal, realtime(speech_api, path, api_key):
            pass
        assert refusal.value.response.status_code == status
        assert json.loads(refusal.value.response.body or b"")["detail"]["code"] == code
        event = speech_api.event(refusal.value.response.headers["request-id"])
        assert (event.status, event.outcome, event.error) == (status, "client_error", code)


@pytest.mark.parametrize(
    ("query", "message", "error"),
    [("", "this is no JSON", "invalid_message"), ("?inactivity_timeout=1", None, "input_timeout_exceeded")],
)
def test_a_websocket_that_says_nothing_of_use_is_closed_with_the_reason(
    speech_api: SpeechAPI, query: str, message: str | None, error: str
) -> None:
    with realtime(speech_api, f"en-us/stream-input{query}") as socket:
        assert socket.response
        if message:
            socket.send(message)
        assert json.loads(socket.recv())["error"] == error
        with pytest.raises(ConnectionClosedError, match="1008"):
            socket.recv()
    event = speech_api.event(socket.response.headers["request-id"], ready=lambda event: bool(event.error))
    assert (event.outcome, event.error, event.credits_micro) == ("client_error", error, 0)


def test_a_price_is_shown_without_needless_zeros() -> None:
    shown = {"30": "30", "30.0": "30", "14.50": "14.5", "1E+3": "1000", "0.125": "0.125", "0.0": "0"}
    assert {price: plain(Decimal(price)) for price in shown} == shown
