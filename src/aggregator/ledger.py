"""The books of a stream: what came in, and what became of it.

They lie in Redis beside the stream and move in the same step as what they tell of, so a crash at any moment leaves them
right, and an entry that two consumers stored is settled once: by the one whose acknowledgement removes it. Redis itself
counts what is added to a stream, which is what they are held against.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from usage_meter import keys

# KEYS: stream, dead letters, books. ARGV: group; the number of entries; of each its id, its events and how many of them
# are stored; then of each letter its entry, its events, how many strings follow, and those: its fields.
SETTLE = """
local at, is_ours = 3, {}
for _ = 1, tonumber(ARGV[2]) do
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
    if redis.call('XDEL', KEYS[1], ARGV[at]) == 1 then
        is_ours[ARGV[at]] = true
        redis.call('HINCRBY', KEYS[3], 'entries', 1)
        redis.call('HINCRBY', KEYS[3], 'events', ARGV[at + 1])
        redis.call('HINCRBY', KEYS[3], 'stored', ARGV[at + 2])
    end
    at = at + 3
end
while ARGV[at] do
    local last = at + 2 + tonumber(ARGV[at + 2])
    if is_ours[ARGV[at]] then
        redis.call('XADD', KEYS[2], '*', unpack(ARGV, at + 3, last))
        redis.call('HINCRBY', KEYS[3], 'dead', ARGV[at + 1])
    end
    at = last + 1
end
"""

# KEYS: stream, books. What was settled before there were books is no part of them. Before Redis 7 nobody counts.
BEGIN = """
local info, facts = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for position = 1, #info, 2 do facts[info[position]] = info[position + 1] end
if facts['entries-added'] then
    redis.call('HSETNX', KEYS[2], 'before', facts['entries-added'] - facts['length'])
end
"""

# KEYS: dead letters, stream, books. ARGV: the letter, its events, `retried` or `dropped`, and to send again its fields.
RELEASE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
if #ARGV > 3 then redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4)) end
redis.call('HINCRBY', KEYS[3], ARGV[3], ARGV[2])
return 1
"""

LOOKS = 20  # at books that move, before their letters are counted while they do
PAGE = 50  # letters in hand at once, their payloads with them


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry that is stored, and what could not be is a letter."""

    id: bytes
    events: int
    stored: int


@dataclass(frozen=True, slots=True)
class Account:
    """Of one shard. Entries first, then events; `accepted` is None where Redis does not count what it takes."""

    shard: int
    accepted: int | None
    settled: int
    waiting: int
    events: int
    """In the entries that were settled; those that were sent again count again."""
    stored: int
    """Duplicates and corrections too."""
    dead: int
    """That lie in the dead-letter stream."""
    dropped: int
    retried: int

    @property
    def missing_entries(self) -> int:
        """Accepted, and neither settled nor waiting: somebody else removed them. Below 0 if too much is settled."""
        return 0 if self.accepted is None else self.accepted - self.settled - self.waiting

    @property
    def missing_events(self) -> int:
        return self.events - self.stored - self.dead - self.dropped - self.retried


class Ledger:
    """Redis errors pass to the caller."""

    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client

    def begin(self, shard: int) -> None:
        """Open the books of a stream that exists, if they are not."""
        self._redis.eval(BEGIN, 2, keys.events(shard), keys.ledger(shard))

    def settle(
        self, shard: int, entries: Sequence[Settled], letters: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
    ) -> None:
        """Acknowledge and remove the entries, and put the letters, each with its entry, aside: all in one step."""
        told: list[Any] = [keys.GROUP, len(entries)]
        for one in entries:
            told += (one.id, one.events, one.stored)
        for entry, fields in letters:
            flat = [part for pair in fields.items() for part in pair]
            told += (entry, events_of(fields), len(flat), *flat)
        self._redis.eval(SETTLE, 3, keys.events(shard), keys.dead(shard), keys.ledger(shard), *told)

    def retried(self, shard: int, letter: str, fields: Mapping[bytes, bytes]) -> bool:
        """Send a letter's entry again; False when somebody else has taken the letter meanwhile."""
        flat = [part for pair in fields.items() for part in pair]
        return self._release(shard, letter, events_of(fields), "retried", flat)

    def dropped(self, shard: int, letter: str, fields: Mapping[bytes, bytes]) -> bool:
        """Delete a letter; False when it is gone already."""
        return self._release(shard, letter, events_of(fields), "dropped", [])

    def _release(self, shard: int, letter: str, events: int, fate: str, fields: list[bytes]) -> bool:
        places = keys.dead(shard), keys.events(shard), keys.ledger(shard)
        told: list[Any] = [letter, events, fate, *fields]
        return bool(self._redis.eval(RELEASE, 3, *places, *told))

    def account(self, shard: int) -> Account | None:
        """As of one moment, also while consumers work; None where nothing has been settled yet."""
        before, stream = self._read(shard)
        for _ in range(LOOKS):
            lying = sum(self._lying(shard))
            after, stream = self._read(shard)
            if after == before:
                break
            before = after
        if stream is None:
            return None
        added, begun = stream.get("entries-added"), after.get("before")
        return Account(
            shard=shard,
            accepted=None if added is None or begun is None else added - begun,
            settled=after.get("entries", 0),
            waiting=stream["length"],
            events=after.get("events", 0),
            stored=after.get("stored", 0),
            dead=lying,
            dropped=after.get("dropped", 0),
            retried=after.get("retried", 0),
        )

    def missing_entries(self, shard: int) -> int:
        """As the account has it, without counting the letters: cheap."""
        books, stream = self._read(shard)
        added, begun = (stream or {}).get("entries-added"), books.get("before")
        if added is None or begun is None:
            return 0
        return int(added) - begun - books.get("entries", 0) - int(stream["length"])

    def _read(self, shard: int) -> tuple[dict[str, int], Any]:
        with self._redis.pipeline(transaction=True) as transaction:
            transaction.hgetall(keys.ledger(shard))
            transaction.xinfo_stream(keys.events(shard))
            books, stream = transaction.execute(raise_on_error=False)
        for answer in (books, stream):
            if isinstance(answer, redis.RedisError) and "no such key" not in str(answer):
                raise answer
        found = {name.decode(): int(value) for name, value in books.items()}
        return found, None if isinstance(stream, redis.RedisError) else stream

    def _lying(self, shard: int) -> Iterator[int]:
        after = "-"
        while True:
            page: Any = self._redis.xrange(keys.dead(shard), after, "+", PAGE)
            yield from (events_of(fields) for _, fields in page)
            if len(page) < PAGE:
                return
            after = f"({page[-1][0].decode()}"


def events_of(fields: Mapping[bytes, bytes]) -> int:
    """How many events an entry says that it has; 0 where it says nothing of the kind."""
    count = fields.get(b"n", b"")
    return int(count) if count.isdigit() and len(count) < 10 else 0
