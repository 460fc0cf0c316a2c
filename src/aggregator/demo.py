"""`usage-meter demo`: the example API, its customers and their past, around a service that is running already.

The past goes into the store at once, day by day as the store's partitions are: sixty days in a second or two. Through
Redis, as all that the API records, it would take longer than anybody likes to wait. Its ids come from its dates, so a
second start adds only what is new. The API and its customers are processes of their own, ended with us in any case.
"""

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aggregator.app import Service
from aggregator.batch import Load
from aggregator.buckets import SECOND_US, to_us
from aggregator.errors import SettingsError
from aggregator.query import Statement
from aggregator.retention import Retention
from aggregator.rows import Rows
from aggregator.store import Store
from usage_meter.event import EventRow

KEY_SECRET = "demo: these API keys are in the source"  # noqa: S105  # the demo's keys are no secrets
HISTORY_DAYS = 60
START_SECONDS = 30  # for the API's workers, which load the speech engine, on a slow machine
STOP_SECONDS = 10  # for them to end by themselves
INSERTS = 2  # of a day each, at once: the engine needs no Python meanwhile
AHEAD = 8  # days that wait for the engine, so that what is made does not fill the memory

_STORED = Statement("SELECT DISTINCT toDate(started) AS day FROM events WHERE instance = 'history' ORDER BY day", {})


_NEEDS = ("chdb", "espeakng_loader", "elevenlabs", "websockets")  # of the extra [demo], by the names they import as


def check_installation() -> None:
    """Raises SettingsError when something that the demo runs is not installed."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"the demo needs {', '.join(missing)} too: pip install 'usage-meter[demo]'")


class Demo:
    """A context manager around a running service: starts everything else, ends it on the way out."""

    def __init__(self, service: Service, console: Console) -> None:
        self._service = service
        self._console = console
        self._stack = ExitStack()
        self._api_url = ""
        self._stop = threading.Event()
        self._customers: threading.Thread | None = None

    def __enter__(self) -> "Demo":
        root = _examples_root()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "USAGE_METER_REDIS_URL": self._service.redis_url,
            "USAGE_METER_KEY_SECRET": KEY_SECRET,
            "USAGE_METER_JOURNAL_DIR": str(self._service.settings.directory / "journal"),
        }
        try:
            self._load_history(root)
            self._api_url = self._start_api(environment)
        except BaseException:
            self.__exit__()
            raise
        self._customers = threading.Thread(target=self._send_customers, args=(environment,), daemon=True)
        self._customers.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._customers:
            self._customers.join()
        self._stack.close()

    def introduce(self, page: str) -> None:
        """What there is to see, and lines to try."""
        account = importlib.import_module("examples.speech_api.accounts")
        api_key, voice = next(iter(account.ACCOUNTS)), next(iter(account.VOICES))
        print(f"api\t{self._api_url}/", flush=True)
        self._console.print(f"\nOpen [bold]{page}[/bold] and try:\n", soft_wrap=True)
        for line in (
            f"curl -H 'xi-api-key: {api_key}' -H 'content-type: application/json' -d '{{\"text\": \"Hello there\"}}' "
            f"-o hello.wav {self._api_url}/v1/text-to-speech/{voice}",
            f"usage-meter query --url {page} --last 7d --breakdown voice",
            f"curl '{page}v1/usage?metric=credits&breakdown=voice&interval=day&last=7d'",
            f"curl '{page}v1/requests.csv?last=24h&status=4xx'",
        ):
            print(f"  {line}")
        self._console.print("\nCtrl-C ends everything; the data stays.", soft_wrap=True)

    def _start_api(self, environment: dict[str, str]) -> str:
        port = _free_port()
        command = [sys.executable, "-m", "uvicorn", "examples.speech_api.app:app", "--factory", "--workers", "2"]
        self._launch([*command, "--port", str(port), "--log-level", "warning"], environment)
        return f"http://127.0.0.1:{port}"

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        """A process with a group of its own, so that Ctrl-C is ours to pass on, to its workers too."""
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
        self._stack.callback(_end, process)

    def _send_customers(self, environment: dict[str, str]) -> None:
        """Once the API answers. Meanwhile there is the past to look at."""
        for _ in range(START_SECONDS * 20):
            if is_listening(self._api_url):
                self._launch([sys.executable, "-m", "examples.speech_api.traffic", self._api_url], environment)
                return
            if self._stop.wait(0.05):
                return
        self._console.print(f"[red]the example API did not start within {START_SECONDS} s: see above")

    def _load_history(self, root: Path) -> None:
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        history: Any = importlib.import_module("examples.speech_api.history")
        caller: Any = importlib.import_module("usage_meter.caller")
        past = history.History(lambda api_key: caller.hash_key(KEY_SECRET.encode(), api_key))
        now, service = datetime.now(UTC), self._service
        days = missing_days(service.store, now, service.settings.retention)
        with _progress(self._console) as progress:
            title = f"{len(days) - 1} days of history" if days[1:] else "today"
            for _ in progress.track(
                load_days(service.store, lambda day: past.over(day, now), days), len(days), description=title
            ):
                pass


def missing_days(store: Store, now: datetime, retention: Retention, history_days: int = HISTORY_DAYS) -> list[date]:
    """The days whose history the store lacks, and the newest that it has, of which there may be more now: oldest first,
    today last. None that is sealed."""
    stored = [day for (day,) in store.select(_STORED)]
    open_since = datetime.fromtimestamp(retention.refused_us(to_us(now)) / SECOND_US, UTC).date()
    asked = (now.date() - timedelta(ago) for ago in range(history_days, -1, -1))
    return [day for day in asked if day >= open_since and day not in stored[:-1]]


def load_days(store: Store, events_of: Callable[[date], Sequence[EventRow]], days: Iterable[date]) -> Iterator[date]:
    """Stores the events of these days; gives each day when it is made, and ends when all are stored."""
    known, waiting = Rows(), deque[Future[None]]()
    with ThreadPoolExecutor(INSERTS, "usage-meter-history") as pool:
        for day in days:
            waiting += [pool.submit(store.load, block) for block in Load(events_of(day), known).blocks()]
            while len(waiting) > AHEAD:
                waiting.popleft().result()
            yield day
        for one in waiting:
            one.result()


def _examples_root() -> Path:
    """The folder that holds `examples`: of the clone, or of the installed package."""
    here = Path(__file__).resolve().parent
    for root in (here.parents[1], here / "demo_root"):
        if (root / "examples" / "speech_api").is_dir():
            return root
    raise SettingsError("the example API is not part of this installation: run the demo from a clone of the repository")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def is_listening(url: str) -> bool:
    """Whether connections are taken there: an API that starts takes none. Not by a request, which would be a call."""
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The whole group: first asked, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_SECONDS)
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue
