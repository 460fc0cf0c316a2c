"""The usage event and its wire format: the one contract between an app and the aggregator.

Pure: no I/O. An event travels as a msgpack array (fields in the order below, so a field is only ever added at the
end, with a default). A stream entry carries many: `pack` concatenates the encoded events and deflates them, which
costs Redis a quarter of the bytes, and `unpack` checks every field's type and range, so that nothing that does not
fit the store's columns gets past it.
"""

import itertools
import secrets
import struct
import time
import zlib
from binascii import hexlify
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from usage_meter.fork_mark import fork_mark

FORMAT_VERSION = 1
"""Version of the stream entry's payload (field `v`). A reader that meets a higher one dead-letters the entry."""

MICRO = 1_000_000
MAX_CREDITS_MICRO = 10**18 - 1  # what Decimal(18, 6) holds at rest
MAX_TIME_US = 7_258_118_400_000_000  # 2200-01-01: far enough, and inside the store's date-time type
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # inflated; a deflated bomb must not take the consumer's memory

Kind = Literal["request", "webhook"]
Outcome = Literal["ok", "client_error", "server_error", "exception", "disconnected"]

_Int64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Micros = Annotated[int, Meta(ge=0, le=MAX_TIME_US)]


class UsageEventError(ValueError):
    """A payload or an event that does not follow the contract; the message names the field and what it must be."""


class UsageEvent(msgspec.Struct, array_like=True, kw_only=True, gc=False):
    """One call (or one webhook delivery). The same workspace, start and id with a higher version replaces it.

    Not frozen, because whoever makes an event fills it in as the call goes on. What was recorded is replaced by a later
    version, never changed.
    `id` is a UUIDv7's 16 bytes; `api_key` is an identifier (a keyed hash), never the secret itself.
    """

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    version: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1
    kind: Kind = "request"
    started_us: _Micros
    duration_us: _Micros = 0
    ttfb_us: _Micros | None = None
    workspace: str
    user: str = ""
    groups: tuple[str, ...] = ()
    api_key: str = ""
    api_key_hint: str = ""
    product: str = ""
    voice: str = ""
    model: str = ""
    region: str = ""
    source: str = ""
    method: str = ""
    route: str = ""
    path: str = ""
    status: Annotated[int, Meta(ge=0, le=65_535)] = 0
    outcome: Outcome = "ok"
    error: str = ""
    request_bytes: _Int64 = 0
    response_bytes: _Int64 = 0
    credits_micro: Annotated[int, Meta(ge=-MAX_CREDITS_MICRO, le=MAX_CREDITS_MICRO)] = 0
    quantities: dict[str, float] = {}
    attributes: dict[str, str] = {}
    request_id: str = ""
    trace_id: str = ""
    instance: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[UsageEvent])

encode: Callable[[UsageEvent], bytes] = _encoder.encode
"""One event as msgpack. Raises TypeError or UnicodeEncodeError for values that msgpack cannot carry."""


def pack(encoded: bytes | bytearray | memoryview) -> bytes:
    """Deflate concatenated encoded events into the payload of one stream entry (level 1: speed over the last 10 %)."""
    return zlib.compress(encoded, 1)


def unpack(payload: bytes, count: int) -> list[UsageEvent]:
    """The `count` events of a payload, each checked. Raises UsageEventError and never anything else."""
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(payload, MAX_PAYLOAD_BYTES)
    except zlib.error as error:
        raise UsageEventError(f"payload does not inflate: {error}") from error
    if not inflater.eof:
        raise UsageEventError(f"payload is cut short, or inflates to more than {MAX_PAYLOAD_BYTES} bytes")
    if not 0 <= count < 2**32:
        raise UsageEventError(f"number of events is {count}: must be 0 to 2**32 - 1")
    try:
        return _decoder.decode(b"\xdd" + count.to_bytes(4, "big") + body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageEventError(f"payload is not {count} events: {error}") from error


class _Ids:
    """What the ids of this process have in common. A forked child begins anew: its own are never its parent's."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.mark = fork_mark()
        self.high = 0x7000 | secrets.randbits(12)
        self.low = itertools.count(1 << 63 | secrets.randbits(61))  # `next` is atomic, and cheap


_ids = _Ids()
_two_words = struct.Struct(">QQ").pack
_uuid_groups = struct.Struct("8s4s4s4s12s").unpack


def new_id(started_us: int | None = None) -> bytes:
    """A UUIDv7 for a call that starts at `started_us` (default: now): sorts by time, and in a process by its making.

    It is unique, not secret: 73 random bits tell processes apart, a count the calls of one.
    """
    if not _ids.mark[0]:
        _ids.begin()
    if started_us is None:
        started_us = time.time_ns() // 1000
    return _two_words((started_us // 1000 & 0xFFFF_FFFF_FFFF) << 16 | _ids.high, next(_ids.low))


def id_text(id: bytes) -> str:
    """An event's id as the text of a UUID."""
    return b"-".join(_uuid_groups(hexlify(id))).decode()


def to_micro(credits: int | float | Decimal | str) -> int:
    """Credits as integer micro-credits, rounded half to even at the sixth decimal. Raises UsageEventError.

    A float is taken by its shortest decimal form: 0.1 is a tenth, as the person who wrote it meant.
    """
    try:
        exact = Decimal(repr(credits)) if isinstance(credits, float) else Decimal(credits)
        if not exact.is_finite() or abs(exact) > Decimal(MAX_CREDITS_MICRO) / MICRO:
            raise UsageEventError(f"credits are {credits!r}: must be a number below a million million")
        return int((exact * MICRO).quantize(Decimal(1), ROUND_HALF_EVEN))
    except (InvalidOperation, TypeError, ValueError) as error:
        raise UsageEventError(f"credits are {credits!r}: must be a number, such as 1.5 or '1.5'") from error


def outcome_of(status: int) -> Outcome:
    """How a call ended that ended with this status: the app's own exceptions and disconnects are not seen here."""
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "ok"


def concatenated(events: Iterable[UsageEvent]) -> bytes:
    """The encoded events, one behind the other: what `pack` takes."""
    return b"".join(map(encode, events))
