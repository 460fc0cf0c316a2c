"""What makes lines without an id calls of their own, the same each time they are read. Pure.

A line is told apart by what it says and by how many like it came before in its file. So two calls that look the same
are two, and reading the file again, longer or mended, finds each call under the id that it had.

Only the latest lines are remembered, so that memory stays flat. Whatever is as old as lines already forgotten, and was
not seen since, may be the like of one of them: there the line's number tells it apart, which holds as long as nobody
cuts lines out in front of it. A log in the order of time never comes to that.
"""

import hashlib

REMEMBERED = 250_000  # lines in each of two generations: some 40 MB, and more than a server logs within a second
_UNSURE = -1  # instead of a count: lines like it may have been forgotten


class Identity:
    """Gives the lines of one file their ids, in their order."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._recent_newest = self._older_newest = float("-inf")
        self._forgotten_newest = float("-inf")

    def of(self, content: bytes, time: float, number: int) -> str:
        """The id of line `number`; `time` in Unix seconds, 0 if it can't be told."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        key = int.from_bytes(digest[:8], "big")
        before = self._recent.get(key) or self._older.get(key, 0)
        if before == _UNSURE or (not before and time <= self._forgotten_newest):
            self._remember(key, _UNSURE, time)
            return f"{digest.hex()}-line-{number}"
        self._remember(key, before + 1, time)
        return f"{digest.hex()}-{before}" if before else digest.hex()

    def _remember(self, key: int, seen: int, time: float) -> None:
        self._recent[key] = seen
        self._recent_newest = max(self._recent_newest, time)
        if len(self._recent) >= self._remembered:
            self._forgotten_newest = max(self._forgotten_newest, self._older_newest)
            self._older, self._older_newest = self._recent, self._recent_newest
            self._recent, self._recent_newest = {}, float("-inf")
