"""The body of a ClickHouse server's answer, piece by piece, up to its true end.

A server that fails in the middle has said 200 already. From 25.1 on it then breaks the transfer, which the HTTP client
reports; from 25.11 on it may end it in order, behind an exception between two marks, whose random tag it has announced
in a header. So the last piece is held back until it is known that it isn't that.
"""

from collections.abc import Callable, Iterator
from typing import Any

from aggregator.errors import StoreError

PIECE_BYTES = 256 * 1024
_TAG_HEADER = "X-ClickHouse-Exception-Tag"
_EXCEPTION_BYTES = 64 * 1024  # more than the server ever writes of an exception


class Download:
    """Iterate it for the pieces; the request is made with the first. `request` gives a urllib3 response."""

    def __init__(self, request: Callable[[], Any]) -> None:
        self._request = request
        self._response: Any = None

    def __iter__(self) -> Iterator[bytes]:
        self._response = self._request()
        tag = self._response.headers.get(_TAG_HEADER)
        held = b""
        for piece in self._response.stream(PIECE_BYTES, decode_content=True):
            held += piece
            if len(held) > _EXCEPTION_BYTES:
                yield held[:-_EXCEPTION_BYTES]
                held = held[-_EXCEPTION_BYTES:]
        if tag and f"__exception__\r\n{tag}".encode() in held:
            raise StoreError("the server failed in the middle of an export: its log says why")
        if held:
            yield held

    def close(self) -> None:
        """Let go of the connection; a server that still writes ends its query."""
        if self._response is not None:
            self._response.close()
