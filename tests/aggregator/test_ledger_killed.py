"""kill -9 of the service while it settles what comes: the books balance, and `verify` says so."""

import random
import threading
from pathlib import Path
from typing import Any

import redis

from aggregator.backlog import Backlog
from aggregator.dead_letters import DeadLetters
from aggregator.ledger import Ledger
from tests.aggregator.events import NOON, call, entry
from tests.conftest import RedisServer, wait_until
from tests.processes import repeatedly, serving
from tests.test_commands import run
from usage_meter import keys

LIVES = 2
LONGEST_LIFE = 0.6  # seconds from the first entry that a service settles until it is killed
AHEAD_US = 100 * 366 * 86_400_000_000


class Sender:
    """Sends small entries one after the other, so that there are many steps to die between; now and then one that
    cannot be read, or holds a call that is refused, and what somebody does with dead letters."""

    def __init__(self, client: "redis.Redis", seed: int) -> None:
        self.entries = self.events = self.good = 0
        self._redis = client
        self._random = random.Random(seed)
        self._letters = DeadLetters(client, Backlog(client))

    def send(self) -> None:
        fate, number = self._random.random(), self._random.randint(1, 40)
        fields: dict[Any, Any] = entry(*(call() for _ in range(number)))
        if fate < 0.1:
            fields[b"v"] = b"99"
        elif fate < 0.2:
            ahead = call()
            ahead.started_us += AHEAD_US
            fields = entry(ahead, *(call() for _ in range(number - 1)))
        self._redis.xadd(keys.events(0), fields)
        self.entries += 1
        self.events += number
        self.good += 0 if fate < 0.1 else number - (fate < 0.2)
        if fate > 0.95:
            self._release()

    def _release(self) -> None:
        letter = next(self._letters.all(), None)
        if letter and self._random.random() < 0.5:
            self._letters.drop(letter)
        elif letter:
            self._letters.retry(letter)
            self.entries += 1
            self.events += letter.events or 0


def test_the_books_balance_after_kills_at_random_moments(
    redis_server: RedisServer, redis_client: "redis.Redis", tmp_path: Path
) -> None:
    sender, chance, ledger = Sender(redis_client, seed=7), random.Random(7), Ledger(redis_client)
    directory = tmp_path / "data"
    for _ in range(LIVES):
        with repeatedly(sender.send, 0.003), serving(directory, redis_url=redis_server.url) as service:
            before = _settled(ledger)
            wait_until(lambda: _settled(ledger) > before, "it settles again", 30)  # noqa: B023
            threading.Event().wait(chance.uniform(0, LONGEST_LIFE))
            service.kill()
        died = ledger.account(0)
        assert died
        assert (died.accepted, died.missing_entries, died.missing_events) == (sender.entries, 0, 0)
    with serving(directory, redis_url=redis_server.url) as service:
        wait_until(lambda: not redis_client.xlen(keys.events(0)), "all is settled", 60)
        stored = service.total("requests", start=f"{NOON:%Y-%m-%d}", end=f"{NOON:%Y-%m-%d}")
        assert service.stop() == 0

    found = ledger.account(0)
    said = run("verify", "--store-url", f"chdb://{directory}", "--redis-url", redis_server.url)

    assert stored == sender.good
    assert found
    assert (found.settled, found.waiting, found.events) == (sender.entries, 0, sender.events)
    assert found.stored == sender.good, "what was stored twice is settled once"
    assert found.dead + found.dropped + found.retried == sender.events - sender.good
    assert found.dropped > 0 < found.retried
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"stored\t{sender.good}\n" in said.stdout
    assert "missing_entries\t0\n" in said.stdout
    assert "missing_events\t0\n" in said.stdout


def _settled(ledger: Ledger) -> int:
    account = ledger.account(0)
    return account.settled if account else 0
