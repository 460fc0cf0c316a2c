"""Vega without a browser, and Vega for the browser: images of charts, and the JavaScript that draws them on a page.

Both come out of one wheel, whose calls hold the interpreter for seconds. They happen in a process of its own, which
starts with the first image and ends when this one does, however that ends: its input is then at an end.
"""

import gzip
import json
import logging
import signal
import subprocess
import sys
import threading
import weakref
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, BinaryIO

from aggregator.errors import AggregatorError, BusyError

logger = logging.getLogger(__name__)

# Vega Embed brings Vega, Vega-Lite and the interpreter that a page without `unsafe-eval` needs.
SNIPPET = "window.vegaEmbed = vegaEmbed;"
WAITING = 8  # charts drawn or waiting at once: each holds a thread of the server, and takes a tenth of a second
WAIT_SECONDS = 2.0  # for a place, when WAITING others have theirs: together they take one, as a rule
DRAW_SECONDS = 60.0  # a chart takes a tenth of one, and the first, on a busy small machine, ten
END_SECONDS = 2.0  # for the process to leave by itself

_FAILED, _DONE = b"\x00", b"\x01"


class DrawingError(AggregatorError):
    """The chart cannot be drawn; the message is Vega's."""


class Drawing:
    """Draws one chart at a time; any thread may ask. Raises DrawingError, and BusyError where WAITING others do
    for longer than WAIT_SECONDS."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._script = b""
        self._places = threading.BoundedSemaphore(WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], Drawing] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the script does; known without making it."""
        return blake2b(f"{version('vl-convert-python')} {SNIPPET}".encode(), digest_size=8).hexdigest()

    def prepare(self) -> None:
        """Make the script meanwhile, so that the first page does not wait for it."""
        threading.Thread(target=self._prepare, name="usage-meter-script", daemon=True).start()

    def _prepare(self) -> None:
        try:
            self._made()
        except DrawingError as error:
            logger.warning("the charts' script is not made: %s", error)

    @property
    def script(self) -> bytes:
        """The JavaScript that sets `window.vegaEmbed`, deflated (gzip). Made once, which takes seconds."""
        return self._made()

    def _made(self) -> bytes:
        with self._making:
            if not self._script:
                self._script = gzip.compress(self._ask({"what": "script", "snippet": SNIPPET}), mtime=0)
                self.close()  # what bundling took is a hundred megabytes that images do not need
            return self._script

    def svg(self, spec: dict[str, Any], config: dict[str, Any]) -> bytes:
        return self._draw({"what": "svg", "spec": spec, "config": config})

    def png(self, spec: dict[str, Any], config: dict[str, Any], scale: float = 2) -> bytes:
        return self._draw({"what": "png", "spec": spec, "config": config, "scale": scale})

    def _draw(self, order: dict[str, Any]) -> bytes:
        if not self._places.acquire(timeout=self._wait_seconds):
            raise BusyError(f"{WAITING} charts are being drawn: try again in a moment")
        try:
            return self._ask(order)
        finally:
            self._places.release()

    def close(self) -> None:
        """End the process; the next chart starts another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._end:
            self._end()
        self._process = self._end = None

    def _ask(self, order: dict[str, Any]) -> bytes:
        with self._lock:
            process = self._running()
            timer = threading.Timer(DRAW_SECONDS, process.kill)
            timer.start()
            try:
                state, body = _exchange(process, order)
            except (OSError, EOFError):
                self._close()
                raise DrawingError("the process that draws charts ended, or took too long") from None
            finally:
                timer.cancel()
        if state == _FAILED:
            raise DrawingError(body.decode())
        return body

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            command = [sys.executable, "-m", "aggregator.page.drawing"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
            self._end = weakref.finalize(self, _end, self._process)
        return self._process


def _exchange(process: "subprocess.Popen[bytes]", order: dict[str, Any]) -> tuple[bytes, bytes]:
    if not process.stdin or not process.stdout:
        raise EOFError
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()
    state = process.stdout.read(1)
    if not state:
        raise EOFError
    return state, process.stdout.read(int.from_bytes(process.stdout.read(8), "big"))


def _end(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """The other process: an order a line as JSON; a state, a length and that many bytes back."""
    for line in orders:
        try:
            state, body = _DONE, _draw(json.loads(line))
        except ValueError as error:  # Vega's own, of a specification that makes no sense
            state, body = _FAILED, str(error).encode()
        answers.write(state + len(body).to_bytes(8, "big") + body)
        answers.flush()


def _draw(order: dict[str, Any]) -> bytes:
    import vl_convert  # eighty megabytes that only this process needs

    if order["what"] == "script":
        return vl_convert.javascript_bundle(order["snippet"]).encode()
    # No address is allowed: a chart brings its data along and fetches nothing.
    spec, common = order["spec"], {"config": order["config"], "allowed_base_urls": []}
    if order["what"] == "svg":
        return vl_convert.vegalite_to_svg(spec, **common).encode()
    return vl_convert.vegalite_to_png(spec, scale=order["scale"], **common)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then closes our input
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it was killed: there is nobody to tell
    serve(sys.stdin.buffer, sys.stdout.buffer)
