"""What clients send, in ElevenLabs' shape. Fields that this engine has no use for are ignored, as unknown ones are."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from examples.speech_api.accounts import MAX_CHARACTERS

OutputFormat = Literal["wav_22050", "pcm_22050"]
"""WAV, or the same sound bare: 16 bit, mono, 22,050 samples a second. The engine makes nothing else."""

MEDIA_TYPES: dict[OutputFormat, str] = {"wav_22050": "audio/wav", "pcm_22050": "audio/pcm"}


class VoiceSettings(BaseModel):
    speed: Annotated[float | None, Field(ge=0.7, le=1.2)] = None


class SpeechRequest(BaseModel):
    """The body of a text-to-speech call. `null` is the default, because clients send it for what they leave out."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    model_id: str | None = None
    voice_settings: VoiceSettings | None = None


class TextMessage(BaseModel):
    """One message of a WebSocket session; the empty text ends it, `flush` speaks what has come so far."""

    text: Annotated[str, Field(max_length=MAX_CHARACTERS)]
    flush: bool | None = None
    voice_settings: VoiceSettings | None = None


def speed(settings: VoiceSettings | None) -> float:
    """How much faster than usual (1.0)."""
    return settings.speed if settings and settings.speed else 1.0
