"""A named pipe: what a writer puts into a file comes out here, piece by piece, while it is being written.

For an engine that writes files but does not stream: it writes into the pipe in a thread of its own and waits there
for a slow reader, so memory stays flat; a reader that goes away ends it (EPIPE). Nothing touches the disk.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

PIECE_BYTES = 256 * 1024  # of one read: large enough that the hand-over from thread to thread costs nothing
_CAPACITY_BYTES = 1024 * 1024  # what the writer may be ahead; an unprivileged process may not ask for more


class Pipe:
    """Iterate it for the pieces; a context manager, whose end also ends the writer.

    `write` is called with the pipe's path, in a thread; its error is raised here, behind the last piece.
    """

    def __init__(self, write: Callable[[Path], object]) -> None:
        self._write = write
        self._error: Exception | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="usage-meter-")
        self._path = Path(self._directory.name) / "pipe"
        os.mkfifo(self._path, 0o600)
        self._reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)  # would wait for a writer otherwise
        # A write end of our own keeps the pipe from ending before the writer has opened it, and if it never does.
        self._held = os.open(self._path, os.O_WRONLY)
        os.set_blocking(self._reader, True)
        self._enlarge()
        self._thread = threading.Thread(target=self._run, name="usage-meter-pipe", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        while piece := os.read(self._reader, PIECE_BYTES):
            yield piece
        self._thread.join()
        if self._error:
            raise self._error

    def close(self) -> None:
        """End the writer, if it has not ended, and wait for it."""
        os.close(self._reader)
        self._thread.join()
        self._directory.cleanup()

    def _run(self) -> None:
        try:
            self._write(self._path)
        except Exception as error:  # whatever the writer fails with belongs to the reader, who is in another thread
            self._error = error
        finally:
            os.close(self._held)

    def _enlarge(self) -> None:
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux; elsewhere the pipe is as large as it is
            try:
                fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _CAPACITY_BYTES)
            except OSError:  # the machine allows less, or this user has many pipes: slower, and as right
                return
