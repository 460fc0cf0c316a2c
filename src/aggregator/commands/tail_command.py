"""`usage-meter tail`: calls as they are stored, on the terminal."""

import time
from collections.abc import Generator
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from aggregator.commands.client import Client, Items, asking
from aggregator.commands.query_command import Filters, Scope, Zone, filter_items, given
from aggregator.commands.query_table import printable
from aggregator.commands.terminal import Token, Url, console, errors, friendly
from aggregator.errors import ServiceError

SILENCE_SECONDS = 45.0  # the service says every 15 s that it is still there
FIRST_PAUSE_SECONDS = 0.5  # before connecting again; doubles with each attempt
LONGEST_PAUSE_SECONDS = 10.0

_STYLES = {"ok": "green", "client_error": "yellow", "disconnected": "yellow"}


def tail(
    filters: Filters = None,
    q: Annotated[str, typer.Option("--q", help="Text in the path, the error, the request or trace id.")] = "",
    min_latency: Annotated[str, typer.Option(help="Only calls that took as many milliseconds.")] = "",
    tz: Zone = "",
    scope: Scope = "",
    json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line, with everything known of the call.")
    ] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show each call as it is stored, until Ctrl-C. Connects again when the service goes away.

    What is stored while there is no connection is not shown: the Request Log has it.
    """
    items = given(q=q, min_latency=min_latency, tz=tz, scope=scope)
    with friendly():
        items += filter_items(filters or [])
        with asking(url, token) as client:
            for call in calls(client, items):
                if json:
                    print(call, flush=True)
                else:
                    console.print(line(call), soft_wrap=True)


def calls(client: Client, items: Items) -> Generator[str, None, None]:
    """The JSON of each call, for ever. Raises ServiceError only when the service was never there."""
    connected, pause = False, FIRST_PAUSE_SECONDS
    greeting = f"calls at {client.url}, as they are stored; Ctrl-C ends"
    while True:
        try:
            for line in client.lines("/v1/requests/stream", items, SILENCE_SECONDS):
                if greeting:
                    errors.print(greeting, style="dim", soft_wrap=True)
                connected, pause, greeting = True, FIRST_PAUSE_SECONDS, ""
                name, _, value = line.partition(": ")
                if name == "event" and value == "skipped":
                    errors.print("… more calls than can be shown: the Request Log has them all", style="dim")
                elif name == "data" and value != "{}":
                    yield value
        except ServiceError as error:
            if not connected:
                raise
            errors.print(f"{error}; connecting again", markup=False, style="dim", soft_wrap=True)
        else:
            errors.print("the stream ended; connecting again", style="dim")
        greeting = "connected again; what was stored in between is in the Request Log" if connected else greeting
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class _Call(msgspec.Struct):
    """What a line shows of a call."""

    time: datetime
    status: int
    outcome: str
    duration_ms: float
    credits: float
    kind: str = "request"
    workspace: str = ""
    user: str = ""
    api_key_hint: str = ""
    product: str = ""
    voice: str = ""
    method: str = ""
    path: str = ""
    error: str = ""


_decode = msgspec.json.Decoder(_Call).decode


def line(text: str) -> Text:
    """Never markup: the values come from whoever called the API."""
    call = _decode(text)
    key = f"…{call.api_key_hint}" if call.api_key_hint else ""
    line = Text(f"{call.time.strftime('%H:%M:%S.%f')[:12]}  ")
    line.append(f"{call.status} {call.outcome:<12}", _STYLES.get(call.outcome, "red"))
    line.append(f" {call.duration_ms:>9,.1f} ms  {call.credits:>9,.6g} cr  ")
    where = [call.method or call.kind, call.path, call.product, call.voice, call.workspace, call.user, key, call.error]
    line.append(printable("  ".join(part for part in where if part)))
    return line
