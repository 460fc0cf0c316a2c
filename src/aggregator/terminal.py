"""What the commands share: where they print, and how they end.

A mistake of the user's ends with a sentence that says what would be right and exit code 2, a failure of something else
with exit code 1, Ctrl-C with 0 where there was nothing to finish. Never with a traceback.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from aggregator.errors import AggregatorError, ServiceError

console = Console(highlight=False)
errors = Console(highlight=False, stderr=True)

WRONG, FAILED = 2, 1

Url = Annotated[str | None, typer.Option(help="Where the service answers; instead of AGGREGATOR_URL.")]
Token = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_TOKEN, which stays out of the process list.")]


@contextmanager
def friendly() -> Iterator[None]:
    try:
        yield
    except AggregatorError as error:
        for line in str(error).splitlines():
            print(f"usage-meter: {line}", file=sys.stderr)
        raise typer.Exit(FAILED if isinstance(error, ServiceError) else WRONG) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except BrokenPipeError:  # whoever read us has seen enough, `head` for one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        raise typer.Exit(0) from None
