"""Redis fails, in every way that a Redis fails. The app's calls notice nothing, and nothing is lost."""

import shutil
import socket
import threading
from pathlib import Path

import pytest

from tests.conftest import RedisServer, free_port
from tests.faults.conftest import StartApp, Traffic, expect_all, paused, recorded_ids


@pytest.fixture
def persistent_redis(tmp_path: Path) -> RedisServer:
    """A Redis with an append-only file, synced each second: what most run."""
    directory = tmp_path / "persistent"
    directory.mkdir()
    return RedisServer(directory, options=("--appendonly", "yes", "--appendfsync", "everysec"))


def test_a_redis_that_hangs_for_a_while(
    start_app: StartApp, redis_server: RedisServer, pytestconfig: pytest.Config
) -> None:
    app = start_app("uvicorn", redis_server.url)
    with Traffic(app.port) as traffic:
        traffic.wait_for(100)
        with paused(redis_server):
            threading.Event().wait(pytestconfig.getoption("outage_seconds"))
            traffic.wait_for(100)
        traffic.wait_for(100)

    expect_all(traffic, redis_server)


def test_a_redis_that_is_killed_and_comes_back_with_its_file(
    start_app: StartApp, persistent_redis: RedisServer
) -> None:
    persistent_redis.start()
    try:
        app = start_app("uvicorn", persistent_redis.url)
        with Traffic(app.port) as traffic:
            traffic.wait_for(200)
            persistent_redis.kill()
            traffic.wait_for(200)
            persistent_redis.start()
            traffic.wait_for(200)

        expect_all(traffic, persistent_redis)
    finally:
        persistent_redis.kill()


def test_a_redis_that_comes_back_without_its_last_second(
    start_app: StartApp, persistent_redis: RedisServer, tmp_path: Path
) -> None:
    file, earlier = persistent_redis.directory / "appendonlydir", tmp_path / "a second ago"
    persistent_redis.start()
    try:
        app = start_app("gunicorn", persistent_redis.url)
        with Traffic(app.port) as traffic:
            traffic.wait_for(200)
            shutil.copytree(file, earlier)
            traffic.wait_for(400)
            persistent_redis.kill()
            before = set(traffic.answered)
            shutil.rmtree(file)
            shutil.copytree(earlier, file)
            persistent_redis.start()
            assert before - recorded_ids(persistent_redis), "it has forgotten something"
            traffic.wait_for(100)

        expect_all(traffic, persistent_redis)
    finally:
        persistent_redis.kill()


def test_a_redis_that_comes_back_empty_after_the_app_was_closed(start_app: StartApp, redis_server: RedisServer) -> None:
    app = start_app("gunicorn", redis_server.url)
    with Traffic(app.port) as traffic:
        traffic.wait_for(200)
    app.terminate()
    redis_server.kill()
    redis_server.start()

    start_app("gunicorn", redis_server.url)

    expect_all(traffic, redis_server)


def test_a_redis_that_accepts_but_never_answers(start_app: StartApp, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, port=free_port())
    with socket.create_server(("127.0.0.1", server.port)):
        app = start_app("uvicorn", server.url)
        with Traffic(app.port) as traffic:
            traffic.wait_for(1000)

    server.start()
    try:
        expect_all(traffic, server)
    finally:
        server.kill()
