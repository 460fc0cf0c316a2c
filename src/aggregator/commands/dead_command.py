"""`usage-meter dead`: what could not be stored, on the terminal."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from aggregator.commands.terminal import console, friendly
from aggregator.dead_letters import DeadLetter, DeadLetters
from aggregator.errors import SettingsError
from aggregator.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What could not be stored: see it, send it again, drop it.")

RedisUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_REDIS_URL.")]
StoreUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_STORE_URL.")]
LetterNames = Annotated[list[str] | None, typer.Argument(help="As `usage-meter dead list` shows them.")]
AllLetters = Annotated[bool, typer.Option("--all", help="All there are.")]
Unseal = Annotated[bool, typer.Option("--unseal", help="Let in what came too late: add it to its day's rollups.")]


@app.command(name="list")
def dead_list(redis_url: RedisUrl = None, store_url: StoreUrl = None) -> None:
    """Show what could not be stored: its name, its age, how much it is and why."""
    with _dead_letters(redis_url, store_url) as letters:
        table = Table("name", "age", "events", "bytes", "reason", box=None, pad_edge=False)
        for letter in letters.all():
            age = timedelta(seconds=max(0, int(time.time() - letter.since_us / 1_000_000)))
            events = "?" if letter.events is None else str(letter.events)
            table.add_row(letter.name, str(age), events, str(letter.bytes), escape(letter.reason))
        console.print(table if table.row_count else "nothing: all that came was stored", soft_wrap=True)


@app.command(name="retry")
def dead_retry(
    names: LetterNames = None,
    everything: AllLetters = False,
    unseal: Unseal = False,
    redis_url: RedisUrl = None,
    store_url: StoreUrl = None,
) -> None:
    """Send entries again: after an update of the aggregator, say, or a correction of the clock.

    With --unseal, calls for a day that is sealed are added to its rollups. Do that only with calls that the day has
    never had: once its own calls are gone, nobody can tell any more.
    """
    with _dead_letters(redis_url, store_url) as letters:
        print(f"sent again\t{_each(letters, names, everything, partial(letters.retry, unseal=unseal))}")


@app.command(name="drop")
def dead_drop(
    names: LetterNames = None, everything: AllLetters = False, redis_url: RedisUrl = None, store_url: StoreUrl = None
) -> None:
    """Delete entries for good."""
    with _dead_letters(redis_url, store_url) as letters:
        print(f"dropped\t{_each(letters, names, everything, letters.drop)}")


@contextmanager
def _dead_letters(redis_url: str | None, store_url: str | None) -> Iterator[DeadLetters]:
    from aggregator.app import redis_in_use  # takes a second to import, which no other command should wait for
    from aggregator.backlog import Backlog

    with friendly():
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
