"""CloudEvents 1.0 as an envelope of our events: their fields stand under `data`. Pure.

`source` and `id` together are the key, as CloudEvents has it, whatever `data` says of its own source; extensions are
let through unread.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from aggregator.http.incoming import EventFields, Id, Text, Time

HEADER = "ce-"
"""In the binary mode each attribute is a header with this prefix, and the body is the data alone."""

_ATTRIBUTES = ("specversion", "id", "source", "type", "time")

Filled = Annotated[str, Meta(min_length=1, max_length=4096)]


class CloudData(EventFields, kw_only=True):
    """A time of its own may be a number, which the envelope's may not."""

    time: Time | None = None


class CloudEvent(msgspec.Struct, kw_only=True):
    specversion: Literal["1.0"]
    id: Id
    source: Filled
    type: Filled
    time: Text | None = None
    data: CloudData

    def moment(self) -> Time | None:
        """When it happened: the data's own time, or else the envelope's."""
        return self.time if self.data.time is None else self.data.time


def from_headers(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """The envelope of the binary mode."""
    found = {name: unquote(headers[HEADER + name]) for name in _ATTRIBUTES if HEADER + name in headers}
    return {**found, "data": data}
