"""The recorder on a Redis Cluster of two nodes, with slots that move."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, free_port, wait_until
from tests.meter.test_recorder import an_event, stored
from usage_meter import Meter, UsageEvent, keys

SHARDS = 8
HALF = 8192  # of the 16384 slots


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Two nodes that know each other, each with half of the slots."""
    servers = [a_node(tmp_path / name) for name in ("a", "b")]
    try:
        for server in servers:
            server.start()
        join(*servers)
        yield servers
    finally:
        for server in servers:
            server.kill()


def a_node(directory: Path) -> RedisServer:
    directory.mkdir()
    bus = ("--cluster-port", str(free_port()))  # by default the port and 10,000, which may be none
    return RedisServer(directory, options=("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *bus))


def join(first: RedisServer, second: RedisServer) -> None:
    ask(first, "CLUSTER", "ADDSLOTSRANGE", 0, HALF - 1)
    ask(second, "CLUSTER", "ADDSLOTSRANGE", HALF, 16383)
    ask(first, "CLUSTER", "MEET", "127.0.0.1", second.port, second.options[-1])
    wait_until(lambda: is_whole(first) and is_whole(second), "the cluster is whole")


def ask(server: RedisServer, *command: Any) -> Any:
    client: Any = server.client()
    with client:
        return client.execute_command(*command)


def is_whole(server: RedisServer) -> bool:
    known = ask(server, "CLUSTER", "INFO")
    return b"cluster_state:ok" in known and b"cluster_known_nodes:2" in known


def everything(nodes: list[RedisServer]) -> list[UsageEvent]:
    """The events of all shards, wherever they are."""
    found: list[UsageEvent] = []
    for server in nodes:
        client: Any = server.client()
        with client:
            for key in client.keys("um:{*}:events"):
                found += stored(client, int(key.split(b"}")[0].split(b"{")[1]))
    return found


@pytest.fixture
def meter(nodes: list[RedisServer], tmp_path: Path) -> Iterator[Meter]:
    url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    meter = Meter(url, shards=SHARDS, journal_dir=tmp_path / "journal", redis_timeout=2.0, environ={})
    yield meter
    meter.close()


def test_workspaces_are_spread_over_the_nodes(meter: Meter, nodes: list[RedisServer]) -> None:
    events = [an_event(workspace=f"w{number}") for number in range(200)]
    for event in events:
        meter.record(event)
        meter.recorder.enter(event)

    assert meter.close()

    assert sorted(event.id for event in everything(nodes)) == sorted(event.id for event in events)
    assert all(ask(server, "KEYS", "um:{*}:events") for server in nodes)
    assert {int(shard) for server in nodes for shard in members(server)} == set(range(SHARDS))


def members(server: RedisServer) -> set[bytes]:
    """The shards, from the node that has them."""
    client: Any = server.client()
    with client:
        return set(client.smembers(keys.SHARDS)) if client.keys(keys.SHARDS) else set()


def test_events_follow_a_shard_that_moves(meter: Meter, nodes: list[RedisServer]) -> None:
    first = an_event(workspace="acme")
    shard = keys.shard_of("acme", SHARDS)
    meter.record(first)
    wait_until(lambda: meter.recorder.statistics().sent == 1, "the first event is sent")
    move(nodes, keys.events(shard))

    second = an_event(workspace="acme", started_us=time.time_ns() // 1000)
    meter.record(second)

    wait_until(lambda: {event.id for event in everything(nodes)} == {first.id, second.id}, "both are there")


def move(nodes: list[RedisServer], key: str) -> None:
    """Move a key's slot, with what is in it, to the other node."""
    slot = ask(nodes[0], "CLUSTER", "KEYSLOT", key)
    here, there = nodes if slot < HALF else nodes[::-1]
    receiver = ask(there, "CLUSTER", "MYID").decode()
    ask(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(here, "CLUSTER", "MYID").decode())
    ask(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", receiver)
    names = ask(here, "CLUSTER", "GETKEYSINSLOT", slot, 100)
    ask(here, "MIGRATE", "127.0.0.1", there.port, "", 0, 5000, "KEYS", *names)
    for server in (there, here):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", receiver)
