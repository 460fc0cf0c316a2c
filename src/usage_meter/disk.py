"""The disk under a journal: files made ready for segments, what dead processes left, and what to do when it fails.

A disk that is full, read-only or not there is said once and tried again from time to time; it is never an error here.
"""

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from usage_meter.journal_directory import UNBORN, File, JournalDirectory, bytes_in

logger = logging.getLogger("usage_meter")

AGAIN_SECONDS = 5.0  # between two attempts at a disk that failed
UNBORN_SECONDS = 60.0  # a living process locks its new directory at once


class Left(NamedTuple):
    """A file that a dead process left. One that was closed in order is as short as what is in it."""

    path: Path
    size: int  # bytes


class Disk:
    """`take` may be called from any thread; the rest is for the sending thread."""

    def __init__(self, parent: Path | None, name: str) -> None:
        """`parent` is shared by all processes that send to the same Redis; None for no disk at all."""
        self.others_bytes = 0  # what other processes have there, as of the last look
        self._parent = parent
        self._name = name
        self._directory: JournalDirectory | None = None
        self._making = threading.Lock()
        self._spares: deque[File] = deque()  # one or none; a deque, because it is emptied and filled by two threads
        self._again = 0.0  # when to try again after a failure
        self._failed = False

    @property
    def spares(self) -> int:
        return len(self._spares)

    def take(self) -> File | None:
        """A new file for a segment, at once if one was prepared; None while the disk will not have it."""
        try:
            return self._spares.popleft()
        except IndexError:
            return self._new_file()

    def prepare(self) -> None:
        """Have a file ready for the next `take`."""
        if not self._spares and (file := self._new_file()):
            self._spares.append(file)

    def look_around(self) -> list[Left]:
        """Move what dead processes left here; see how much disk the living ones take."""
        found: list[Left] = []
        if self._parent is not None and self._parent.is_dir():
            for path in self._parent.iterdir():
                if path.name.startswith(UNBORN):
                    _tidy(path)
                elif path.name != self._name:
                    self._adopt(path, found)
            with suppress(OSError):  # a directory went while it was looked into; what was found is ours by now
                self.others_bytes = bytes_in(self._parent, besides=self._name)
        return found

    def close(self) -> None:
        """Let go of the directory, and of what it takes when it is empty."""
        for spare in self._spares:
            spare.path.unlink(missing_ok=True)
        if self._directory is not None:
            self._directory.remove_if_empty()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's lock, which would otherwise outlive it here."""
        if self._directory is not None:
            self._directory.release()

    def _new_file(self) -> File | None:
        if self._parent is None or time.monotonic() < self._again:
            return None
        try:
            with self._making:
                return self._held(self._parent).new_file()
        except OSError as error:
            self._again = time.monotonic() + AGAIN_SECONDS
            if not self._failed:
                self._failed = True
                logger.warning("no journal on disk (%s): events wait in memory, and die with the process", error)
            return None

    def _held(self, parent: Path) -> JournalDirectory:
        """This process's directory; made when it is first needed, and again when somebody deleted it."""
        before = self._directory
        if before is not None and before.exists():
            return before
        self._directory = JournalDirectory.create(parent, self._name, made=before.made if before else 0)
        if before is not None:
            before.release()
        return self._directory

    def _adopt(self, path: Path, found: list[Left]) -> None:
        """Move the files of a dead process; nothing while it lives."""
        try:
            orphan = JournalDirectory.seize(path)
            if orphan is None:
                return
            try:
                for file in orphan.files():
                    size = file.stat().st_size
                    with self._making:
                        found.append(Left(self._held(path.parent).take(file), size))
            finally:  # also what could not be moved: held on to, it would look alive to everybody, to us as well
                orphan.remove_if_empty()
        except OSError as error:  # another process was quicker, or a later look will succeed
            logger.debug("cannot take over %s: %s", path, error)


def _tidy(unborn: Path) -> None:
    """Remove what a process left that died before it had locked its new directory: it is empty."""
    with suppress(OSError):  # its process lives after all, or another one was quicker
        if time.time() - unborn.stat().st_mtime > UNBORN_SECONDS:
            unborn.rmdir()
