"""Everything of the recorder that belongs to one process and never crosses a fork: journal, tallies, counts, thread."""

import os
import socket
import threading
from collections import Counter

from usage_meter.event import UsageEvent, encode
from usage_meter.failures import Failures
from usage_meter.inflight import InFlight
from usage_meter.journal import Journal
from usage_meter.keys import shard_of
from usage_meter.sender import Sender
from usage_meter.settings import MeterSettings
from usage_meter.tally import Tally


def instance_name() -> str:
    """Host, process and four random bytes: unique though process ids and container host names come again."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"


class Outbox:
    def __init__(self, settings: MeterSettings, failures: Failures) -> None:
        self.pid = os.getpid()
        self.instance = instance_name()
        self.inflight = InFlight()
        self.recorded = 0
        self.journal = Journal(settings.journal_max_bytes)
        self._shards = settings.shards
        self._lock = threading.Lock()
        self._tallies: dict[int, Tally] = {}
        self.sender = Sender(self, settings, failures)

    def record(self, event: UsageEvent, replaces: UsageEvent | None) -> bool:
        encoded = encode(event)
        shard = shard_of(event.workspace, self._shards)
        if not self.journal.append(shard, encoded):
            return False
        with self._lock:
            self.recorded += 1
            tally = self._tallies.get(shard)
            if tally is None:
                tally = self._tallies[shard] = Tally()
            tally.add(event, replaces)
        return True

    def take_tally(self, shard: int) -> Tally | None:
        """The tally since the last call."""
        with self._lock:
            return self._tallies.pop(shard, None)

    def shard_of(self, workspace: str) -> int:
        return shard_of(workspace, self._shards)

    def dropped(self) -> Counter[str]:
        return self.journal.dropped
