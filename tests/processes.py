"""Real processes for tests: the service and the example API, started as a user does, killed as a machine does."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port, wait_until

ROOT = Path(__file__).parents[1]
COMMAND = str(Path(sys.executable).parent / "usage-meter")


@contextmanager
def alongside(work: Callable[[threading.Event], object]) -> Iterator[None]:
    """Does it in a thread of its own, which is told by the event that the block is over, and waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def repeatedly(act: Callable[[], object], pause: float) -> Iterator[None]:
    """Does it again and again, so many seconds apart, for as long as the block lasts."""

    def go_on(stop: threading.Event) -> None:
        while not stop.wait(pause):
            act()

    with alongside(go_on):
        yield


@dataclass
class ServiceProcess:
    """`usage-meter serve` on a port of its own; `redis_url` is the one that it prints."""

    process: "subprocess.Popen[str]"
    page: str
    redis_url: str

    def get(self, path: str, **parameters: Any) -> Any:
        response = httpx.get(self.page + path.lstrip("/"), params=parameters, timeout=30)
        assert response.status_code == 200, response.text
        return response.json()

    def total(self, metric: str, **parameters: Any) -> Any:
        answer = self.get("/v1/usage", metric=metric, interval="total", **parameters)
        return answer["series"][0]["total"]

    def kill(self) -> None:
        """As `kill -9` does it."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()
        return code


@contextmanager
def serving(
    directory: Path | str,
    *,
    redis_url: str = "embedded",
    settings: Mapping[str, str] | None = None,
    role: str = "all",
    log: Path | None = None,
) -> Iterator[ServiceProcess]:
    """A running service on this directory, or this store's URL; stopped at the end, unless the test has ended it
    already. What it logs goes to `log`."""
    store_url = directory if isinstance(directory, str) else f"chdb://{directory}"
    service = _serve(store_url, redis_url, settings or {}, role, log)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def _serve(store_url: str, redis_url: str, settings: Mapping[str, str], role: str, log: Path | None) -> ServiceProcess:
    command = [COMMAND, "serve", "--port", "0", "--store-url", store_url, "--redis-url", redis_url, "--role", role]
    with ExitStack() as stack:
        errors = stack.enter_context(log.open("a")) if log else None
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | settings)
    lines: dict[str, str] = {}
    assert process.stdout
    for line in process.stdout:
        name, _, value = line.rstrip("\n").partition("\t")
        lines[name] = value
        if name == "redis":
            break
    service = ServiceProcess(
        process, lines.get("page") or lines.get("metrics", "").removesuffix("metrics"), lines.get("redis", "")
    )
    if not service.redis_url:
        pytest.fail(f"the service ended with {service.stop()} and said {lines}")
    wait_until(lambda: answers(service.page + "healthz"), "the service answers")
    return service


@contextmanager
def speech_api(redis_url: str, journal: Path, workers: int = 2) -> Iterator[str]:
    """The example API under uvicorn; its address. Stopped in order, so that its meters drain."""
    port = free_port()
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "USAGE_METER_REDIS_URL": redis_url,
        "USAGE_METER_JOURNAL_DIR": str(journal),
        "USAGE_METER_KEY_SECRET": "a secret of the tests",
    }
    command = [sys.executable, "-m", "uvicorn", "examples.speech_api.app:app", "--factory", "--log-level", "warning"]
    process = subprocess.Popen([*command, "--workers", str(workers), "--port", str(port)], env=environ, cwd=ROOT)
    try:
        wait_until(lambda: listens(port), "the speech API listens")  # a request would be metered like any other
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
