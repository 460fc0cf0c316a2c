"""A look at what an ASGI server has to say next, before the app asks for it: whether the client has left."""

import asyncio
from collections import deque

from usage_meter.asgi_call import Message, Receive


class ReadAhead:
    """Reads what the app has not asked for yet, and keeps it for when it does. For event loops of asyncio."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._pending: asyncio.Future[Message] | None = None

    async def receive(self) -> Message:
        """The app's `receive`, from now on."""
        if self._kept:
            return self._kept.popleft()
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return await pending
        return await self._receive()

    async def client_left(self) -> bool:
        """Whether the server says so at once. Costs a turn or two of the event loop, which must be asyncio's."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        for _ in range(2):  # an empty body may stand before the news
            if self._pending is None:
                self._pending = asyncio.ensure_future(self._receive())
            await asyncio.sleep(0)
            if not self._pending.done():
                break
            message, self._pending = self._pending.result(), None
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                return True
            if message.get("more_body", False):
                break
        return False

    def close(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
