"""Content codings: an answer travels compressed when its reader takes that and it is worth it. Pure.

zstd before gzip: it costs a third of the time. Both at their quickest level, which leaves a CSV an eighth of its size;
the next ones cost more time than they save on any network that a company has.
"""

import sys
import zlib
from collections.abc import Generator, Iterator
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

MIN_BYTES = 1400  # what fits into one packet anyway does not get there sooner

_ZSTD_LEVEL = 1
_GZIP_LEVEL = 1
_GZIP_WINDOW = 31  # zlib's way to ask for a gzip header


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _zstd() -> _Compressor:
    return zstd.ZstdCompressor(level=_ZSTD_LEVEL)


def _gzip() -> _Compressor:
    return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)


_CODINGS = {"zstd": _zstd, "gzip": _gzip}


def coding(accept_encoding: str) -> str | None:
    """The coding that a reader of this `Accept-Encoding` likes best; None for none that we have."""
    wanted = dict(_preference(part) for part in accept_encoding.split(",") if part.strip())
    weights = {name: wanted.get(name, wanted.get("*", 0.0)) for name in _CODINGS}
    best = max(weights, key=lambda name: weights[name])  # the first of equals
    return best if weights[best] > 0 else None


def _preference(part: str) -> tuple[str, float]:
    name, _, parameters = part.partition(";")
    text = parameters.strip().lower().removeprefix("q=")
    try:
        weight = float(text) if parameters else 1.0
    except ValueError:
        weight = 0.0  # not understood, so not promised
    return name.strip().lower(), weight


def encoded(pieces: Iterator[bytes], name: str) -> Generator[bytes]:
    """The pieces in that coding. Ends only when they do: a break among them breaks it too."""
    compressor = _CODINGS[name]()
    for piece in pieces:
        if done := compressor.compress(piece):
            yield done
    yield compressor.flush()
