"""Behind a real uWSGI, which forks without telling Python, and runs Python's threads only where it is told to."""

import signal

import pytest

from tests.conftest import RedisServer, missing
from tests.faults.conftest import App, StartApp, Traffic, expect_all, uwsgi

THREADS = ("--enable-threads", "--threads", "4")


@pytest.fixture(autouse=True)
def _present() -> None:
    if not uwsgi():
        missing("uWSGI (pip install pyuwsgi)")


@pytest.mark.parametrize("lazy", [(), ("--lazy-apps",)], ids=["forked", "lazy"])
@pytest.mark.parametrize("threads", [THREADS, ("--enable-threads",)], ids=["threads", "no threads"])
def test_workers_that_are_recycled_killed_and_ended_lose_no_answered_call(
    start_app: StartApp, redis_server: RedisServer, lazy: tuple[str, ...], threads: tuple[str, ...]
) -> None:
    app = start_app("uwsgi", redis_server.url, options=(*threads, *lazy, "--max-requests", "200"))
    with Traffic(app.port) as traffic:
        traffic.wait_for(1000)  # several times through all workers
        for _ in range(3):
            app.kill_a_worker()
            traffic.wait_for(100)
    end(app)
    start_app("uwsgi", redis_server.url, options=(*threads, *lazy))  # finds what the killed ones left

    expect_all(traffic, redis_server)


def end(app: App) -> None:
    app.process.send_signal(signal.SIGTERM)
    app.process.wait(60)
