"""The engine of the tests' ClickHouse server: chDB, with the settings and sessions that ClickHouse has."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATABASE = "meter"  # made at the start: the service does not make its own

_TRANSPORT = {
    "query", "database", "user", "password", "session_id", "session_timeout", "session_check", "query_id", "quota_key",
    "wait_end_of_query", "buffer_size", "default_format", "compress", "decompress", "client_protocol_version", "role",
}  # fmt: skip
_CODE = re.compile(r"Code: (\d+)\. ")


class RefusedError(Exception):
    """An exception as ClickHouse says it."""

    def __init__(self, text: str) -> None:
        found = _CODE.search(text)
        self.code = int(found[1]) if found else 1002
        self.text = text[found.start() :] if found else f"Code: 1002. DB::Exception: {text}"
        super().__init__(self.text)


@dataclass(frozen=True)
class User:
    password: str
    readonly: bool = False


class Engine:
    """chDB on a directory. Each statement has a connection of its own, unless it names a session."""

    def __init__(self, path: Path) -> None:
        import chdb

        connect: Any = chdb.connect
        self._connect: Callable[[], Any] = lambda: connect(str(path))
        self._kept = self._connect()  # the engine ends with its last connection
        self._kept.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        self._sessions: dict[str, tuple[Any, threading.Lock]] = {}

    @contextmanager
    def connection(self, session: str | None) -> Iterator[Any]:
        if session is None:
            connection = self._connect()
            try:
                yield connection
            finally:
                connection.close()
            return
        connection, lock = self._sessions.setdefault(session, (self._connect(), threading.Lock()))
        if not lock.acquire(blocking=False):
            raise RefusedError(f"Code: 373. DB::Exception: Session {session} is locked by a concurrent client.")
        try:
            yield connection
        finally:
            lock.release()

    def prepare(self, connection: Any, parameters: dict[str, str], readonly: int) -> None:
        """The user's profile, then the database and the settings of the request."""
        if readonly == 1:
            self._run(connection, "SET readonly = 1")
        if database := parameters.get("database"):
            self._run(connection, f"USE `{database}`")
        given = {name: value for name, value in parameters.items() if name not in _TRANSPORT | _bound(parameters)}
        if given:
            self._run(connection, "SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in given.items()))
        if readonly == 2:
            self._run(connection, "SET readonly = 2")

    def run(self, connection: Any, statement: str, format: str, parameters: dict[str, str]) -> Any:
        bound = {name.removeprefix("param_"): parameters[name] for name in _bound(parameters)}
        return self._run(connection, statement, format, bound)

    def _run(
        self, connection: Any, statement: str, format: str = "TabSeparated", bound: dict[str, str] | None = None
    ) -> Any:
        try:
            return connection.query(statement, format, params=bound or {})
        except Exception as error:  # chDB raises its own and RuntimeError, with what ClickHouse says
            raise RefusedError(str(error)) from error


def _bound(parameters: dict[str, str]) -> set[str]:
    return {name for name in parameters if name.startswith("param_")}


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
