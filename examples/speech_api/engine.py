"""The speech engine: espeak-ng, as the `espeakng-loader` wheel carries it. The one file that speaks to the C library.

The library keeps its state in globals and is not thread-safe, so a process has one `Engine` (ask `engine()`), and one
speaker holds it at a time. It makes sound several hundred times faster than anybody listens.
"""

import asyncio
import ctypes
import struct
import threading
from collections.abc import AsyncIterator, Callable
from functools import cache, partial

import espeakng_loader  # type: ignore[import-untyped]

CHUNK_MS = 200  # the first sound is there after half a millisecond, and a chunk still is only 9 kB
SAMPLE_BYTES = 2  # 16 bit, mono
UNKNOWN_LENGTH = 0xFFFF_FFFF  # what a WAV header says when the sound is not finished yet

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: espeak_Synth returns when all is spoken
_RATE = 1  # espeakRATE, in words a minute
_UTF8 = 1  # espeakCHARS_UTF8
_CHARACTER = 1  # POS_CHARACTER
_OK = 0
_CONTINUE, _STOP = 0, 1

_Hear = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class EngineError(RuntimeError):
    """The C library refused: it is not there, or does not know the voice. The message says which."""


class Engine:
    """espeak-ng, initialised once. Sound is PCM: 16 bit, mono, `sample_rate` samples a second."""

    def __init__(self) -> None:
        library = espeakng_loader.load_library()
        if library is None:
            raise EngineError(f"the speech engine does not load from {espeakng_loader.get_library_path()}")
        self._library = _with_signatures(library)
        self._lock = threading.Lock()
        self._listener: Callable[[bytes], bool] | None = None
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, CHUNK_MS, data, 0)
        if self.sample_rate <= 0:
            raise EngineError("the speech engine does not start")
        self._callback = _Hear(self._hear)  # kept: the library holds only a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, words_per_minute: int, listener: Callable[[bytes], bool]) -> None:
        """Speak, and give each chunk to `listener` as it is made; it returns False to end the speech early.

        Blocks until all is said, and until other speakers have finished. Raises EngineError for an unknown voice.
        """
        spoken = text.replace("\0", " ").encode("utf-8", "replace") + b"\0"  # a NUL would end the C string
        with self._lock:
            if self._library.espeak_SetVoiceByName(voice.encode()) != _OK:
                raise EngineError(f"the speech engine has no voice {voice!r}")
            self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
            self._listener = listener
            try:
                self._library.espeak_Synth(spoken, len(spoken), 0, _CHARACTER, 0, _UTF8, None, None)
            finally:
                self._listener = None

    def pcm(self, text: str, voice: str, words_per_minute: int) -> bytes:
        """The whole speech at once. Blocks."""
        sound = bytearray()

        def listen(chunk: bytes) -> bool:
            sound.extend(chunk)
            return True

        self.speak(text, voice, words_per_minute, listen)
        return bytes(sound)

    async def stream(self, text: str, voice: str, words_per_minute: int) -> AsyncIterator[bytes]:
        """The speech in chunks as they are made. Whoever stops listening stops the engine.

        The engine does not wait for a slow listener, because all others wait for the engine: what is not yet taken
        waits in memory, and the limit on the text's length bounds that.
        """
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        gone = threading.Event()

        def listen(chunk: bytes) -> bool:
            if gone.is_set() or loop.is_closed():
                return False
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return True

        speech = loop.run_in_executor(None, partial(self.speak, text, voice, words_per_minute, listen))
        speech.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            while (chunk := await chunks.get()) is not None:
                yield chunk
            await speech
        finally:
            gone.set()

    def seconds(self, pcm_bytes: int) -> float:
        """How long so many bytes of sound take to listen to."""
        return pcm_bytes / (SAMPLE_BYTES * self.sample_rate)

    def wav_header(self, pcm_bytes: int = UNKNOWN_LENGTH) -> bytes:
        """What stands before `pcm_bytes` bytes of sound in a WAV file; without an argument, of a stream."""
        riff_bytes = min(pcm_bytes + 36, UNKNOWN_LENGTH)
        form = (16, 1, 1, self.sample_rate, self.sample_rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
        return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", riff_bytes, b"WAVE", b"fmt ", *form, b"data", pcm_bytes)

    def _hear(self, samples: int | None, count: int, _events: int | None) -> int:
        """Called by the library, in the speaker's thread, for each chunk; without samples at the end."""
        if not samples or count <= 0:
            return _CONTINUE
        if self._listener is None or not self._listener(ctypes.string_at(samples, count * SAMPLE_BYTES)):
            return _STOP
        return _CONTINUE


@cache
def engine() -> Engine:
    """This process's engine, started by whoever asks first."""
    return Engine()


def _with_signatures(library: ctypes.CDLL) -> ctypes.CDLL:
    """ctypes takes every argument for a C int unless told otherwise, which cuts pointers and sizes in half."""
    integer, text = ctypes.c_int, ctypes.c_char_p
    library.espeak_Initialize.argtypes = [integer, integer, text, integer]
    library.espeak_SetSynthCallback.argtypes = [_Hear]
    library.espeak_SetVoiceByName.argtypes = [text]
    library.espeak_SetParameter.argtypes = [integer, integer, integer]
    position, flags = ctypes.c_uint, ctypes.c_uint
    library.espeak_Synth.argtypes = [
        text,
        ctypes.c_size_t,
        position,
        integer,
        position,
        flags,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_void_p,
    ]
    return library
