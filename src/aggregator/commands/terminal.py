"""What the commands share: where they print, and how they end.

A mistake of the user's ends with a sentence that says what would be right and exit code 2, a failure of something else
with exit code 1, Ctrl-C with 130 as a shell says it; a service that was told to end, with 0. Never with a traceback.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from aggregator.errors import AggregatorError, ServiceError

console = Console(highlight=False)
errors = Console(highlight=False, stderr=True)

WRONG, FAILED, INTERRUPTED = 2, 1, 130

Url = Annotated[str | None, typer.Option(help="Where the service answers; instead of AGGREGATOR_URL.")]
Token = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_TOKEN, which stays out of the process list.")]


_PLAINLY = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
}


class Commands(TyperGroup):
    """Says what is wrong with an option in one line, as with everything else."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            code = INTERRUPTED
        except Exception as error:  # typer has a click of its own, or the real one: they share no class
            if not hasattr(error, "format_message"):
                raise
            code = _misused(error)
        sys.exit(code if isinstance(code, int) else 0)


def _misused(error: Any) -> int:
    message = " ".join(error.format_message().split())  # empty where the help has been shown instead
    for theirs, ours in _PLAINLY.items():
        message = message.replace(theirs, ours)
    if message:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "usage-meter"
        print(f"{path}: {message.rstrip('.')} (see {path} --help)", file=sys.stderr)
    return WRONG


@contextmanager
def friendly(interrupted: int = INTERRUPTED) -> Iterator[None]:
    try:
        yield
    except AggregatorError as error:
        for line in str(error).splitlines():
            print(f"usage-meter: {line}", file=sys.stderr)
        raise typer.Exit(FAILED if isinstance(error, ServiceError) else WRONG) from error
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except BrokenPipeError:  # whoever read us has seen enough, `head` for one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        raise typer.Exit(0) from None
