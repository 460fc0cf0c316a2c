"""Sends a file's events to `POST /v1/events`, a batch at a time, while the next one is read.

A batch with a bad event is taken without it: nothing of it was recorded, so it is sent again, and what arrives twice is
one event. What the service cannot take right now is offered again for a while. Whatever ends the import, the same
command again is safe.
"""

import gzip
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from aggregator.commands.client import Client, RefusedError
from aggregator.commands.event_file import BadLine, Line
from aggregator.errors import AggregatorError, QueryError, ServiceError
from aggregator.tokens import OPERATOR

BATCH_EVENTS = 5000  # as many as one stream entry holds
SENDERS = 2  # requests on their way at once: one is sent while the service stores the other
RETRY_SECONDS = 60.0  # a service that restarts is back by then
FIRST_PAUSE_SECONDS = 0.5  # doubles with each attempt
GZIP_LEVEL = 1  # a quarter of the bytes; more would cost more time than it saves
HOPELESS = 100  # bad lines and no good one: it is another format, not a few slips

_POSITION = re.compile(r"\[(\d+)\]")


class HopelessError(AggregatorError):
    """No line is what was expected."""


@dataclass(slots=True)
class Progress:
    """So far: events that the service has safely, and the number of bad lines."""

    accepted: int = 0
    bad: int = 0


class Importer:
    """One import. `report` is called with each bad line, `advanced` after each batch."""

    def __init__(
        self, client: Client, report: Callable[[BadLine], None], advanced: Callable[[Progress], None] = lambda _: None
    ) -> None:
        self._client = client
        self._report = report
        self._advanced = advanced
        self._stopped = threading.Event()
        self._any_good = False
        self.progress = Progress()

    def run(self, lines: Iterable[Line | BadLine]) -> Progress:
        """Raises ServiceError when the service stays away, RefusedError when it wants none of this, HopelessError."""
        waiting: deque[Future[tuple[int, list[BadLine]]]] = deque()
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="usage-meter-import") as senders:
            try:
                for batch in self._batches(lines):
                    if len(waiting) > SENDERS:
                        self._settle(waiting.popleft())
                    waiting.append(senders.submit(self._send, batch))
                while waiting:
                    self._settle(waiting.popleft())
            finally:
                self._stopped.set()
        return self.progress

    def _batches(self, lines: Iterable[Line | BadLine]) -> Iterator[list[Line]]:
        batch: list[Line] = []
        for line in lines:
            if isinstance(line, BadLine):
                self._bad(line)
                continue
            self._any_good = True
            batch.append(line)
            if len(batch) == BATCH_EVENTS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _settle(self, sent: "Future[tuple[int, list[BadLine]]]") -> None:
        accepted, bad = sent.result()
        self.progress.accepted += accepted
        for line in bad:
            self._bad(line)
        self._advanced(self.progress)

    def _bad(self, line: BadLine) -> None:
        self.progress.bad += 1
        self._report(line)
        if self.progress.bad >= HOPELESS and not self._any_good:
            raise HopelessError(f"none of the first {HOPELESS} lines is an event: is --format right?")

    def _send(self, batch: list[Line]) -> tuple[int, list[BadLine]]:
        """How many the service has taken, and the lines that it refuses."""
        bad: list[BadLine] = []
        while batch:
            try:
                self._post(batch)
            except RefusedError as refusal:
                if refusal.status == 413 and len(batch) > 1:
                    halves = self._send(batch[: len(batch) // 2]), self._send(batch[len(batch) // 2 :])
                    return sum(half[0] for half in halves), bad + halves[0][1] + halves[1][1]
                batch, found = self._without_faults(batch, refusal)
                bad += found
            else:
                break
        return len(batch), bad

    def _without_faults(self, batch: list[Line], refusal: RefusedError) -> tuple[list[Line], list[BadLine]]:
        """The good lines of a refused batch, and the others. Raises RefusedError when all would be."""
        bad = {line.number: message for line in batch if (message := _fault(line))}
        if not bad:  # only the service can know
            position, message = _faulty(refusal)
            if position is None or position >= len(batch):
                raise refusal
            if not position and not self.progress.accepted:
                hint = " (say whose they are with --workspace)" if message.startswith("workspace is missing") else ""
                raise RefusedError(f"line {batch[0].number}: {message}{hint}", refusal.status)
            bad = {batch[position].number: message}
        return [line for line in batch if line.number not in bad], [BadLine(*one) for one in bad.items()]

    def _post(self, batch: list[Line]) -> None:
        body = msgspec.json.encode([line.fields for line in batch])
        headers = {"content-type": "application/json"}
        if not self._client.is_near:
            body, headers["content-encoding"] = gzip.compress(body, GZIP_LEVEL), "gzip"
        give_up, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
        while True:
            try:
                self._client.post("/v1/events", body, headers)
            except ServiceError as error:
                if time.monotonic() + pause > give_up or self._stopped.wait(pause):
                    raise ServiceError(
                        f"{error}\nline {batch[0].number} and what follows are not known to be recorded: the same "
                        "command again records what is missing"
                    ) from error
                pause *= 2
            else:
                return


def _fault(line: Line) -> str:
    """What is wrong with an event whoever sends it, by the service's own rules."""
    from aggregator.ingest import parse_events  # with what a service is made of: a second that good files need not wait

    fields = line.fields | {"workspace": line.fields.get("workspace") or "the token's"}
    try:
        parse_events(msgspec.json.encode([fields]), OPERATOR, time.time_ns() // 1000)
    except QueryError as error:
        return "; ".join(f"{_field(one.parameter)} {one.message}".strip() for one in error.problems)
    return ""


def _field(place: str) -> str:
    return _POSITION.sub("", place, count=1).lstrip(".")


def _faulty(refusal: RefusedError) -> tuple[int | None, str]:
    """Which event of the batch the service means, and what it says of it."""
    for one in refusal.detail if isinstance(refusal.detail, list) else []:
        place: list[Any] = [str(part) for part in one.get("loc", ())]
        for i, part in enumerate(place):
            if found := _POSITION.match(part):
                return int(found[1]), f"{'.'.join([_field(part), *place[i + 1 :]])} {one.get('msg', '')}".strip()
    return None, str(refusal)
