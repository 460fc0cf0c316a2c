"""How the made-up users of `accounts` behave: when they call, for what, and how it ends. Tables, nothing else."""

from dataclasses import dataclass

from usage_meter.event import MICRO, Outcome

# Calls by local hour, 0 to 23. Only the proportions count.
RHYTHMS: dict[str, tuple[int, ...]] = {
    "office": (1, 1, 1, 1, 1, 2, 6, 20, 60, 90, 100, 95, 60, 80, 95, 85, 65, 35, 15, 8, 5, 4, 2, 1),
    "evening": (25, 12, 5, 3, 2, 2, 5, 10, 15, 18, 20, 22, 28, 28, 30, 34, 42, 55, 75, 95, 100, 90, 70, 45),
    "night": (2, 90, 100, 95, 20, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    "always": (30, 25, 22, 20, 22, 28, 40, 55, 70, 80, 85, 85, 80, 80, 82, 80, 78, 76, 75, 72, 65, 55, 45, 36),
}


@dataclass(frozen=True, slots=True)
class Habit:
    """How one API key is used: calls on a weekday, when, how much of that at a weekend, and for what."""

    calls: int
    rhythm: str
    weekend: float
    services: dict[str, int]
    voices: dict[str, int]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A call as this company offers it. `size` is the median number of `unit`s in a call: what is paid for."""

    product: str
    method: str = "POST"
    route: str
    ok: int = 200
    """The status of a call that went well."""
    models: dict[str, int]
    unit: str
    size: float
    credits_micro: int = 0
    """For each unit; the models of text to speech have prices of their own."""
    audio_seconds: float = 1.0
    """For each unit."""
    request_bytes: int = 0
    """For each unit, and so on."""
    response_bytes: int = 0
    work_ms: float
    """From the first byte on."""
    first_byte_ms: float
    """For each call."""
    webhook: bool = False
    """Whether its result is delivered by a webhook as well."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How a call ends, and how often."""

    often: int
    status: int
    outcome: Outcome
    error: str = ""
    charged: bool = False


_TTS = "/v1/text-to-speech/{voice_id}"
_TTS_MODELS = {"eleven_multilingual_v2": 55, "eleven_flash_v2_5": 38, "eleven_v3": 7}
_SPOKEN = 1 / 14.5  # seconds for a character, as fast as the engine speaks
_PCM = 44_100  # bytes for a second of its sound
_UPLOAD = 16_000  # bytes for a second of the clients' sound: they compress it
_SPOKEN_BYTES = round(_PCM * _SPOKEN)

SERVICES = {
    "speech": Service(
        product="text_to_speech",
        route=_TTS,
        models=_TTS_MODELS,
        unit="characters",
        size=180,
        audio_seconds=_SPOKEN,
        request_bytes=1,
        response_bytes=_SPOKEN_BYTES,
        first_byte_ms=240,
        work_ms=0.2,
    ),
    "stream": Service(
        product="text_to_speech",
        route=f"{_TTS}/stream",
        models=_TTS_MODELS,
        unit="characters",
        size=220,
        audio_seconds=_SPOKEN,
        request_bytes=1,
        response_bytes=_SPOKEN_BYTES,
        first_byte_ms=110,
        work_ms=4,
    ),
    "live": Service(
        product="text_to_speech",
        method="WEBSOCKET",
        ok=101,
        route=f"{_TTS}/stream-input",
        models={"eleven_flash_v2_5": 1},
        unit="characters",
        size=600,
        audio_seconds=_SPOKEN,
        request_bytes=6,
        response_bytes=round(_SPOKEN_BYTES * 4 / 3),
        first_byte_ms=80,
        work_ms=60,
    ),
    "transcript": Service(
        product="speech_to_text",
        route="/v1/speech-to-text",
        models={"scribe_v2": 1},
        unit="audio_seconds",
        size=95,
        credits_micro=2 * MICRO,
        request_bytes=_UPLOAD,
        response_bytes=15,
        first_byte_ms=600,
        work_ms=25,
        webhook=True,
    ),
    "sound": Service(
        product="sound_effects",
        route="/v1/sound-generation",
        models={"eleven_text_to_sound_v2": 1},
        unit="audio_seconds",
        size=4,
        credits_micro=40 * MICRO,
        request_bytes=20,
        response_bytes=_PCM,
        first_byte_ms=900,
        work_ms=250,
    ),
    "changer": Service(
        product="voice_changer",
        route="/v1/speech-to-speech/{voice_id}",
        models={"eleven_multilingual_sts_v2": 1},
        unit="audio_seconds",
        size=25,
        credits_micro=16_666_667,  # a thousand credits a minute
        request_bytes=_UPLOAD,
        response_bytes=_PCM,
        first_byte_ms=400,
        work_ms=40,
    ),
    "voices": Service(
        product="",
        method="GET",
        route="/v1/voices",
        models={"": 1},
        unit="",
        size=0,
        first_byte_ms=4,
        work_ms=0,
    ),
}

HABITS = {
    "sk_acme_alice_website_7f3a": Habit(
        520, "always", 0.8, {"stream": 70, "speech": 20, "voices": 10}, {"en-us": 55, "de": 30, "fr": 15}, "website"
    ),
    "sk_acme_alice_notebook_c1d8": Habit(
        60, "office", 0.1, {"speech": 60, "sound": 25, "voices": 15}, {"en-us": 60, "es": 40}, "api"
    ),
    "sk_acme_bob_callcentre_52be": Habit(
        760, "office", 0.35, {"live": 45, "stream": 35, "transcript": 20}, {"de": 70, "pl": 20, "en-us": 10}, "api"
    ),
    "sk_acme_carol_audiobooks_e690": Habit(
        180, "office", 0.5, {"speech": 75, "sound": 10, "changer": 15}, {"en-gb": 50, "de": 30, "fr": 20}, "studio"
    ),
    "sk_acme_gerd_prototypes_1b27": Habit(
        40, "evening", 1.2, {"speech": 50, "stream": 30, "voices": 20}, {"en-us": 30, "cmn": 40, "hi": 30}, "api"
    ),
    "sk_globex_dinesh_games_0a4f": Habit(
        640, "evening", 1.6, {"stream": 55, "changer": 25, "sound": 20}, {"en-us": 50, "hi": 30, "cmn": 20}, "api"
    ),
    "sk_globex_esha_learning_b83d": Habit(
        430,
        "office",
        0.5,
        {"speech": 55, "stream": 30, "transcript": 10, "voices": 5},
        {"hi": 65, "en-gb": 35},
        "website",
    ),
    "sk_globex_farid_nightly_94c7": Habit(300, "night", 1.0, {"speech": 60, "transcript": 40}, {"hi": 1}, "batch"),
    "sk_globex_hema_captions_6d05": Habit(
        190, "office", 0.3, {"transcript": 60, "speech": 40}, {"hi": 60, "en-gb": 40}, "api"
    ),
}

_OK = Fate(963, 200, "ok", charged=True)
_TOO_MANY = Fate(7, 429, "client_error", "concurrent_limit_exceeded")
_BUSY = "system_busy"

FATES = (
    _OK,
    _TOO_MANY,
    Fate(8, 200, "disconnected", charged=True),
    Fate(10, 422, "client_error", "invalid_parameters"),
    Fate(6, 404, "client_error", "voice_not_found"),
    Fate(3, 500, "exception", "EngineError"),
    Fate(3, 503, "server_error", _BUSY),
)
"""Of ordinary calls."""

INCIDENT_FATES = (Fate(700, 200, "ok", charged=True), Fate(280, 503, "server_error", _BUSY), _TOO_MANY)
"""Of calls while something is broken."""

DELIVERIES = (
    Fate(965, 200, "ok"),
    Fate(25, 500, "server_error"),
    Fate(10, 0, "exception", "ConnectTimeout"),
)
"""Of webhooks."""
