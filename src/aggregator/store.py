"""The store: the one place that speaks ClickHouse, embedded (chDB) or a server, by the same client and SQL.

An insert that returned is stored: a kill right after loses nothing. An embedded store belongs to one process; a lock
file says which, because the engine's own refusal does not. A client answers one call at a time, and a call on a busy
one silently returns nothing, so callers borrow clients from a pool; its size bounds how many questions run at once.
"""

import fcntl
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from aggregator import schema
from aggregator.block import COLUMNS, blocks_by_day
from aggregator.download import Download
from aggregator.errors import BusyError, RejectedError, StoreError, TooLargeError
from aggregator.fields import fitting
from aggregator.formats import Format
from aggregator.pipe import Pipe
from aggregator.query import Statement
from aggregator.retention import ENGINES, Retention, removed_by_rules
from aggregator.rows import Rows
from aggregator.settings import without_password
from usage_meter.event import UsageEvent, concatenated, decode_rows

logger = logging.getLogger(__name__)

CLIENTS = 4  # questions at once: twice the cores of a small machine, so that a slow one does not stop the quick ones

QUESTION_BYTES = 2 * 1024**3
"""Of memory, at most. Concurrency takes some 70 MB for each million calls that are read for it."""

STREAMS = 8  # exports at once: each holds clients and a block of rows for as long as its reader takes

_SETTINGS = {
    "do_not_merge_across_partitions_select_final": 1,  # all versions of an event lie in one partition (schema.sql)
    "max_partitions_per_insert_block": 0,  # an import may span years
    "use_skip_indexes_if_final_exact_mode": 1,  # an index must not revive the row that a correction replaced
    "async_insert": 0,  # an insert that returned must be stored
}
OLDEST = (26, 1)  # of ClickHouse: 25.8 lacks a setting of exports, and refuses how concurrency is asked for
START_SECONDS = 60.0  # for a server that starts at the same time as we do
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 300  # while it computes, a server says so more often
_PROBE_SECONDS = 5  # in which a server that is well answers a question that takes it nothing
_PAUSE_SECONDS = 0.5  # between looks for one that is not there yet
_ATTEMPTS = 8  # to bring a schema forward: twice as many as a section has tables that others may be at
CHANGING_US = 3_600_000_000  # rules in force take less to be replaced; calls of the next day are refused by then
INSERT_SECONDS = 30  # a batch takes one or less; a rollup relies on that what was inserted is visible by then
_INSERT_SETTINGS = _SETTINGS | {
    "max_execution_time": INSERT_SECONDS,
    "optimize_on_insert": 0,  # collapsing duplicates row by row costs four times the rest; merges and FINAL do it
}
_STREAM_SETTINGS = {
    "do_not_merge_across_partitions_select_final": _SETTINGS["do_not_merge_across_partitions_select_final"],
    "use_skip_indexes_if_final_exact_mode": _SETTINGS["use_skip_indexes_if_final_exact_mode"],
    "max_threads": 2,  # an export may take longer; the questions beside it may not
    "max_block_size": 8192,  # rows in hand at once, each some 500 bytes
}
# Codes with which the engine refuses the rows themselves: they would be refused again. Everything else (a full disk,
# no memory, no connection) may pass, and then the same rows are stored.
_DATA_ERRORS = {6, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 407}
_NO_MEMORY = 241
_NOT_LET_IN = {192, 193, 194, 516}
_NO_DATABASE = 81
_NOT_ALLOWED = {164, 497}

_REMOVED = Statement("SELECT name, toUnixTimestamp(max(before)) * 1000000 FROM removed GROUP BY name", {})


class Store:
    """Opens the store and brings its schema up; a context manager. Raises StoreError with what would be right.

    A server that takes no connection is waited for, `patience` seconds long.
    """

    def __init__(self, url: str, sections: Sequence[schema.Section] | None = None, *, patience: float = 0.0) -> None:
        self._url = url
        embedded = urlsplit(url).scheme == "chdb"
        self._question_bytes = _question_bytes() if embedded else 0  # 0: a server has its own limit
        self._sections = schema.released() if sections is None else sections
        self._lock = _lock(Path(urlsplit(url).path)) if embedded else None
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._clients: queue.LifoQueue[Client | None] = queue.LifoQueue()
        self._probe: Client | None = None
        self._probing = threading.Lock()
        try:
            first = _connect(url) if embedded else _connect_patiently(url, patience)
            self._clients.put(first)
            _refuse_older(first)
            self._cores = int(first.query("SELECT getSetting('max_threads')").result_rows[0][0])  # that it may use
            self._bring_forward(first)
            for _ in range(CLIENTS - 1):
                self._clients.put(_connect(url))
        except (ClickHouseError, OSError, ImportError) as error:
            self.close()
            raise StoreError(f"cannot open the store {without_password(url)}: {_why(error, url)}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while not self._clients.empty():
            if client := self._clients.get_nowait():
                client.close()
        if self._probe:
            self._probe.close()
        if self._lock:
            self._lock.close()

    def insert(self, events: Sequence[UsageEvent]) -> None:
        """Store the events; when it returns they are safe. The same event again changes nothing."""
        rows = Rows()
        rows.add(decode_rows(concatenated(events), len(events)))
        for blocks in blocks_by_day(rows.take()).values():
            self.load(b"".join(blocks))

    def load(self, blocks: bytes, table: Literal["events", "unsealed"] = "events") -> None:
        """Store events that are blocks already, best of a single day; when it returns they are safe."""
        with self._client() as client:
            try:
                client.raw_insert(table, list(COLUMNS), blocks, settings=_INSERT_SETTINGS, fmt="Native")
            except ClickHouseError as error:
                if getattr(error, "code", None) in _DATA_ERRORS:
                    raise RejectedError(_first_line(error)) from error
                raise

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A few rows into one of the small tables (labels, limits, audit, revoked); safe when it returns."""
        if not rows:
            return
        with self._client() as client:
            client.insert(table, rows, column_names=list(columns), settings=_SETTINGS)

    def select(self, statement: Statement) -> list[Sequence[Any]]:
        """Raises TooLargeError when that takes more memory than a question may."""
        sql, parameters = self._bound(statement)
        with self._client() as client:
            settings = _SETTINGS | {"max_threads": self._threads(), "max_memory_usage": self._question_bytes}
            return list(client.query(sql, parameters=parameters, settings=settings).result_rows)

    def execute(self, statement: Statement, settings: Mapping[str, int]) -> None:
        """A statement that changes tables by what is in them; done when it returns."""
        sql, parameters = self._bound(statement)
        with self._client() as client:
            client.command(sql, parameters=parameters, settings=_SETTINGS | dict(settings))

    def keep(self, retention: Retention) -> Retention:
        """Have the tables remove what is older from now on; the engine does it by itself, within hours.

        Returns what that leaves, as `kept`. What the rules before may have removed is remembered first.
        """
        changes = list(retention.statements(self._engines()))
        if changes:
            self._remember_removed()
            for statement in changes:
                self.execute(Statement(statement, {}), {})
        return self.kept(retention)

    def kept(self, retention: Retention) -> Retention:
        """The same retention, with what rules that others set, or set before, may have removed."""
        removed = removed_by_rules(self._engines(), time.time_ns() // 1000)
        for table, moment in self.select(_REMOVED):
            removed[str(table)] = max(int(moment), removed.get(str(table), 0))
        return replace(retention, removed=removed)

    def _remember_removed(self) -> None:
        """Also what goes while the rules are being changed."""
        moments = removed_by_rules(self._engines(), time.time_ns() // 1000 + CHANGING_US)
        self.write("removed", ("name", "before"), [(table, moment // 1_000_000) for table, moment in moments.items()])

    def _engines(self) -> dict[str, str]:
        return {str(name): str(engine) for name, engine in self.select(Statement(ENGINES, {}))}

    def stream(self, statements: Iterable[Statement], format: Format) -> Iterator[bytes]:
        """What the engine writes for the statements, one behind the other: pieces, in flat memory.

        On a client of its own, so that a slow reader keeps nobody else waiting. A statement is begun when the one
        before is read: each holds what it sorts. Raises StoreError, in the middle too; BusyError when STREAMS are open.
        """
        if not self._streams.acquire(blocking=False):
            raise BusyError(f"{STREAMS} exports are running: try again when one has ended")
        with ExitStack() as stack:
            stack.callback(self._streams.release)
            try:
                client = stack.enter_context(closing(_connect(self._url)))
                for statement in statements:
                    with closing(self._written(client, statement, format)) as source:
                        yield from source
            except (ClickHouseError, HTTPError, OSError) as error:
                raise StoreError(_first_line(error)) from error

    def _written(self, client: Client, statement: Statement, format: Format) -> Pipe | Download:
        """The embedded engine streams only into a file; a server, over its connection."""
        sql, parameters = self._bound(statement)
        settings = ", ".join(
            f"{name} = {_literal(value)}" for name, value in (_STREAM_SETTINGS | format.settings).items()
        )
        ending = f"FORMAT {format.name} SETTINGS {settings}"
        if not self._lock:
            return Download(lambda: client.raw_stream(f"{sql} {ending}", parameters=parameters))

        def write(path: Path) -> None:
            outfile = f"INTO OUTFILE {_literal(str(path))} TRUNCATE"
            client.command(f"{sql} {outfile} {ending}", parameters=parameters)

        return Pipe(write)

    def ping(self) -> None:
        """Raises StoreError when the store does not answer; a server, within seconds, whatever else is asked of it."""
        if self._lock:
            self.select(Statement("SELECT 1", {}))
            return
        with self._probing:
            try:
                self._probe = self._probe or _connect(self._url, _PROBE_SECONDS)
                self._probe.query("SELECT 1")
            except (ClickHouseError, OSError) as error:
                raise StoreError(_first_line(error)) from error

    def _bound(self, statement: Statement) -> Statement:
        return statement if self._lock else fitting(statement)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """One that failed is replaced: the embedded engine puts the rows that a statement had given before it failed in
        front of the next one's answer, and they may be another customer's.
        """
        client, kept = self._clients.get(), None
        try:
            client = client or _connect(self._url)
            yield client
            kept = client
        except (ClickHouseError, OSError) as error:  # the embedded engine is given its rows in a temporary file
            if getattr(error, "code", None) == _NO_MEMORY:
                raise TooLargeError("this takes more memory than a question may: ask for a shorter range") from error
            raise StoreError(_first_line(error)) from error
        finally:
            if client and not kept:
                client.close()
            self._clients.put(kept)

    def _threads(self) -> int:
        """Of a question: its share of the cores, for more threads than cores cost a fifth more and end no sooner."""
        at_work = CLIENTS - self._clients.qsize()
        return max(1, self._cores // max(1, at_work)) if self._lock else 0  # 0: a server shares out its own

    def _bring_forward(self, client: Client) -> None:
        """Of several services that start at once on a server, one may drop a column amid another's statement: whose
        turn it was then begins the section again, which any section allows."""
        attempts = 1 if self._lock else _ATTEMPTS
        while True:
            try:
                return self._apply_sections(client)
            except ClickHouseError as error:
                attempts -= 1
                if not attempts or getattr(error, "code", None) in _NOT_ALLOWED:
                    raise
                logger.warning("the store's schema is brought forward once more: %s", _first_line(error))
                # Not for secrets: whoever failed at the same moment does not come back at the same moment.
                time.sleep(_PAUSE_SECONDS * random.uniform(1, 2))  # noqa: S311

    def _apply_sections(self, client: Client) -> None:
        client.command(schema.VERSIONS)
        applied = client.query(schema.APPLIED).result_rows[0][0]
        for statement in schema.statements_after(applied, self._sections):
            client.command(statement)


def _refuse_older(client: Client) -> None:
    """Raises StoreError: a statement that the server does not know would fail much later, and say less."""
    version = tuple(map(int, str(client.server_version).split(".")[:2]))
    if version < OLDEST:
        raise StoreError(
            f"the store is ClickHouse {client.server_version}: must be {OLDEST[0]}.{OLDEST[1]} or newer; update it"
        )


def _connect_patiently(url: str, patience: float) -> Client:
    deadline, waits = time.monotonic() + patience, False
    while True:
        try:
            return _connect(url)
        except ClickHouseError as error:
            if not isinstance(_cause(error), OSError) or time.monotonic() > deadline:
                raise
            if not waits:
                logger.warning("waiting for the store %s: %s", without_password(url), _cause(error))
            waits = True
            time.sleep(_PAUSE_SECONDS)


def _connect(url: str, seconds: int = _ANSWER_SECONDS) -> Client:
    """`seconds` is what a server has to take the connection, and then between two signs of life."""
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return clickhouse_connect.get_client(interface="chdb", path=str(Path(parts.path) / "chdb"))
    secure = parts.scheme == "https"
    return clickhouse_connect.get_client(
        interface="https" if secure else "http",
        host=parts.hostname or "localhost",
        port=parts.port or (8443 if secure else 8123),
        username=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=parts.path.strip("/") or "default",
        autogenerate_session_id=False,
        connect_timeout=min(seconds, _CONNECT_SECONDS),
        send_receive_timeout=seconds,
    )


def _question_bytes() -> int:
    """All questions at once may take half of the machine's memory; the rest is for what is stored meanwhile."""
    return min(QUESTION_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 * CLIENTS))


def _lock(directory: Path) -> IO[str]:
    """Hold the directory for this process. The lock dies with its holder, however that dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("a+")
    except OSError as error:
        raise StoreError(f"cannot use the directory {directory} for the store: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise StoreError(
            f"the store in {directory} is in use by {holder}: an embedded store belongs to one process; stop that one, "
            "or give this one another directory (AGGREGATOR_STORE_URL=chdb:///directory) or a ClickHouse server"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


def _literal(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _why(error: Exception, url: str) -> str:
    """Why the store does not open, with what would be right."""
    if isinstance(error, ImportError):
        return "chDB is not installed: pip install 'usage-meter[embedded]', or name a ClickHouse server"
    cause, code, parts = _cause(error), getattr(error, "code", None), urlsplit(url)
    if isinstance(cause, OSError):
        return f"no ClickHouse answers there ({cause}); chdb:///directory needs none"
    if code is None and "HTTP status" in str(error):
        return f"what answers there is no ClickHouse ({str(error).partition(',')[0]}); its HTTP port is 8123, as a rule"
    if code in _NOT_LET_IN:
        return f"it does not let '{parts.username or 'default'}' in: the URL must be http://user:password@host:8123/database"
    if code == _NO_DATABASE:
        name = parts.path.strip("/")
        return f"it has no database '{name}': CREATE DATABASE {name}"
    if code in _NOT_ALLOWED:
        name = parts.path.strip("/") or "default"
        rights = f"GRANT SELECT, INSERT, ALTER, CREATE TABLE ON {name}.* TO {parts.username or 'default'}"
        return f"its user may not do what the service does ({_first_line(error)}): {rights}"
    return _first_line(error)


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _first_line(error: Exception) -> str:
    """What the engine says, without what the driver puts around it."""
    text = str(error).strip().partition("server response: ")[2] or str(error).strip()
    return text.splitlines()[0].partition(" (for url ")[0] if text else type(error).__name__
