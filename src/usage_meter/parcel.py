"""A slice on its way into a payload: compressed by a thread of its own, while Redis still answers for the one before.

Compressing takes as long as everything else that the sender does, and needs none of the interpreter meanwhile.
"""

import threading

from usage_meter.event import pack
from usage_meter.segment import Segment, Slice


class Parcel:
    """Begun when it is made. What the slice is of may be dropped or sent again meanwhile: `begins` tells."""

    def __init__(self, segment: Segment, taken: Slice) -> None:
        self.taken = taken
        self._segment = segment
        self._packed: bytes | None = None
        self._thread: threading.Thread | None = threading.Thread(
            target=self._pack, name="usage-meter-pack", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is shutting down: `payload` does it
            self._thread = None

    def begins(self, segment: Segment, taken: Slice) -> bool:
        """Whether this is what comes next; there may be more of it by now."""
        return self._segment is segment and self.taken.first == taken.first and self.taken.last <= taken.last

    def payload(self) -> bytes:
        if self._thread is not None:
            self._thread.join()
        return pack(self.taken.data) if self._packed is None else self._packed

    def _pack(self) -> None:
        self._packed = pack(self.taken.data)
