"""A mark that a forked child does not inherit: whether this is still the process that made it, at the price of a read.

`os.getpid()` would say the same, at several times the price and for each call. Python's fork hooks do not always say
it: a server that forks in C (uWSGI) may never run them.
"""

import mmap
import os
from typing import Protocol

MADV_WIPEONFORK = 18  # Linux 4.14: the child's copy of the page reads as zeros; `mmap` has no name for it


class ForkMark(Protocol):
    """`mark[0]` is true in the process that made it, and false in its children."""

    def __getitem__(self, index: int, /) -> int: ...


class ProcessId:
    """The same where the kernel cannot wipe a page."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return os.getpid() == self._pid


def fork_mark() -> ForkMark:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError):
        return ProcessId()
    page[0] = 1
    return page
