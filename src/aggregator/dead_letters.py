"""The dead-letter streams: see what could not be stored and why, send it again, or drop it for good.

A letter is the entry as it came, with the reason. Sending it again is harmless whatever has happened meanwhile: its
events have the ids that they had.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from aggregator.backlog import Backlog
from aggregator.entry import UNSEAL
from aggregator.errors import NotFoundError
from aggregator.ledger import Ledger
from usage_meter import keys

PAGE = 50  # letters in hand at once, their payloads with them


@dataclass(frozen=True, slots=True)
class DeadLetter:
    shard: int
    id: str
    reason: str
    events: int | None
    """How many, as far as the entry says so."""
    fields: dict[bytes, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.shard}/{self.id}"

    @property
    def since_us(self) -> int:
        """When it was put aside (UTC microseconds)."""
        return int(self.id.partition("-")[0]) * 1000

    @property
    def bytes(self) -> int:
        return sum(map(len, self.fields.values()))


class DeadLetters:
    """Redis errors pass to the caller."""

    def __init__(self, client: "redis.Redis", backlog: Backlog) -> None:
        self._redis = client
        self._backlog = backlog
        self._ledger = Ledger(client)

    def all(self) -> Iterator[DeadLetter]:
        """Shard by shard, the oldest first; what comes while they are read is not among them."""
        for shard in self._backlog.shards():
            newest: Any = self._redis.xrevrange(keys.dead(shard), count=1)
            after = "-"
            while newest and (page := self._range(shard, after, newest[0][0], PAGE)):
                yield from page
                after = f"({page[-1].id}"

    def named(self, names: Iterable[str]) -> list[DeadLetter]:
        """Raises NotFoundError for a name that is none."""
        return [self._named(name) for name in names]

    def retry(self, letter: DeadLetter, unseal: bool = False) -> None:
        """Send it again, as it came: the consumer decides anew. `unseal` has it let in what it would refuse for its
        sealed day."""
        fields = {name: value for name, value in letter.fields.items() if name not in (b"reason", UNSEAL)}
        if unseal:
            fields[UNSEAL] = b"1"
        self._ledger.retried(letter.shard, letter.id, fields)

    def drop(self, letter: DeadLetter) -> None:
        self._ledger.dropped(letter.shard, letter.id, letter.fields)

    def _named(self, name: str) -> DeadLetter:
        shard, _, id = name.partition("/")
        try:
            found = self._range(int(shard), id, id, 1)
        except (ValueError, redis.ResponseError):
            found = []
        if not found:
            raise NotFoundError(f"there is no dead letter {name}: `usage-meter dead list` names them")
        return found[0]

    def _range(self, shard: int, first: str, last: str | bytes, count: int) -> list[DeadLetter]:
        found: Any = self._redis.xrange(keys.dead(shard), first, last, count)
        return [_letter(shard, id.decode(), fields) for id, fields in found]


def _letter(shard: int, id: str, fields: dict[bytes, bytes]) -> DeadLetter:
    count = fields.get(b"n", b"")
    return DeadLetter(
        shard=shard,
        id=id,
        reason=fields.get(b"reason", b"").decode(errors="replace"),
        events=int(count) if count.isdigit() else None,
        fields=fields,
    )
