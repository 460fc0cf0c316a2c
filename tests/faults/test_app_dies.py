"""The app's processes end, in every way that processes end."""

import random

import pytest

from tests.conftest import RedisServer
from tests.faults.conftest import StartApp, Traffic, expect_all, recorded_ids

SERVERS = ("uvicorn", "gunicorn")


@pytest.mark.parametrize("server", SERVERS)
def test_a_terminated_app_has_sent_everything_when_it_is_gone(
    server: str, start_app: StartApp, redis_server: RedisServer
) -> None:
    app = start_app(server, redis_server.url)
    with Traffic(app.port) as traffic:
        traffic.wait_for(300)
        app.terminate()

    assert traffic.answered <= recorded_ids(redis_server)


def test_killed_workers_lose_only_calls_in_flight(
    start_app: StartApp, redis_server: RedisServer, pytestconfig: pytest.Config
) -> None:
    app = start_app("gunicorn", redis_server.url)
    with Traffic(app.port) as traffic:
        for _ in range(pytestconfig.getoption("kills")):
            traffic.wait_for(random.randint(1, 40))
            app.kill_a_worker()
        traffic.wait_for(50)

    expect_all(traffic, redis_server)


def test_killed_workers_of_an_asgi_server_lose_only_calls_in_flight(
    start_app: StartApp, redis_server: RedisServer
) -> None:
    app = start_app("uvicorn", redis_server.url)
    with Traffic(app.port) as traffic:
        for _ in range(3):
            traffic.wait_for(random.randint(50, 200))
            app.kill_a_worker()
        traffic.wait_for(50)

    expect_all(traffic, redis_server)


def test_workers_that_live_for_a_moment_lose_nothing(start_app: StartApp, redis_server: RedisServer) -> None:
    app = start_app("gunicorn", redis_server.url, GUNICORN_CMD_ARGS="--max-requests 30")
    with Traffic(app.port) as traffic:
        traffic.wait_for(300)

    expect_all(traffic, redis_server)


@pytest.mark.parametrize("server", SERVERS)
def test_what_a_killed_app_left_is_sent_when_it_starts_again(
    server: str, start_app: StartApp, redis_server: RedisServer
) -> None:
    app = start_app(server, redis_server.url)
    with Traffic(app.port) as traffic:
        traffic.wait_for(300)
        app.kill_all()

    start_app(server, redis_server.url)

    expect_all(traffic, redis_server)


def test_an_app_killed_while_redis_was_away_loses_nothing(start_app: StartApp, redis_server: RedisServer) -> None:
    app = start_app("gunicorn", redis_server.url)
    redis_server.kill()
    with Traffic(app.port) as traffic:
        traffic.wait_for(300)
        app.kill_all()

    redis_server.start()
    start_app("gunicorn", redis_server.url)

    expect_all(traffic, redis_server)
