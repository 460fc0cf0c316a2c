"""`usage-meter dead`: what could not be stored is seen, sent again once it can be, or dropped."""

import re
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from aggregator.backlog import Backlog
from aggregator.cli import app
from aggregator.consumer import Consumer
from aggregator.dead_letters import DeadLetters
from aggregator.embedded_redis import EmbeddedRedis
from aggregator.errors import NotFoundError
from aggregator.query import Statement
from aggregator.store import Store
from tests.aggregator.events import call, entry
from tests.conftest import RedisServer
from usage_meter import keys


def bury(client: "redis.Redis", reason: str, shard: int = 0, **fields: Any) -> str:
    """As the consumer does it; the letter's name."""
    client.sadd(keys.SHARDS, shard)
    letter: dict[Any, Any] = {**entry(call()), **fields, "reason": reason}
    id: Any = client.xadd(keys.dead(shard), letter)
    return f"{shard}/{id.decode()}"


def dead(client: "redis.Redis") -> DeadLetters:
    return DeadLetters(client, Backlog(client))


def usage_meter(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environ})


def test_letters_of_all_shards_are_shown_the_oldest_first(redis_client: "redis.Redis") -> None:
    names = [bury(redis_client, f"reason {number}", shard=number % 2) for number in range(120)]

    found = list(dead(redis_client).all())

    assert [letter.name for letter in found] == names[::2] + names[1::2]
    assert found[0].reason == "reason 0"
    assert found[0].events == 1
    assert found[0].bytes > 100


def test_a_letter_that_says_nothing_of_itself_is_shown_all_the_same(redis_client: "redis.Redis") -> None:
    redis_client.xadd(keys.dead(0), {"x": b"\xff"})

    (letter,) = dead(redis_client).all()

    assert (letter.events, letter.reason) == (None, "")


def test_what_is_sent_again_is_stored_once_it_can_be(redis_client: "redis.Redis", store: Store) -> None:
    consumer = Consumer(redis_client, store, Backlog(redis_client), name="us")
    early = call(user="early")
    mended = entry(early)
    newer = {**mended, b"v": b"99"}
    redis_client.xadd(keys.events(0), newer)
    consumer.step()
    (letter,) = dead(redis_client).all()

    dead(redis_client).retry(letter)
    consumer.step()

    (again,) = dead(redis_client).all()
    assert (again.reason, again.fields[b"b"]) == (letter.reason, letter.fields[b"b"])

    redis_client.xdel(keys.dead(0), again.id)
    redis_client.xadd(keys.dead(0), {**mended, b"reason": b"mended by hand"})
    for letter in dead(redis_client).all():
        dead(redis_client).retry(letter)
    consumer.step()

    assert list(dead(redis_client).all()) == []
    assert store.select(Statement("SELECT user FROM events FINAL", {})) == [("early",)]


def test_sending_all_again_ends_though_they_come_back(redis_client: "redis.Redis", store: Store) -> None:
    consumer = Consumer(redis_client, store, Backlog(redis_client), name="us")
    for _ in range(3):
        bury(redis_client, "of old", b="broken")

    retried = 0
    for letter in dead(redis_client).all():
        dead(redis_client).retry(letter)
        consumer.step()
        retried += 1

    assert retried == 3
    assert len(list(dead(redis_client).all())) == 3


def test_what_is_dropped_is_gone_and_the_others_stay(redis_client: "redis.Redis") -> None:
    bad, good = bury(redis_client, "bad"), bury(redis_client, "good")

    for letter in dead(redis_client).named([bad]):
        dead(redis_client).drop(letter)

    assert [letter.name for letter in dead(redis_client).all()] == [good]


@pytest.mark.parametrize("name", ["0/1-1", "7/1-1", "0/", "0", "", "x/1-1", "0/x"])
def test_a_name_that_is_none_is_said(redis_client: "redis.Redis", name: str) -> None:
    bury(redis_client, "there")

    with pytest.raises(NotFoundError, match=f"no dead letter {re.escape(name)}: `usage-meter dead list`"):
        dead(redis_client).named([name])


def test_the_commands_do_what_they_say(redis_server: RedisServer, redis_client: "redis.Redis") -> None:
    first = bury(redis_client, "starts more than a day in the future")
    bury(redis_client, "[red]payload[/red] does not inflate", b="broken")
    bury(redis_client, "another")

    shown = usage_meter("dead", "list", AGGREGATOR_REDIS_URL=redis_server.url)
    again = usage_meter("dead", "retry", first, AGGREGATOR_REDIS_URL=redis_server.url)
    dropped = usage_meter("dead", "drop", "--all", "--redis-url", redis_server.url)
    nothing = usage_meter("dead", "list", "--redis-url", redis_server.url)

    assert [line.split()[0] for line in shown.stdout.splitlines()][:2] == ["name", first]
    assert "starts more than a day in the future" in shown.stdout
    assert "[red]payload[/red] does not inflate" in shown.stdout
    assert (again.stdout, again.exit_code) == ("sent again\t1\n", 0)
    assert redis_client.xlen(keys.events(0)) == 1
    assert (dropped.stdout, dropped.exit_code) == ("dropped\t2\n", 0)
    assert nothing.stdout == "nothing: all that came was stored\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry"], "say which: names as `usage-meter dead list` shows them, or --all"),
        (["drop", "0/1-1", "--all"], "say which"),
        (["drop", "0/1-1"], "there is no dead letter 0/1-1"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(
    redis_server: RedisServer, arguments: list[str], message: str
) -> None:
    answer = usage_meter("dead", *arguments, AGGREGATOR_REDIS_URL=redis_server.url)

    assert answer.exit_code == 2
    assert message in answer.stderr
    assert isinstance(answer.exception, SystemExit)


def test_beside_an_embedded_redis_the_running_one_is_asked(tmp_path: Path) -> None:
    environ = {"AGGREGATOR_REDIS_URL": "embedded", "AGGREGATOR_STORE_URL": f"chdb://{tmp_path}"}
    with EmbeddedRedis(tmp_path / "redis"):
        running = usage_meter("dead", "list", **environ)
    gone = usage_meter("dead", "list", **environ)

    assert running.stdout == "nothing: all that came was stored\n"
    assert gone.exit_code == 2
    assert f"no embedded Redis runs in {tmp_path}: start the service first" in gone.stderr
