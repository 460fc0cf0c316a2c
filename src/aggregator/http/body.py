"""A request's body: whole, bounded, and unpacked. The length that a client declares is not trusted, nor is what its
gzip unpacks to: a body is refused as soon as it grows too large.
"""

import zlib
from typing import Any

import msgspec
from fastapi import Request

from aggregator.errors import AggregatorError, Problem, QueryError

MAX_BYTES = 16 * 1024 * 1024  # of one request, unpacked: some 30,000 events

_GZIP_WINDOW = 31  # zlib's way to ask for a gzip header
_GZIP = ("gzip", "x-gzip")


class BodyTooLargeError(AggregatorError):
    """More than one request may bring."""

    def __init__(self) -> None:
        super().__init__(f"the body is larger than {MAX_BYTES} bytes (unpacked): send it in several requests")


class UnsupportedBodyError(AggregatorError):
    """A media type or a content coding that is not taken here; the message says which are."""


class BrokenBodyError(AggregatorError):
    """A body that is not what its headers say."""


async def body_of(request: Request) -> bytes:
    """The whole body, without its content coding. Raises BodyTooLargeError, UnsupportedBodyError, BrokenBodyError."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return await _plain(request)
    if coding in _GZIP:
        return await _unpacked(request)
    raise UnsupportedBodyError(f"Content-Encoding '{coding[:60]}' is not taken here: send gzip, or none")


async def _plain(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise BodyTooLargeError
    return bytes(body)


async def _unpacked(request: Request) -> bytes:
    body, inflater = bytearray(), zlib.decompressobj(wbits=_GZIP_WINDOW)
    async for chunk in request.stream():
        rest = chunk
        while rest:
            if inflater.eof:  # a gzip file may have several members
                inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
            try:
                body += inflater.decompress(rest, MAX_BYTES + 1 - len(body))
            except zlib.error as error:
                raise BrokenBodyError(f"the body is not gzip, as its Content-Encoding says: {error}") from error
            if len(body) > MAX_BYTES:
                raise BodyTooLargeError
            rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not inflater.eof:
        raise BrokenBodyError("the body ends in the middle of its gzip data")
    return bytes(body)


def decoded(decoder: "msgspec.json.Decoder[Any]", body: bytes, place: str = "") -> Any:
    """What the JSON says, checked. Raises QueryError that names the place in the body, such as `[3].time`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise QueryError([invalid(error, place)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError([fault(place, f"is not JSON: {error}", "json_invalid")]) from error


def invalid(error: msgspec.ValidationError, place: str = "") -> Problem:
    """What is wrong with JSON that is not what is asked for; `place` is where in the body it stands."""
    message, _, where = str(error).partition(" - at `$")
    return fault(joined(place, where.rstrip("`").removeprefix(".")), message)


def fault(place: str, message: str, type: str = "value_error") -> Problem:
    """One fault of a body."""
    where = place or "body"
    return Problem(where, message, type, ("body", where))


def joined(place: str, field: str) -> str:
    """`[3].time`, `line 4.time`, `time`."""
    return ".".join(filter(None, (place, field))) if not field.startswith("[") else place + field
