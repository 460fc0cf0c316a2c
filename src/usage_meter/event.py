"""The usage event and its wire format: the one contract between an app and the aggregator.

Pure: no I/O. An event travels as two msgpack arrays, one inside the other: first what it has in common with many
others (its dimensions), then its own. The fields stand in the order below, so one is only ever added at the end of
its array, with a default. A reader meets the same few dimensions again and again, each time in the same bytes, and
decodes them once: that is twice as fast as reading thirty fields of every event.

A stream entry carries many events: `pack` compresses the encoded events as one, to a quarter of their bytes. With zstd
that takes a fifth of zlib's time; an app that has no zstd uses zlib, and the entry's version says which it was.
`unpack` and `unpack_rows` check every field's type and range, so that nothing that does not fit the store's columns
gets past them.
"""

import itertools
import secrets
import struct
import sys
import time
import zlib
from binascii import hexlify
from collections.abc import Iterable
from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw

from usage_meter.fork_mark import fork_mark


def _optional_zstd() -> Any:
    """The one that comes with Python 3.14, else the same for older ones (extra `zstd`); None where there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    return None


zstd = _optional_zstd()

ZLIB, ZSTD = 1, 2
_FAULTS = (zlib.error, zstd.ZstdError) if zstd else (zlib.error,)
FORMAT_VERSION = ZSTD if zstd else ZLIB
"""Version of the stream entry's payload (field `v`) as `pack` makes it: what the events are compressed with. A reader
that meets an unknown one dead-letters the entry."""

MICRO = 1_000_000
MAX_CREDITS_MICRO = 10**18 - 1  # what Decimal(18, 6) holds at rest
MAX_TIME_US = 7_258_118_400_000_000  # 2200-01-01: far enough, and inside the store's date-time type
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # decompressed; a bomb must not take the consumer's memory
_WINDOW_LOG = 26  # the same for what zstd may ask for to look back into

Kind = Literal["request", "webhook"]
Outcome = Literal["ok", "client_error", "server_error", "exception", "disconnected"]

_Int64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Micros = Annotated[int, Meta(ge=0, le=MAX_TIME_US)]
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Version = Annotated[int, Meta(ge=1, le=2**32 - 1)]
_Credits = Annotated[int, Meta(ge=-MAX_CREDITS_MICRO, le=MAX_CREDITS_MICRO)]
_Quantity = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # one NaN would spoil every sum

T = TypeVar("T")


class UsageEventError(ValueError):
    """A payload or an event that does not follow the contract; the message names the field and what it must be."""


class EventDimensions(msgspec.Struct, array_like=True, kw_only=True, gc=False):
    """What many calls have in common: who called what, and how it ended."""

    kind: Kind = "request"
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
    status: Annotated[int, Meta(ge=0, le=65_535)] = 0
    outcome: Outcome = "ok"
    error: str = ""
    instance: str = ""


class UsageEvent(EventDimensions, array_like=True, kw_only=True, gc=False):
    """One call (or one webhook delivery). The same workspace, start and id with a higher version replaces it.

    Not frozen, because whoever makes an event fills it in as the call goes on. What was recorded is replaced by a later
    version, never changed.
    `id` is a UUIDv7's 16 bytes; `api_key` is an identifier (a keyed hash), never the secret itself.
    """

    id: _Id
    version: _Version = 1
    started_us: _Micros
    duration_us: _Micros = 0
    ttfb_us: _Micros | None = None
    path: str = ""
    request_bytes: _Int64 = 0
    response_bytes: _Int64 = 0
    credits_micro: _Credits = 0
    quantities: dict[str, _Quantity] = {}
    attributes: dict[str, str] = {}
    request_id: str = ""
    trace_id: str = ""


class EventRow(msgspec.Struct, array_like=True, kw_only=True, gc=False):
    """An event as it travels; what repeats from row to row is still encoded."""

    dimensions: Raw
    id: _Id
    version: _Version = 1
    started_us: _Micros
    duration_us: _Micros = 0
    ttfb_us: _Micros | None = None
    path: str = ""
    request_bytes: _Int64 = 0
    response_bytes: _Int64 = 0
    credits_micro: _Credits = 0
    quantities: dict[str, _Quantity] = {}
    attributes: Raw = Raw(b"\x80")
    request_id: str = ""
    trace_id: str = ""


def _array_header(fields: int) -> bytes:
    return b"\xdc" + fields.to_bytes(2, "big")


_FLAT_HEADER_BYTES = len(_array_header(0))
_HEADERS = _array_header(len(EventRow.__struct_fields__)) + _array_header(len(EventDimensions.__struct_fields__))

_encode = msgspec.msgpack.Encoder().encode
_rows_decoder = msgspec.msgpack.Decoder(list[EventRow])
_row_decoder = msgspec.msgpack.Decoder(EventRow)
_events_decoder = msgspec.msgpack.Decoder(list[Raw])
_dimensions_decoder = msgspec.msgpack.Decoder(EventDimensions)
_attributes_decoder = msgspec.msgpack.Decoder(dict[str, str])


def encode(event: UsageEvent) -> bytes:
    """One event as msgpack. Raises TypeError or UnicodeEncodeError for values that msgpack cannot carry.

    Its fields stand in the order of the wire already; only one array's header has to become those of two.
    """
    return _HEADERS + _encode(event)[_FLAT_HEADER_BYTES:]


def pack(encoded: bytes | bytearray | memoryview) -> bytes:
    """Compress concatenated encoded events into the payload of one stream entry of version FORMAT_VERSION."""
    if zstd:
        packed: bytes = zstd.compress(encoded, options=_zstd_options())
        return packed
    return zlib.compress(encoded, 1)  # speed over the last 10 %


def unpack(payload: bytes, count: int, version: int = FORMAT_VERSION) -> list[UsageEvent]:
    """The `count` events of a payload, each checked. Raises UsageEventError and never anything else."""
    return [_event(row) for row in unpack_rows(payload, count, version)]


def unpack_rows(payload: bytes, count: int, version: int = FORMAT_VERSION) -> list[EventRow]:
    """The `count` rows of a payload. Raises UsageEventError and never anything else."""
    return decode_rows(_decompressed(payload, version), count)


def split(payload: bytes, count: int, version: int = FORMAT_VERSION) -> list[bytes]:
    """The events of a payload one by one, still encoded: some of them may not be readable. Raises UsageEventError."""
    return [bytes(raw) for raw in _decoded_array(_events_decoder, _decompressed(payload, version), count)]


def _decompressed(payload: bytes, version: int) -> bytes:
    decompressor = _decompressor(version)
    try:
        body: bytes = decompressor.decompress(payload, MAX_PAYLOAD_BYTES)
    except _FAULTS as error:
        raise UsageEventError(f"payload does not inflate: {error}") from error
    if not decompressor.eof:
        raise UsageEventError(f"payload is cut short, or inflates to more than {MAX_PAYLOAD_BYTES} bytes")
    return body


def _decompressor(version: int) -> Any:
    if version == ZLIB:
        return zlib.decompressobj()
    if version != ZSTD:
        raise UsageEventError(
            f"the entry's format is {version}: this aggregator reads {ZLIB} and {ZSTD}; it needs an update"
        )
    if not zstd:
        raise UsageEventError("the entry's format is 2, which takes zstd: install usage-meter[zstd]")
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


@cache
def _zstd_options() -> dict[Any, int]:
    """Level 1, told of its input: a slice is up to 1 MiB (a window of 2**20), and what repeats in it is long. It saves
    4 % of the bytes for free; level 2 would save as much again for half as long again. The checksum finds damage."""
    parameter = zstd.CompressionParameter
    return {
        parameter.compression_level: 1,
        parameter.window_log: 20,
        parameter.hash_log: 15,
        parameter.min_match: 6,
        parameter.checksum_flag: 1,
    }


def decode_rows(encoded: bytes, count: int) -> list[EventRow]:
    """Concatenated events as rows, checked but for what is still encoded in them. Raises UsageEventError."""
    return _decoded_array(_rows_decoder, encoded, count)


def decode_dimensions(encoded: bytes) -> EventDimensions:
    """A row's dimensions. Raises UsageEventError."""
    return _decoded(_dimensions_decoder, encoded, "an event's dimensions cannot be read")


def decode_attributes(encoded: bytes) -> dict[str, str]:
    """A row's attributes. Raises UsageEventError."""
    return _decoded(_attributes_decoder, encoded, "an event's attributes cannot be read")


def decode_event(encoded: bytes) -> EventRow:
    """One event, checked to the last of its fields. Raises UsageEventError."""
    row = _decoded(_row_decoder, encoded, "an event cannot be read")
    decode_dimensions(bytes(row.dimensions))
    decode_attributes(bytes(row.attributes))
    return row


def encode_row(row: EventRow) -> bytes:
    """As `encode` does it; only an array's header may be shorter."""
    return _encode(row)


def _event(row: EventRow) -> UsageEvent:
    fields = msgspec.structs.asdict(row)
    fields |= msgspec.structs.asdict(decode_dimensions(bytes(fields.pop("dimensions"))))
    fields["attributes"] = decode_attributes(bytes(row.attributes))
    return UsageEvent(**fields)


def _decoded_array(decoder: "msgspec.msgpack.Decoder[T]", encoded: bytes, count: int) -> T:
    if not 0 <= count < 2**32:
        raise UsageEventError(f"number of events is {count}: must be 0 to 2**32 - 1")
    return _decoded(decoder, b"\xdd" + count.to_bytes(4, "big") + encoded, f"payload is not {count} events")


def _decoded(decoder: "msgspec.msgpack.Decoder[T]", encoded: bytes, fault: str) -> T:
    try:
        return decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageEventError(f"{fault}: {error}") from error


class _Ids:
    """What the ids of this process have in common. A forked child begins anew: its own are never its parent's."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.mark = fork_mark()
        # Version 7 and variant 2 in their places, random bits between and behind them; `next` is atomic, and cheap.
        self.below_time = itertools.count(7 << 76 | secrets.randbits(12) << 64 | 1 << 63 | secrets.randbits(61))


_ids = _Ids()
_uuid_groups = struct.Struct("8s4s4s4s12s").unpack


def new_id(started_us: int | None = None) -> bytes:
    """A UUIDv7 for a call that starts at `started_us` (default: now): sorts by time, and in a process by its making.

    It is unique, not secret: 73 random bits tell processes apart, a count the calls of one.
    """
    if not _ids.mark[0]:
        _ids.begin()
    if started_us is None:
        started_us = time.time_ns() // 1000
    return ((started_us // 1000 & 0xFFFF_FFFF_FFFF) << 80 | next(_ids.below_time)).to_bytes(16, "big")


def id_text(id: bytes) -> str:
    """An event's id as the text of a UUID."""
    return (b"%b-%b-%b-%b-%b" % _uuid_groups(hexlify(id))).decode()


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
