"""The commands. Each reads the settings, builds its objects through `app.py` and prints for people.

A mistake of the user's ends with one sentence that says what would be right and exit code 2, never with a traceback.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from types import FrameType
from typing import Annotated, NoReturn
from urllib.parse import quote

import httpx
import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aggregator import demo as demonstration
from aggregator.app import Service, check_redis, redis_in_use
from aggregator.backlog import Backlog
from aggregator.dead_letters import DeadLetter, DeadLetters
from aggregator.errors import AggregatorError, SettingsError
from aggregator.settings import EMBEDDED, PREFIX, Settings, displayed, explained
from aggregator.tokens import ROLES, Principal, Tokens

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Exact usage analytics for any API.",
)
dead = typer.Typer(no_args_is_help=True, help="What could not be stored: see it, send it again, drop it.")
app.add_typer(dead, name="dead")
console = Console(highlight=False)

STOP_SECONDS = 5  # for open responses, live streams above all, when the service ends


class RoleOption(StrEnum):
    all = "all"
    consumer = "consumer"
    api = "api"


RedisUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_REDIS_URL.")]
StoreUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_STORE_URL.")]
Host = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_HOST.")]
Port = Annotated[int | None, typer.Option(help="Instead of AGGREGATOR_PORT; 0 takes any free one.")]
LetterNames = Annotated[list[str] | None, typer.Argument(help="As `usage-meter dead list` shows them.")]
AllLetters = Annotated[bool, typer.Option("--all", help="All there are.")]


@app.command()
def serve(
    role: Annotated[
        RoleOption, typer.Option(help="Run everything, only the consumer, or only the API.")
    ] = RoleOption.all,
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    store_url: StoreUrl = None,
) -> None:
    """Run the service: take events out of Redis, store them, answer questions."""
    with _friendly():
        settings = Settings.from_env(os.environ, host=host, port=port, redis_url=redis_url, store_url=store_url)
        if settings.redis_url != EMBEDDED:
            check_redis(settings.redis_url)
        with listening(settings) as listener, Service(settings, role.value) as service:
            announce(service, listener)
            run(service, listener)


@app.command()
def demo(port: Port = None, store_url: StoreUrl = None) -> None:
    """Everything at once, embedded: the service, an example API, sixty days of history and live traffic."""
    with _friendly():
        settings = Settings.from_env(os.environ, port=port, store_url=store_url, redis_url=EMBEDDED, host="127.0.0.1")
        with listening(settings) as listener, Service(settings) as service:
            announce(service, listener)
            with demonstration.Demo(service, console) as running:
                running.introduce(address(listener))
                run(service, listener)


@app.command()
def config() -> None:
    """Print every setting, its value and where it came from."""
    with _friendly():
        settings = Settings.from_env(os.environ)
        table = Table("setting", "value", "from", box=None, pad_edge=False)
        for name, (_, origin) in explained(os.environ).items():
            table.add_row(PREFIX + name.upper(), displayed(settings, name), origin)
        console.print(table, soft_wrap=True)


@app.command()
def token(
    workspace: Annotated[str, typer.Option(help="Whose calls it shows.")] = "",
    user: Annotated[str, typer.Option(help="Whose account it is.")] = "",
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = "member",
    days: Annotated[float, typer.Option(help="How long it is valid.")] = 30,
) -> None:
    """Print a token and nothing else."""
    with _friendly():
        settings = Settings.from_env(os.environ)
        if not settings.secret:
            raise SettingsError(f"{PREFIX}SECRET is not set: tokens are signed with it, so set the service's own")
        print(Tokens(settings.secret, settings.previous_secret).make(_principal(role, workspace, user), days))


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="The token, or its id.")],
    url: Annotated[str, typer.Option(help="Where the service answers.")] = "http://127.0.0.1:8080",
) -> None:
    """Have the running service refuse a token from now on."""
    with _friendly():
        settings = Settings.from_env(os.environ)
        if not settings.secret:
            raise SettingsError(f"{PREFIX}SECRET is not set: the service asks an operator's token for this")
        tokens = Tokens(settings.secret, settings.previous_secret)
        token_id = tokens.id_of(token) if token.count(".") == 2 else token
        headers = {"Authorization": f"Bearer {tokens.make(Principal('operator'), days=0.01)}"}
        try:
            answer = httpx.post(f"{url.rstrip('/')}/v1/tokens/{quote(token_id, safe='')}/revoke", headers=headers)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise SettingsError(f"{url} did not revoke it: {error}") from error
        print(f"revoked\t{token_id}")


@dead.command(name="list")
def dead_list(redis_url: RedisUrl = None, store_url: StoreUrl = None) -> None:
    """Show what could not be stored: its name, its age, how much it is and why."""
    with _dead_letters(redis_url, store_url) as letters:
        table = Table("name", "age", "events", "bytes", "reason", box=None, pad_edge=False)
        for letter in letters.all():
            age = timedelta(seconds=max(0, int(time.time() - letter.since_us / 1_000_000)))
            events = "?" if letter.events is None else str(letter.events)
            table.add_row(letter.name, str(age), events, str(letter.bytes), escape(letter.reason))
        console.print(table if table.row_count else "nothing: all that came was stored", soft_wrap=True)


@dead.command(name="retry")
def dead_retry(
    names: LetterNames = None, everything: AllLetters = False, redis_url: RedisUrl = None, store_url: StoreUrl = None
) -> None:
    """Send entries again: after an update of the aggregator, say, or a correction of the clock."""
    with _dead_letters(redis_url, store_url) as letters:
        print(f"sent again\t{_each(letters, names, everything, letters.retry)}")


@dead.command(name="drop")
def dead_drop(
    names: LetterNames = None, everything: AllLetters = False, redis_url: RedisUrl = None, store_url: StoreUrl = None
) -> None:
    """Delete entries for good."""
    with _dead_letters(redis_url, store_url) as letters:
        print(f"dropped\t{_each(letters, names, everything, letters.drop)}")


@contextmanager
def _dead_letters(redis_url: str | None, store_url: str | None) -> Iterator[DeadLetters]:
    with _friendly():
        settings = Settings.from_env(os.environ, redis_url=redis_url, store_url=store_url)
        with redis_in_use(settings) as client:
            yield DeadLetters(client, Backlog(client))


def _each(letters: DeadLetters, names: list[str] | None, everything: bool, act: Callable[[DeadLetter], None]) -> int:
    """Does it to the letters that are meant; how many there were."""
    if bool(names) == everything:
        raise SettingsError("say which: names as `usage-meter dead list` shows them, or --all")
    done = 0
    for letter in letters.all() if everything else letters.named(names or []):
        act(letter)
        done += 1
    return done


def _principal(role: str, workspace: str, user: str) -> Principal:
    for known in ROLES:
        if role == known:
            break
    else:
        raise SettingsError(f"--role is '{role}': must be one of {', '.join(ROLES)}")
    if known != "operator" and not workspace:
        raise SettingsError(f"--workspace is missing: a {known}'s token names one")
    if known == "member" and not user:
        raise SettingsError("--user is missing: a member's token names one")
    return Principal(known, workspace, user)


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def announce(service: Service, listener: socket.socket) -> None:
    """The page's address, the store's URL and the Redis URL, one a line: for people, and for scripts to read."""
    for name, value in (
        ("page", address(listener)),
        ("store", service.shown_store_url),
        ("redis", service.shown_redis_url),
    ):
        print(f"{name}\t{value}", flush=True)
    if not service.settings.secret:
        print("access\tno AGGREGATOR_SECRET: answering on loopback only, everybody there is an operator", flush=True)


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The address is taken first: a port in use must be said before a store is opened."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen()  # whoever follows the printed address at once waits instead of being refused
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): "
                f"set {PREFIX}PORT or --port to another, or 0 for any free one"
            ) from error
        yield listener


def run(service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; the caller's context managers then end everything in order."""
    configuration = uvicorn.Config(
        service.app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_SECONDS, lifespan="off"
    )
    # uvicorn raises the signal again once it has stopped: then it must unwind us, not end the process on the spot.
    signal.signal(signal.SIGTERM, _unwind)
    uvicorn.Server(configuration).run(sockets=[listener])


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


@contextmanager
def _friendly() -> Iterator[None]:
    try:
        yield
    except AggregatorError as error:
        print(f"usage-meter: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
