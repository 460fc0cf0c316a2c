"""A metered app behind a real server, and clients that note which calls were answered.

The promise under test is always the same: each call that got its answer is in the stream, whatever was done to the
app or to Redis meanwhile; only a call that was in flight when its process was killed may be missing.
"""

import http.client
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import RedisServer, free_port, wait_until
from usage_meter import keys
from usage_meter.event import unpack

PATIENCE = 10.0  # seconds that a client waits for an answer: a call that waited for Redis would take longer


class Traffic:
    """Clients that call one after the other, each call with an id of its own, until told to stop."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.answered: set[str] = set()
        self.too_slow: list[str] = []
        self._port = port
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call_on_and_on) for _ in range(clients)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, calls: int) -> None:
        """Until so many more calls were answered."""
        aim = len(self.answered) + calls
        wait_until(lambda: len(self.answered) >= aim, f"{calls} more calls are answered", 60)

    def _call_on_and_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._stopped.is_set():
            request_id = f"call-{next(self._numbers)}"
            try:
                connection.request("GET", "/v1/x", headers={"X-Request-ID": request_id})
                response = connection.getresponse()
                if response.read() == b"ok" and response.status == 200:
                    self.answered.add(request_id)
            except TimeoutError:
                self.too_slow.append(request_id)
                connection.close()
            except (
                OSError,
                http.client.HTTPException,
            ):  # its worker was killed: the call may be lost, the client is not
                connection.close()
                self._stopped.wait(0.01)
        connection.close()


@dataclass
class App:
    """A server process with its workers."""

    process: "subprocess.Popen[bytes]"
    port: int

    def workers(self) -> list[psutil.Process]:
        """The processes that serve (not the one that watches over them, nor its resource tracker)."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if not any("resource_tracker" in part for part in _command(child))]

    def kill_a_worker(self) -> None:
        workers = self.workers()
        if workers:
            with suppress(psutil.NoSuchProcess):  # it was still being buried
                random.choice(workers).kill()

    def kill_all(self) -> None:
        """As an out-of-memory kill of the whole container does it."""
        everybody = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in everybody:
            process.suspend()  # so that none starts another meanwhile
        for process in everybody:
            process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.terminate()
        self.process.wait()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


StartApp = Callable[..., App]


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """`start_app(server, redis_url)`, of uvicorn, gunicorn and uwsgi: two workers, all on one journal."""
    apps: list[App] = []

    def start(
        server: str, redis_url: str, prefix: tuple[str, ...] = (), options: tuple[str, ...] = (), **environ: str
    ) -> App:
        port = free_port()
        environment = {
            **os.environ,
            "USAGE_METER_REDIS_URL": redis_url,
            "USAGE_METER_JOURNAL_DIR": str(tmp_path / "journal"),
            "USAGE_METER_REDIS_TIMEOUT": str(
                3 * PATIENCE
            ),  # so that a call which waits for Redis, if once, is too slow
            **environ,
        }
        log = (tmp_path / f"{server}.log").open("ab")
        command = [*prefix, *_command_of(server, port), *options]
        app = App(subprocess.Popen(command, env=environment, stdout=log, stderr=log), port)
        log.close()
        apps.append(app)
        wait_until(lambda: _answers(port), f"{server} answers", 30)
        return app

    yield start
    for app in apps:
        if app.process.poll() is None:
            app.kill_all()


def uwsgi() -> str | None:
    """The server, where `pyuwsgi` has brought one or the system has it."""
    return shutil.which("uwsgi", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def _command_of(server: str, port: int) -> list[str]:
    if server == "uwsgi":
        where = ["--http-socket", f"127.0.0.1:{port}", "--module", "tests.faults.metered_app:wsgi_app"]
        return [
            uwsgi() or "uwsgi",
            *where,
            "--master",
            "--processes",
            "2",
            "--die-on-term",
            "--disable-logging",
            "--worker-reload-mercy",
            "5",
        ]
    return [sys.executable, "-m", *_arguments(server, port)]


def _arguments(server: str, port: int) -> list[str]:
    if server == "uvicorn":
        app = "tests.faults.metered_app:asgi_app"
        return ["uvicorn", app, "--workers", "2", "--port", str(port), "--log-level", "warning"]
    app = "tests.faults.metered_app:wsgi_app"
    threads = ["--worker-class", "gthread", "--threads", "4", "--preload"]
    return ["gunicorn", app, "--workers", "2", *threads, "--bind", f"127.0.0.1:{port}", "--log-level", "warning"]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def recorded_ids(server: RedisServer) -> set[str]:
    """The request ids of every event in the stream."""
    client: Any = server.client()
    with client:
        entries = client.xrange(keys.events(0))
    return {event.request_id for _, fields in entries for event in unpack(fields[b"b"], int(fields[b"n"]))}


def expect_all(traffic: Traffic, server: RedisServer) -> None:
    """Every call that was answered is in the stream, now or soon."""
    assert traffic.answered
    missing: set[str] = set()

    def complete() -> bool:
        missing.clear()
        missing.update(traffic.answered - recorded_ids(server))
        return not missing

    wait_until(complete, f"all {len(traffic.answered)} answered calls are in the stream", 30)
    assert traffic.too_slow == []


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """Redis neither answers nor refuses, as a machine does that hangs."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()
