"""The API itself: voices, models, and text to speech in one piece, as a stream and over a WebSocket.

Run it with `uvicorn examples.speech_api.app:app --factory`. What makes it metered is the middleware in `create_app`,
`usage.identify` in `authenticate` and `usage.set` where the price is known; the rest would be the same without.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from examples.speech_api import errors
from examples.speech_api.accounts import ACCOUNTS, DEFAULT_MODEL, MAX_CHARACTERS, MODELS, VOICES, Model, Voice, plain
from examples.speech_api.engine import Engine, engine
from examples.speech_api.messages import MEDIA_TYPES, OutputFormat, SpeechRequest, speed
from examples.speech_api.realtime import Session
from usage_meter import Caller, Meter, usage
from usage_meter.asgi import UsageMeterMiddleware


def app() -> FastAPI:
    """The factory for uvicorn. The meter takes its settings from USAGE_METER_*."""
    return create_app(Meter())


def create_app(meter: Meter) -> FastAPI:
    """The API, recording into `meter`, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine()  # a missing engine is told at the start, not to the first caller
        yield
        meter.close()

    api = FastAPI(title="Speech API", lifespan=lifespan)
    api.add_middleware(UsageMeterMiddleware, meter=meter)
    errors.add_handlers(api)
    api.include_router(catalogue)
    api.include_router(speech)
    return api


async def authenticate(connection: HTTPConnection) -> None:
    """Whose key it is. Raises 401 for a missing or a wrong one."""
    errors.request_id(connection)
    api_key = connection.headers.get("xi-api-key")
    if not api_key:
        raise errors.missing_api_key()
    account = ACCOUNTS.get(api_key)
    if account is None:
        raise errors.invalid_api_key()
    usage.identify(Caller(workspace=account.workspace, user=account.user, groups=account.groups, api_key=api_key))
    usage.set(region=account.region, tier=account.tier)


async def show_request_id(request: Request, response: Response) -> None:
    response.headers["request-id"] = errors.request_id(request)


async def text_to_speech() -> None:
    """Whatever becomes of the call, it was one for this product."""
    usage.set(product="text_to_speech")


def find_voice(voice_id: str) -> Voice:
    if voice_id not in VOICES:
        raise errors.voice_not_found(voice_id)
    return VOICES[voice_id]


def find_model(model_id: str | None) -> Model:
    name = model_id or DEFAULT_MODEL
    if name not in MODELS:
        raise errors.model_not_found(name)
    return MODELS[name]


catalogue = APIRouter(prefix="/v1", dependencies=[Depends(authenticate), Depends(show_request_id)])
speech = APIRouter(
    prefix="/v1/text-to-speech/{voice_id}", dependencies=[Depends(text_to_speech), Depends(authenticate)]
)


@catalogue.get("/voices")
async def list_voices() -> dict[str, Any]:
    return {"voices": [_shown_voice(voice) for voice in VOICES.values()]}


@catalogue.get("/models")
async def list_models() -> list[dict[str, Any]]:
    return [_shown_model(model) for model in MODELS.values()]


@dataclass(frozen=True, slots=True)
class Order:
    """A text-to-speech call that will be carried out: known voice, known model, and its price is set."""

    text: str
    voice: Voice
    model: Model
    words_per_minute: int
    output_format: OutputFormat
    headers: dict[str, str]


async def order(
    request: Request, voice_id: str, body: SpeechRequest, output_format: OutputFormat = "wav_22050"
) -> Order:
    """Take the order and charge it: from here on it costs, even if the client does not stay to the end.

    Every parameter of the call is one of this function's, because FastAPI calls it only when all of them are right.
    """
    voice, model = find_voice(voice_id), find_model(body.model_id)
    credits = model.price(len(body.text))
    usage.set(voice=voice.voice_id, model=model.model_id, credits=credits, characters=len(body.text))
    words_per_minute = round(model.words_per_minute * speed(body.voice_settings))
    headers = {"request-id": errors.request_id(request), "character-cost": plain(credits)}
    return Order(body.text, voice, model, words_per_minute, output_format, headers)


Ordered = Annotated[Order, Depends(order)]


@speech.post("")
def convert(ordered: Ordered) -> Response:
    """The whole speech. A plain function, so that it runs in a thread while the engine is busy."""
    speaker = engine()
    pcm = speaker.pcm(ordered.text, ordered.voice.engine_voice, ordered.words_per_minute)
    usage.set(audio_seconds=speaker.seconds(len(pcm)))
    body = pcm if ordered.output_format == "pcm_22050" else speaker.wav_header(len(pcm)) + pcm
    return Response(body, headers=ordered.headers, media_type=MEDIA_TYPES[ordered.output_format])


@speech.post("/stream")
async def stream(ordered: Ordered) -> StreamingResponse:
    """The speech in chunks as they are made."""
    body = _chunks(engine(), ordered)
    return StreamingResponse(body, headers=ordered.headers, media_type=MEDIA_TYPES[ordered.output_format])


@speech.websocket("/stream-input")
async def stream_input(
    socket: WebSocket,
    voice_id: str,
    model_id: str | None = None,
    output_format: Literal["pcm_22050"] = "pcm_22050",
    inactivity_timeout: Annotated[int, Query(ge=1, le=180)] = 20,
) -> None:
    """Text in, speech out, as it comes (see realtime.py): always bare sound, since a WAV file has one beginning.

    What is wrong is refused before the socket is opened.
    """
    voice, model = find_voice(voice_id), find_model(model_id)
    usage.set(voice=voice.voice_id, model=model.model_id)
    await socket.accept(headers=[(b"request-id", errors.request_id(socket).encode())])
    await Session(socket, engine(), voice, model).run(inactivity_timeout)


async def _chunks(speaker: Engine, ordered: Order) -> AsyncIterator[bytes]:
    if ordered.output_format == "wav_22050":
        yield speaker.wav_header()
    sent = 0
    async for chunk in speaker.stream(ordered.text, ordered.voice.engine_voice, ordered.words_per_minute):
        sent += len(chunk)
        usage.set(audio_seconds=speaker.seconds(sent))  # now and not at the end: the client may leave at any chunk
        yield chunk


def _shown_voice(voice: Voice) -> dict[str, Any]:
    labels = {"language": voice.language, "accent": voice.accent, "gender": voice.gender}
    return {"voice_id": voice.voice_id, "name": voice.name, "category": "premade", "labels": labels}


def _shown_model(model: Model) -> dict[str, Any]:
    languages = sorted({voice.language for voice in VOICES.values()})
    return {
        "model_id": model.model_id,
        "name": model.name,
        "can_do_text_to_speech": True,
        "maximum_text_length_per_request": MAX_CHARACTERS,
        "languages": [{"language_id": language, "name": language} for language in languages],
        "model_rates": {"character_cost_multiplier": float(model.credits_per_character)},
    }
