"""Where the segments of one process live: a directory that it holds locked for as long as it lives.

The lock (flock on the directory itself) dies with its process, whatever the process died of, and unlike a process id
it never comes back for another. Whoever can take the lock of a directory that is not its own has found an orphan.
"""

import contextlib
import errno
import mmap
import os
import stat
from pathlib import Path
from typing import NamedTuple, Self

from usage_meter.segment import SEGMENT_BYTES

try:
    import fcntl
except ImportError:  # Windows: no such locks, so no journal on disk; the memory one takes its place
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".segment"
MADV_POPULATE_WRITE = 23  # Linux 5.14; `mmap` has no name for it
UNBORN = "."  # begins a directory's name until it is locked: others would take it for an orphan's, and tidy it away


class File(NamedTuple):
    """A file for one segment, mapped."""

    path: Path
    memory: mmap.mmap


class JournalDirectory:
    """Held from construction until `release` or `remove`. Every method may raise OSError."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.made = 0  # files, the last of which has that number
        self._lock = lock

    @classmethod
    def create(cls, parent: Path, name: str, made: int = 0) -> Self:
        """A new one under `parent`, which is made too where it does not exist, and so is what that lies in.

        `made` is how many files there were in one of the same name that somebody deleted: no name comes again while
        a segment may still have it.
        """
        for each in (parent.parent, parent):  # the mode is that of the last one only, and `owned` looks at both
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = parent / name
        new = path if path.exists() else parent / f"{UNBORN}{name}"
        new.mkdir(mode=0o700, exist_ok=True)
        directory = cls.seize(new)
        if directory is None:
            raise BlockingIOError(f"{path} is held by another process")
        if new != path:
            try:
                new.rename(path)
            except OSError:
                directory.release()  # to be made again under the same name
                raise
            directory.path = path
        directory.made = made
        return directory

    @classmethod
    def seize(cls, path: Path) -> Self | None:
        """Lock an existing one; None when a living process holds it."""
        if fcntl is None:
            raise OSError("this system has no file locks")
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    def exists(self) -> bool:
        """Whether the path still leads to what is locked."""
        try:
            return os.path.samestat(os.fstat(self._lock), self.path.stat())
        except FileNotFoundError:
            return False

    def new_file(self) -> File:
        """A file of zeros with all its blocks reserved: a store into a map of blocks that are not there is SIGBUS."""
        self.made += 1
        path = self.path / f"{self.made:08d}{SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _reserve(file)
            memory = mmap.mmap(file, SEGMENT_BYTES)
            _populate(memory)
            return File(path, memory)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def take(self, file: Path) -> Path:
        """Move a segment here from another directory of the same parent."""
        self.made += 1
        return file.rename(self.path / f"{self.made:08d}{SUFFIX}")

    def files(self) -> list[Path]:
        """The segments in it, oldest first."""
        return sorted(path for path in self.path.iterdir() if path.suffix == SUFFIX)

    def remove_if_empty(self) -> None:
        """Give it up for good, unless something is left in it."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Let go without a word: the next one who looks finds an orphan. (A forked child closes its copy like this.)"""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def map_file(path: Path) -> mmap.mmap | None:
    """None for a file of no size: its process died before the first block."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0) if os.fstat(file.fileno()).st_size else None


def is_passing(error: OSError) -> bool:
    """Whether the process has run out of something for now: of open files, as a rule. The file is as it was."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def owned(path: Path) -> bool:
    """Whether nobody but this user can have put something there: a name in the temporary directory can be guessed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    if not hasattr(os, "geteuid"):  # Windows: the temporary directory is the user's own
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def bytes_in(parent: Path, besides: str) -> int:
    """The disk that the segments of all processes take, besides one's own directory."""
    return sum(_size(path) for path in parent.glob(f"*/*{SUFFIX}") if path.parent.name != besides)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its process was quicker
        return 0


def _populate(memory: mmap.mmap) -> None:
    """Have the pages there and writable: else the first store into each takes 3 µs of a call, or waits for the disk."""
    with contextlib.suppress(AttributeError, OSError):  # another system, or an older one
        memory.madvise(MADV_POPULATE_WRITE)


def _reserve(file: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, SEGMENT_BYTES)
    else:
        written = 0
        while written < SEGMENT_BYTES:
            written += os.write(file, bytes(SEGMENT_BYTES - written))
