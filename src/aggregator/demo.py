"""`usage-meter demo`: the example API, its customers and their past, around a service that is running already.

The past goes the way that every event goes, through Redis; its ids come from its dates, so a second start adds only
what is new. The API and its customers are processes of their own, ended with us whatever happens.
"""

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aggregator.app import Service
from aggregator.errors import SettingsError
from aggregator.ingest import EVENTS_PER_ENTRY
from aggregator.query import Statement
from usage_meter.event import UsageEvent

KEY_SECRET = "demo: these API keys are in the source"  # noqa: S105  # the demo's keys are no secrets
HISTORY_DAYS = 60
START_SECONDS = 30  # for the API's workers, which load the speech engine, on a slow machine
STOP_SECONDS = 10  # for them to end by themselves
STORED_SECONDS = 300  # for the history to be stored on a slow machine

_NEWEST = Statement("SELECT max(started), count() FROM events WHERE instance = 'history'", {})


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

    def __enter__(self) -> "Demo":
        root = _examples_root()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "USAGE_METER_REDIS_URL": self._service.redis_url,
            "USAGE_METER_KEY_SECRET": KEY_SECRET,
            "USAGE_METER_JOURNAL_DIR": str(self._service.settings.directory / "journal"),
        }
        try:
            self._api_url = self._start_api(environment)
            self._load_history(root)
            self._await_api()
            self._launch([sys.executable, "-m", "examples.speech_api.traffic", self._api_url], environment)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
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

    def _await_api(self) -> None:
        stop = threading.Event()
        for _ in range(START_SECONDS * 20):
            try:
                httpx.get(f"{self._api_url}/openapi.json", timeout=1)
            except httpx.HTTPError:
                stop.wait(0.05)
            else:
                return
        raise SettingsError(f"the example API did not start within {START_SECONDS} s: see above")

    def _load_history(self, root: Path) -> None:
        """Through Redis like every event; shows how many are stored."""
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        newest, known = self._service.store.select(_NEWEST)[0]
        now = datetime.now(UTC)
        days = min(HISTORY_DAYS, (now.date() - newest.date()).days) if known else HISTORY_DAYS
        consumer = self._service.consumer.statistics
        before = consumer.events
        with _progress(self._console) as progress:
            task = progress.add_task(f"{days} days of history" if days else "today", total=None)
            sent = 0
            for events in self._history(now, days):
                self._service.ingest.send(events)
                sent += len(events)
                progress.update(task, completed=consumer.events - before)
            progress.update(task, total=sent)
            waiting = threading.Event()
            for _ in range(STORED_SECONDS * 20):
                progress.update(task, completed=min(sent, consumer.events - before))
                if consumer.events - before >= sent:
                    return
                waiting.wait(0.05)
        raise SettingsError("the history was not stored in time: see the log")

    def _history(self, now: datetime, days: int) -> Iterator[list[UsageEvent]]:
        history: Any = importlib.import_module("examples.speech_api.history")
        caller: Any = importlib.import_module("usage_meter.caller")
        past = history.History(lambda api_key: caller.hash_key(KEY_SECRET.encode(), api_key))
        waiting: list[UsageEvent] = []
        for events in past.until(now, days):
            waiting += events
            if len(waiting) >= EVENTS_PER_ENTRY:
                yield waiting
                waiting = []
        yield waiting


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
