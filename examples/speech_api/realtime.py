"""A WebSocket session that speaks text as it comes, by ElevenLabs' protocol.

The client sends `{"text": …}` in pieces of any size, the server answers `{"audio": base64, "isFinal": false}` as soon
as a sentence is whole; an empty text ends the session with `{"audio": null, "isFinal": true}`. What has been sent is
charged when it comes, so a client that walks away has paid for it.
"""

import asyncio
import base64
import re

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from examples.speech_api.accounts import OPENER, Model, Voice, billable
from examples.speech_api.engine import Engine
from examples.speech_api.messages import TextMessage, speed
from usage_meter import usage

_SENTENCE_END = re.compile(r"[.!?…。！？।](?=\s|$)")
_LONGEST_WAIT = 500  # characters without an end of sentence that are spoken all the same, so that memory is bounded
_POLICY_VIOLATION = 1008


class Session:
    """One session, with what it has heard and said so far."""

    def __init__(self, socket: WebSocket, engine: Engine, voice: Voice, model: Model) -> None:
        """`socket` has been accepted."""
        self._socket = socket
        self._engine = engine
        self._voice = voice
        self._model = model
        self._speed = 1.0
        self._unspoken = ""
        self._characters = 0
        self._pcm_bytes = 0

    async def run(self, inactivity_seconds: float) -> None:
        """Until the client ends it, leaves, says nothing for too long, or something that is not a message."""
        try:
            while message := await self._next(inactivity_seconds):
                await self._take(message)
            await self._speak(self._unspoken)
            await self._socket.send_json({"audio": None, "isFinal": True})
            await self._socket.close()
        except TimeoutError:
            await self._refuse("input_timeout_exceeded", f"No text has come for {inactivity_seconds:g} seconds.")
        except ValidationError:
            await self._refuse("invalid_message", 'A message is a JSON object such as {"text": "Hello. "}.')
        except WebSocketDisconnect:
            pass  # the client has gone; there is nobody to tell

    async def _next(self, inactivity_seconds: float) -> TextMessage | None:
        async with asyncio.timeout(inactivity_seconds):
            message = TextMessage.model_validate_json(await self._socket.receive_text())
        return message if message.text else None

    async def _take(self, message: TextMessage) -> None:
        if message.voice_settings:
            self._speed = speed(message.voice_settings)
        self._characters += billable([message.text])
        usage.set(credits=self._model.price(self._characters), characters=self._characters)
        self._unspoken += message.text if message.text != OPENER else ""
        await self._speak(self._whole_sentences(everything=bool(message.flush)))

    def _whole_sentences(self, everything: bool) -> str:
        """Take from what is unspoken as much as ends a sentence."""
        ends = [end.end() for end in _SENTENCE_END.finditer(self._unspoken)]
        cut = len(self._unspoken) if everything or len(self._unspoken) > _LONGEST_WAIT else max(ends, default=0)
        ready, self._unspoken = self._unspoken[:cut], self._unspoken[cut:]
        return ready

    async def _speak(self, text: str) -> None:
        if not text.strip():
            return
        words_per_minute = round(self._model.words_per_minute * self._speed)
        async with usage.busy():  # an open socket that waits for text is no concurrent call
            async for chunk in self._engine.stream(text, self._voice.engine_voice, words_per_minute):
                await self._socket.send_json({"audio": base64.b64encode(chunk).decode(), "isFinal": False})
                self._pcm_bytes += len(chunk)
                usage.set(audio_seconds=self._engine.seconds(self._pcm_bytes))

    async def _refuse(self, error: str, message: str) -> None:
        usage.set(error=error)
        await self._socket.send_json({"message": message, "error": error, "code": _POLICY_VIOLATION})
        await self._socket.close(_POLICY_VIOLATION, error)
