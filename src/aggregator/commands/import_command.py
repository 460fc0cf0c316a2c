"""`usage-meter import`: a file of calls into the running service, with a progress bar."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from aggregator.commands.access_log import Unit
from aggregator.commands.client import asking
from aggregator.commands.event_file import BadLine, FileFormat, Given, events
from aggregator.commands.importer import Importer
from aggregator.commands.importer import Progress as Counts
from aggregator.commands.terminal import FAILED, Token, Url, errors, friendly
from aggregator.dimensions import ATTRIBUTE
from aggregator.errors import SettingsError

SHOWN_BAD_LINES = 20  # of a file's faults; whoever mends them runs it again and sees the next

SETTABLE = ("user", "api_key", "product", "voice", "model", "region", "method", "route", "path")


def import_file(
    file: Annotated[str, typer.Argument(help="The file, also compressed by gzip; - reads standard input.")],
    format: Annotated[
        FileFormat,
        typer.Option(
            help="combined: an access log of Apache or nginx. jsonl, csv: events as POST /v1/events takes them."
        ),
    ],
    workspace: Annotated[str, typer.Option(help="Whose calls they are, where a line doesn't say.")] = "",
    source: Annotated[
        str,
        typer.Option(
            help="Who wrote the file. Two servers' logs need two names: without, lines that are alike are one."
        ),
    ] = "",
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE", help=f"Where a line doesn't say: {', '.join(SETTABLE)} or {ATTRIBUTE}NAME."
        ),
    ] = None,
    request_time: Annotated[
        Unit, typer.Option(help="What the number behind an access log's line counts; auto: 0.123 is seconds.")
    ] = Unit.auto,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count bad lines, and end well all the same.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Record the calls of a file. Lines become the same events each time: the same file twice changes nothing.

    A file that has grown adds its new lines. Bad lines are reported and left out, and end the command with 1.
    """
    with friendly():
        given = Given(_given(workspace, source, set or []), request_time)
        began = time.monotonic()
        with _opened(file) as opened, asking(url, token) as client, _bar() as bar:
            task = bar.add_task(file, total=_size(file))
            report = _Report(quiet=skip_bad)
            importer = Importer(client, report, lambda _: _advance(bar, task, opened))
            try:
                importer.run(events(opened, format, given))
            except KeyboardInterrupt:
                errors.print(
                    f"stopped after {_summary(importer.progress, began)}; the same command again records the rest",
                    soft_wrap=True,
                )
                raise typer.Exit(130) from None  # as the shell says it of a command that was interrupted
        report.close()
        print(_summary(importer.progress, began))
    if importer.progress.bad and not skip_bad:
        raise typer.Exit(FAILED)


class _Report:
    """Bad lines on standard error, the first of them in full."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = SHOWN_BAD_LINES if not quiet else 0
        self._more = 0
        self._quiet = quiet

    def __call__(self, line: BadLine) -> None:
        if self._shown:
            self._shown -= 1
            errors.print(f"line {line.number}: {line.message}", markup=False, soft_wrap=True)
        else:
            self._more += 1

    def close(self) -> None:
        if self._more and not self._quiet:
            errors.print(f"… and {self._more:,} more bad lines")


def _given(workspace: str, source: str, settings: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"workspace": workspace, "source": source}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not (name in SETTABLE or (name.startswith(ATTRIBUTE) and name != ATTRIBUTE)):
            raise SettingsError(
                f"--set is '{setting}': must be FIELD=VALUE, with {', '.join(SETTABLE)} or {ATTRIBUTE}NAME"
            )
        if name in SETTABLE:
            found[name] = value
        else:
            found.setdefault("attributes", {})[name.removeprefix(ATTRIBUTE)] = value
    return {name: value for name, value in found.items() if value}


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise SettingsError(f"cannot read {file}: {error.strerror}") from error
        yield opened


def _size(file: str) -> int | None:
    """None for what has none: standard input, a pipe."""
    return Path(file).stat().st_size or None if file != "-" else None


def _bar() -> Progress:
    """On standard error, and only for eyes: what is written to a file stays plain."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
        TimeRemainingColumn(), console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip


def _advance(bar: Progress, task: TaskID, file: BinaryIO) -> None:
    if file.seekable():
        bar.update(task, completed=file.tell())


def _summary(counts: Counts, began: float) -> str:
    seconds = max(time.monotonic() - began, 0.001)
    bad = f", {counts.bad:,} bad line{'s' if counts.bad > 1 else ''}" if counts.bad else ""
    return f"{counts.accepted:,} events recorded{bad} in {seconds:.1f} s ({counts.accepted / seconds:,.0f} events/s)"
