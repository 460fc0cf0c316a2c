"""`usage-meter query`: a question of `/v1/usage` from the terminal, as a table, CSV, JSON or an image."""

import json
import os
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from aggregator.commands.client import asking
from aggregator.commands.query_table import table, title
from aggregator.commands.terminal import Token, Url, console, friendly
from aggregator.errors import SettingsError

PIPE_COLUMNS = 200  # where nobody says how wide it is: what is read by a program should not be folded

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="DIMENSION=VALUE", help="voice=a, status=4xx, not.user=bob, attribute.tier=gold."),
]
Last = Annotated[str, typer.Option(help="Such as 24h, 7d, 30d or 12mo.")]
Zone = Annotated[str, typer.Option(help="IANA time zone of the buckets, such as Europe/Berlin.")]
Scope = Annotated[str, typer.Option(help="account: the token's own calls; workspace: all of its workspace.")]


def query(
    metric: Annotated[list[str] | None, typer.Option(help="credits, requests, latency_p95, quantity.NAME, …")] = None,
    breakdown: Annotated[list[str] | None, typer.Option(help="voice, product, user, route, …; at most two.")] = None,
    filters: Filters = None,
    interval: Annotated[str, typer.Option(help="minute, hour, day, week, month, year or total.")] = "",
    last: Last = "",
    start: Annotated[str, typer.Option(help="ISO 8601 or Unix time, instead of --last.")] = "",
    end: Annotated[str, typer.Option(help="Exclusive; a bare date includes its day.")] = "",
    tz: Zone = "",
    scope: Scope = "",
    top: Annotated[str, typer.Option(help="Series; the rest is one, __other__.")] = "",
    cumulative: Annotated[bool, typer.Option("--cumulative", help="Let it run up.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV, with exact numbers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The service's own answer.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file; - is standard output.")] = None,
    layout: Annotated[str, typer.Option(help="Of the CSV; wide: a column per series.")] = "",
    url: Url = None,
    token: Token = None,
) -> None:
    """Ask for usage: any metric over time, by up to two dimensions.

    usage-meter query --last 7d --interval day --metric credits --breakdown voice --filter product=text_to_speech
    """
    with friendly():
        if csv + json + (png is not None) > 1:
            raise SettingsError("--csv, --json and --png are three forms of one answer: give one of them")
        if layout and not csv:
            raise SettingsError("--layout is the CSV's: give --csv too")
        items = [
            *(("metric", one) for one in metric or []),
            *(("breakdown", one) for one in breakdown or []),
            *filter_items(filters or []),
            *given(interval=interval, last=last, start=start, end=end, tz=tz, scope=scope, top=top, layout=layout),
            *given(cumulative="true" if cumulative else ""),
        ]
        with asking(url, token) as client:
            if csv:
                _write(client.pieces("/v1/usage.csv", items))
            elif png:
                _save(b"".join(client.pieces("/usage/chart.png", items)), png)
            elif json:
                _write([*client.pieces("/v1/usage", items), b"\n"])
            else:
                _show(b"".join(client.pieces("/v1/usage", items)))


def filter_items(filters: Iterable[str]) -> list[tuple[str, str]]:
    """Raises SettingsError."""
    found = []
    for one in filters:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise SettingsError(f"--filter is '{one}': must be DIMENSION=VALUE, such as voice=a or status=4xx")
        found.append((name, value))
    return found


def given(**parameters: str) -> list[tuple[str, str]]:
    """Those that have a value: the service has the defaults."""
    return [(name, value) for name, value in parameters.items() if value]


def _save(image: bytes, file: Path) -> None:
    if str(file) == "-":
        _write([image])
        return
    try:
        file.write_bytes(image)
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}") from error


def _show(answer: bytes) -> None:
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_COLUMNS
    document = json.loads(answer, parse_float=Decimal)
    console.print(title(document), markup=False, style="bold", soft_wrap=True)
    console.print(table(document, console) if document["series"] else "nothing: no call matches")


def _write(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
