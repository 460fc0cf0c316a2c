"""Webhooks sent by httpx: each request of a client is an attempt, recorded with what came of it.

    client = httpx.Client(transport=UsageMeterTransport(meter))              # or around a transport of your own
    client = httpx.AsyncClient(transport=AsyncUsageMeterTransport(meter))

Within `with meter.webhook(...)` the request belongs to that attempt, which has a route, a caller and a number.
"""

from asyncio import CancelledError
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import httpx

from usage_meter.call import Metered
from usage_meter.webhook import Exchange


class UsageMeterTransport(httpx.BaseTransport):
    """Around another transport, by default httpx's own."""

    def __init__(self, meter: Metered, transport: httpx.BaseTransport | None = None) -> None:
        self._meter = meter
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(self._meter, request.method, request.url, request.headers)
        try:
            response = self._transport.handle_request(request)
        except BaseException as error:
            exchange.ended(error)
            raise
        exchange.answered(response.status_code)
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Stream(response.stream, exchange)
        return response

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        self._transport.close()


class AsyncUsageMeterTransport(httpx.AsyncBaseTransport):
    """The same for an AsyncClient."""

    def __init__(self, meter: Metered, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._meter = meter
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(self._meter, request.method, request.url, request.headers)
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            exchange.ended(error)
            raise
        exchange.answered(response.status_code)
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _AsyncStream(response.stream, exchange)
        return response

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Stream(httpx.SyncByteStream):
    """A response's body. The attempt ends when the client closes it, which httpx does once it has read it, or when
    nobody holds it any longer."""

    def __init__(self, stream: httpx.SyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._exchange.received(len(chunk))
                yield chunk
        except Exception as error:
            self._exchange.ended(error)
            raise

    def close(self) -> None:
        self._exchange.ended()
        self._stream.close()

    def __del__(self) -> None:
        self._exchange.dropped()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._exchange.received(len(chunk))
                yield chunk
        except (Exception, CancelledError) as error:
            self._exchange.ended(error)
            raise

    async def aclose(self) -> None:
        self._exchange.ended()
        await self._stream.aclose()

    def __del__(self) -> None:
        self._exchange.dropped()
