"""A ClickHouse server for tests: ClickHouse's HTTP interface over the real engine, chDB, as a process of its own.

`python -m tests.clickhouse_server --path DIR --port N [--user NAME:PASSWORD[:readonly]]` owns the chDB directory and
answers as ClickHouse documents it, so that the service's own client speaks to it as to any server: the statement in the
URL or the body, bound parameters, settings, the database and sessions in the URL, data behind an INSERT, bodies packed
both ways, answers that stream in flat memory, exceptions with their code, in the middle of an answer too.

What it is not: ClickHouse's own network code. There are no replicas, no clusters and no grants; a user is a name with a
password, who may only read where it says `readonly`. An answer is Native without ClickHouse's protocol revision, as to
a client that names none. A statement whose client went away ends only when it next writes.
"""

import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from aggregator.pipe import Pipe
from tests.clickhouse_engine import DATABASE, Engine, RefusedError, User, quoted
from tests.clickhouse_packing import Packs, packer, unpacked
from tests.conftest import free_port, missing, wait_until

_HELD_BYTES = 1024 * 1024  # of an answer, before its status is said: what fails until then has a status of its own
_INSERT = re.compile(rb"\s*(INSERT\s+INTO\s.*?)\sFORMAT\s+(\w+)[ \t]*\r?\n?", re.IGNORECASE | re.DOTALL)
_READS = re.compile(r"\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN)\b", re.IGNORECASE)
_FORMAT = re.compile(
    r"\sFORMAT\s+(\w+)((?:\s+SETTINGS)?(?:\s+\w+\s*=\s*(?:'[^']*'|[\w.-]+)\s*,?)*)\s*;?\s*$", re.IGNORECASE
)
# What a server allows of a request before it looks at the statement; the defaults of ClickHouse 26.4 and newer.
_MAX_URI_BYTES = 1024 * 1024
_MAX_FIELDS = 1000
_MAX_VALUE_BYTES = 128 * 1024 + 1
_STATUS = {
    **dict.fromkeys((192, 193, 194, 497, 516), 403),  # unknown user, wrong password, not allowed
    **dict.fromkeys((36, 53, 62, 72, 117, 456), 400),  # what the statement says is wrong
    **dict.fromkeys((16, 46, 47, 50, 60, 63, 73, 81, 115), 404),  # an unknown column, table, database, setting, …
    **dict.fromkeys((48, 344), 501),
    373: 503,  # the session is in use
}


class Handler(BaseHTTPRequestHandler):
    """One request: read, run, answered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Engine
    users: dict[str, User]

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the tests read what the service says."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        if url.path == "/ping":
            self._say(200, b"Ok.\n")
            return
        self._parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        if boundary := re.match(r"multipart/form-data; boundary=(\S+)", self.headers.get("Content-Type", "")):
            self._parameters |= dict(_fields(body, boundary[1].encode()))
            body = b""
        self._headers: dict[str, str] = {
            "X-ClickHouse-Server-Display-Name": "tests",
            "X-ClickHouse-Query-Id": self._parameters.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": "UTC",
        }
        try:
            self._refuse_too_much()
            readonly = 1 if self._who().readonly else 2 if self.command == "GET" else 0
            with self.engine.connection(self._parameters.get("session_id")) as connection:
                self.engine.prepare(connection, self._parameters, readonly)
                self._run(connection, body)
        except RefusedError as error:
            self._headers["X-ClickHouse-Exception-Code"] = str(error.code)
            text = f"{error.text} (version 26.9.1.1)\n"
            self._say(_STATUS.get(error.code, 500), text.encode(errors="backslashreplace"))

    def _refuse_too_much(self) -> None:
        if len(self.path) > _MAX_URI_BYTES:
            raise RefusedError("Code: 1000. DB::Exception: URI is too long. (POCO_EXCEPTION)")
        if len(self._parameters) > _MAX_FIELDS:
            raise RefusedError("Code: 1000. DB::Exception: HTML Form Exception: Too many form fields. (POCO_EXCEPTION)")
        if any(len(value.encode()) > _MAX_VALUE_BYTES for value in self._parameters.values()):
            raise RefusedError("Code: 1000. DB::Exception: HTML Form Exception: Field value too long. (POCO_EXCEPTION)")

    def _who(self) -> User:
        basic = self.headers.get("Authorization", "").removeprefix("Basic ")
        name, _, password = base64.b64decode(basic).decode().partition(":")
        name = self.headers.get("X-ClickHouse-User") or self._parameters.get("user") or name or "default"
        password = self.headers.get("X-ClickHouse-Key") or self._parameters.get("password") or password
        user = self.users.get(name)
        if user is None or user.password != password:
            raise RefusedError(
                f"Code: 516. DB::Exception: {name}: Authentication failed: password is incorrect, or there is no user "
                "with such name. (AUTHENTICATION_FAILED)"
            )
        return user

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return unpacked(body, self.headers.get("Content-Encoding", ""))

    def _run(self, connection: Any, body: bytes) -> None:
        query = self._parameters.get("query", "")
        text = query.encode() + b"\n" + body if query else body
        if (insert := _INSERT.match(text)) and not re.search(rb"\sSELECT\s", insert[1], re.IGNORECASE):
            self._insert(connection, insert[1].decode(), insert[2].decode(), text[insert.end() :])
            return
        statement = text.decode()
        if not _READS.match(statement):
            self._summarize(self.engine.run(connection, statement, "TabSeparated", self._parameters))
            self._say(200, b"")
            return
        found = _FORMAT.search(statement)
        format = found[1] if found else self._parameters.get("default_format", "TabSeparated")
        self._headers["X-ClickHouse-Format"] = format
        if self._parameters.get("wait_end_of_query") == "1" or not found:
            result = self.engine.run(connection, statement, format, self._parameters)
            self._summarize(result)
            self._stream(iter((bytes(result.bytes()),)))
            return
        before, ending = statement[: found.start()], statement[found.start() :]

        def write(path: Path) -> None:
            outfile = f"INTO OUTFILE {quoted(str(path))} TRUNCATE"
            self.engine.run(connection, f"{before} {outfile} {ending}", format, self._parameters)

        with Pipe(write) as pipe:
            self._stream(iter(pipe))

    def _insert(self, connection: Any, insert: str, format: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(prefix="insert-") as file:
            file.write(data)
            file.flush()
            statement = f"{insert} FROM INFILE {quoted(file.name)} FORMAT {format}"
            self._summarize(self.engine.run(connection, statement, format, self._parameters))
        self._say(200, b"")

    def _summarize(self, result: Any) -> None:
        read, wrote = str(result.rows_read()), str(getattr(result, "rows_written", lambda: 0)())
        self._headers["X-ClickHouse-Summary"] = json.dumps({"read_rows": read, "written_rows": wrote})

    def _stream(self, pieces: Iterator[bytes]) -> None:
        """In chunks, packed if the client takes that. What fails in the beginning has a status of its own; what fails
        later ends the body with the exception between the marks that the header announced."""
        held = b""
        for piece in pieces:
            held += piece
            if len(held) >= _HELD_BYTES:
                break
        packs = self._negotiate()
        tag = uuid.uuid4().hex[:16]
        self._headers |= {"X-ClickHouse-Exception-Tag": tag, "Transfer-Encoding": "chunked"}
        self._begin(200)
        try:
            self._send(packs, held)
            for piece in pieces:
                self._send(packs, piece)
        except RefusedError as error:
            text = error.text.encode(errors="backslashreplace")
            self._send(packs, b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (
                tag.encode(), text, len(text) + 1, tag.encode()
            ))  # fmt: skip
        self._chunk(packs.flush() if packs else b"")
        self.wfile.write(b"0\r\n\r\n")

    def _negotiate(self) -> Packs | None:
        taken = {one.strip() for one in self.headers.get("Accept-Encoding", "").split(",")}
        if self._parameters.get("enable_http_compression") == "1":
            for encoding in ("zstd", "lz4", "gzip"):
                if encoding in taken:
                    self._headers["Content-Encoding"] = encoding
                    return packer(encoding)
        return None

    def _send(self, packs: Packs | None, piece: bytes) -> None:
        self._chunk(packs.compress(piece) if packs else piece)

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _say(self, status: int, body: bytes) -> None:
        self._headers = {**getattr(self, "_headers", {}), "Content-Length": str(len(body))}
        self._begin(status)
        self.wfile.write(body)

    def _begin(self, status: int) -> None:
        self.send_response(status)
        for name, value in self._headers.items():
            self.send_header(name, value)
        self.end_headers()


def _fields(body: bytes, boundary: bytes) -> Iterator[tuple[str, str]]:
    """A form's plain fields."""
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        if name := re.search(rb'name="([^"]*)"', head):
            yield name[1].decode(), value.removesuffix(b"\r\n").decode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", action="append", default=[])
    options = parser.parse_args()
    Handler.engine = Engine(options.path)
    Handler.users = dict(map(_user, options.user)) or {"default": User("")}
    # The engine has threads of its own, which would be waited for; what it acknowledged is on the disk.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("127.0.0.1", options.port), Handler).serve_forever()


def _user(text: str) -> tuple[str, User]:
    name, password, what, *_ = [*text.split(":"), "", ""]
    return name, User(password, what == "readonly")


@dataclass
class ClickHouseServer:
    """The process, which a test may stop, kill, hold and start again on the same port and data."""

    directory: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    def url(self, user: str = "", database: str = DATABASE) -> str:
        return f"http://{user + '@' if user else ''}127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.clickhouse_server", "--path", str(self.directory / "chdb")]
        root = str(Path(__file__).parents[1])
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self.options], stdout=log, stderr=log, env=environ
            )
        wait_until(self.answers, "the ClickHouse server answers", seconds=60)

    def answers(self) -> bool:
        if self.process and self.process.poll() is not None:
            raise RuntimeError((self.directory / "server.log").read_text())
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/ping", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """As `kill -9` does it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """It takes connections, and answers none."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def clickhouse_server(directory: Path, *options: str) -> Iterator[ClickHouseServer]:
    """A server of the test's own, with an empty database."""
    try:
        import chdb  # noqa: F401  # the process needs it
    except ImportError:
        missing("chDB")
    directory.mkdir(parents=True, exist_ok=True)
    server = ClickHouseServer(directory, options=options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    main()
