"""The real engine: what it says is sound, it says it piece by piece, and speakers do not disturb each other."""

import io
import wave
from concurrent.futures import ThreadPoolExecutor

import pytest

from examples.speech_api.accounts import VOICES
from examples.speech_api.engine import Engine, EngineError, engine
from examples.speech_api.sentences import SENTENCES

SAME = 0.02  # the engine breathes: two readings of one text differ by some hundredths of a second
SENTENCE = "The harbour lay quiet, and nobody had seen the ship come in."


@pytest.fixture
def speaker() -> Engine:
    return engine()


def test_a_sentence_becomes_a_wav_file_of_a_plausible_length(speaker: Engine) -> None:
    pcm = speaker.pcm(SENTENCE, "en-us", 165)

    with wave.open(io.BytesIO(speaker.wav_header(len(pcm)) + pcm)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 22_050)
        seconds = sound.getnframes() / sound.getframerate()
        samples = memoryview(sound.readframes(sound.getnframes())).cast("h")
    assert len(SENTENCE) / 25 < seconds < len(SENTENCE) / 8
    assert seconds == speaker.seconds(len(pcm))
    assert max(samples) > 3_000, "nobody is heard"


@pytest.mark.parametrize("voice_id", VOICES)
def test_every_voice_says_the_sentences_of_its_language(speaker: Engine, voice_id: str) -> None:
    voice = VOICES[voice_id]
    for sentence in SENTENCES[voice.language]:
        seconds = speaker.seconds(len(speaker.pcm(sentence, voice.engine_voice, 165)))
        assert len(sentence) / 30 < seconds < len(sentence) / 2


def test_more_words_a_minute_take_less_time(speaker: Engine) -> None:
    assert len(speaker.pcm(SENTENCE, "en-us", 250)) < len(speaker.pcm(SENTENCE, "en-us", 150))


async def test_the_stream_is_the_same_sound_in_pieces(speaker: Engine) -> None:
    pieces = [piece async for piece in speaker.stream(SENTENCE, "en-us", 165)]

    assert len(pieces) > 10
    assert len(b"".join(pieces)) == pytest.approx(len(speaker.pcm(SENTENCE, "en-us", 165)), rel=SAME)


def test_a_listener_who_leaves_ends_the_speech(speaker: Engine) -> None:
    heard: list[bytes] = []

    def listen(chunk: bytes) -> bool:
        heard.append(chunk)
        return len(heard) < 3

    speaker.speak(SENTENCE * 20, "en-us", 165, listen)

    assert len(heard) == 3
    assert speaker.pcm(SENTENCE, "en-us", 165), "the next speaker is heard again"


async def test_whoever_closes_the_stream_frees_the_engine(speaker: Engine) -> None:
    stream = speaker.stream(SENTENCE * 80, "en-us", 165)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]

    assert speaker.pcm(SENTENCE, "en-us", 165)


def test_speakers_at_the_same_time_each_say_their_own(speaker: Engine) -> None:
    orders = [(SENTENCE * (1 + number % 3), voice) for number in range(6) for voice in ("en-us", "de", "hi")]
    alone = [len(speaker.pcm(text, voice, 165)) for text, voice in orders]

    def say(order: tuple[str, str]) -> int:
        text, voice = order
        return len(speaker.pcm(text, voice, 165))

    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(say, orders))

    assert together == [pytest.approx(length, rel=SAME) for length in alone]


def test_text_after_a_nul_is_spoken_too(speaker: Engine) -> None:
    assert len(speaker.pcm(f"Hello\0{SENTENCE}", "en-us", 165)) > len(speaker.pcm(SENTENCE, "en-us", 165))


def test_an_unknown_voice_is_named_in_the_error(speaker: Engine) -> None:
    with pytest.raises(EngineError, match="'klingon-f9'"):
        speaker.pcm(SENTENCE, "klingon-f9", 165)
