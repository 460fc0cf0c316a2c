"""How bodies are packed on their way to and from the tests' ClickHouse server."""

import gzip
from typing import Protocol


class Packs(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Lz4:
    def __init__(self) -> None:
        from lz4.frame import LZ4FrameCompressor

        self._frame = LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        head = b"" if self._begun else self._frame.begin()
        self._begun = True
        return bytes(head + self._frame.compress(data))

    def flush(self) -> bytes:
        return self.compress(b"") + bytes(self._frame.flush())


def packer(encoding: str) -> Packs:
    if encoding == "lz4":
        return Lz4()
    if encoding == "zstd":
        from backports import zstd

        return zstd.ZstdCompressor()
    import zlib

    return zlib.compressobj(wbits=31)


def unpacked(body: bytes, encoding: str) -> bytes:
    if encoding == "lz4":
        import lz4.frame

        return bytes(lz4.frame.decompress(body))
    if encoding == "zstd":
        from backports import zstd

        return zstd.decompress(body)
    return gzip.decompress(body) if encoding == "gzip" else body
