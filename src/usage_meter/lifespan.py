"""The life of an ASGI server's process: the recorder opens when it begins, and has sent everything when it ends.

Without this the last events would wait in the journal for the next process: uvicorn ends by the very signal that it
was sent, so that Python's exit hooks do not run. An app that knows no lifespan gets one from here.
"""

import asyncio

from usage_meter.asgi_call import App, Message, Receive, Scope, Send
from usage_meter.call import Recorder


class Lifespan:
    """Stands between the app and the server; what they say to each other passes unchanged."""

    def __init__(self, recorder: Recorder, receive: Receive, send: Send) -> None:
        self._recorder = recorder
        self._receive = receive
        self._send = send
        self._asked = False  # the app has asked for a message: it knows what a lifespan is
        self._ending = False
        self._closed = False

    async def run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if self._asked:  # its own start or end has failed
                raise
        if not self._asked:
            await self._stand_in()
        elif self._ending and not self._closed:  # the app leaves without a word
            await self._close()

    async def receive(self) -> Message:
        """The app's `receive`."""
        self._asked = True
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            self._recorder.open()
        elif message["type"] == "lifespan.shutdown":
            self._ending = True
        return message

    async def send(self, message: Message) -> None:
        """The app's `send`. The server may end the process as soon as it knows that the app is done."""
        if self._ending:
            await self._close()
        await self._send(message)

    async def _stand_in(self) -> None:
        while not self._ending:
            message = await self.receive()
            await self.send({"type": f"{message['type']}.complete"})

    async def _close(self) -> None:
        self._closed = True
        try:
            await asyncio.to_thread(self._recorder.close)
        except RuntimeError:  # another kind of event loop: nothing else runs in it any more, so it may wait
            self._recorder.close()
