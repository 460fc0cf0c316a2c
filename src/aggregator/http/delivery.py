"""How an answer leaves: as the kind of file that was asked for, compressed where that helps, with what may be kept of
it, and streamed without a cap.

The first two pieces of a stream are made before the headers go out: a failure up to there is a clean error, and what
has a single piece needs no stream, whose every step would wait for a thread when many ask at once. A failure behind
that breaks the connection: whoever reads must not take a part for the whole. (That shows in HTTP/1.1 and 2; a proxy in
front has to speak 1.1 to the service.)
"""

import asyncio
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import anyio
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from aggregator import export
from aggregator.formats import CSV, FORMATS, Format
from aggregator.http import caching, encoding

STALL_SECONDS = 60.0  # for a reader to take one piece (256 KiB): an export's place is not held by one who went away

JSON = "application/json"
_PACKED = tuple(one.media_type for one in FORMATS.values() if one is not CSV)  # compressed inside


@dataclass(frozen=True, slots=True)
class Label:
    """What is said of an answer: its type, the name of the file if it is one, and its tag if it may be kept."""

    media_type: str = JSON
    filename: str | None = None
    tag: str | None = None

    def headers(self) -> dict[str, str]:
        named = {"Content-Disposition": f'attachment; filename="{self.filename}"'} if self.filename else {}
        return {**caching.headers(self.tag), **named}


def file_label(format: Format, name: str, tag: str | None = None) -> Label:
    """Of a file with that name, to which the format gives the suffix."""
    return Label(format.media_type, f"{name}.{format.suffix}", tag)


def wanted(request: Request) -> Format | None:
    """The kind of file that is asked for, by the suffix of the path or else by `Accept`; None is JSON."""
    suffix = request.url.path.rpartition(".")[2]
    if suffix in FORMATS:
        return FORMATS[suffix]
    by_type = {one.media_type.partition(";")[0]: one for one in FORMATS.values()}
    for part in request.headers.get("accept", "").split(","):
        name = part.partition(";")[0].strip().lower()
        if name in by_type:
            return by_type[name]
        if name in (JSON, "*/*", "application/*"):
            return None
    return None


def json_response(request: Request, value: object, tag: str | None = None) -> Response:
    return deliver(request, Label(tag=tag), export.to_json(value))


def deliver(request: Request, label: Label, content: bytes | Iterator[bytes]) -> Response:
    """The answer to that request; 304 where its reader has it already, and then none of the content is made."""
    if caching.still_holds(label.tag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=caching.headers(label.tag))
    pieces = iter([content]) if isinstance(content, bytes) else content
    first, second = next(pieces, b""), next(pieces, None)
    leaving, headers = _joined([first, second or b""], pieces), label.headers()
    coding = None if label.media_type in _PACKED else encoding.coding(request.headers.get("accept-encoding", ""))
    if coding and len(first) >= encoding.MIN_BYTES:
        headers["Content-Encoding"] = coding
        leaving = encoding.encoded(leaving, coding)
    if second is None:
        return Response(b"".join(leaving), headers=headers, media_type=label.media_type)
    return Stream(leaving, headers, label.media_type)


def _joined(begun: Iterable[bytes], pieces: Iterator[bytes]) -> Generator[bytes]:
    yield from filter(None, begun)
    yield from pieces


class Stream(StreamingResponse):
    """Sends pieces, and sees to it that their maker is ended, whether they were all sent or not."""

    def __init__(self, pieces: Generator[bytes], headers: dict[str, str], media_type: str) -> None:
        super().__init__(pieces, headers=headers, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALL_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._pieces.close)
