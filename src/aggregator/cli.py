"""The commands by name. What each does is in a module of its own; here is what runs a service of its own.

A module that takes a second to import is imported in the command that needs it: a token should not wait for a store.
"""

import os
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import typer
from rich.table import Table

from aggregator.commands import dead_command, import_command, query_command, tail_command, token_command, verify_command
from aggregator.commands.client import ClientSettings
from aggregator.commands.terminal import Commands, console, errors, friendly
from aggregator.settings import EMBEDDED, PREFIX, Settings, displayed, explained

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class RoleOption(StrEnum):
    all = "all"
    consumer = "consumer"
    api = "api"


RedisUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_REDIS_URL.")]
StoreUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_STORE_URL.")]
Host = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_HOST.")]
Port = Annotated[int | None, typer.Option(help="Instead of AGGREGATOR_PORT; 0 takes any free one.")]


def _version(asked: bool) -> None:
    if asked:
        print(version("usage-meter"))
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Exact usage analytics for any API."""


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
    with friendly(interrupted=0):
        settings = Settings.from_env(os.environ, host=host, port=port, redis_url=redis_url, store_url=store_url)
        settings.check_role(role.value)
        from aggregator.app import check_redis
        from aggregator.commands.serving import run, serving

        if settings.redis_url != EMBEDDED:
            check_redis(settings.redis_url)
        with serving(settings, role.value) as (service, listener):
            run(service, listener)


@app.command()
def demo(port: Port = None, store_url: StoreUrl = None) -> None:
    """Everything at once, embedded: the service, an example API, sixty days of history and live traffic."""
    with friendly(interrupted=0):
        settings = Settings.from_env(os.environ, port=port, store_url=store_url, redis_url=EMBEDDED, host="127.0.0.1")
        from aggregator.commands.serving import address, run, serving
        from aggregator.demo import Demo, check_installation

        check_installation()
        with serving(settings) as (service, listener), Demo(service, console) as running:
            running.introduce(address(listener))
            run(service, listener)


@app.command()
def config() -> None:
    """Print every setting, its value and where it came from."""
    with friendly():
        known: set[str] = set()
        table = Table("setting", "value", "from", box=None, pad_edge=False)
        for settings in (Settings.from_env(os.environ), ClientSettings.from_env(os.environ)):
            for name, (_, origin) in explained(os.environ, type(settings)).items():
                table.add_row(PREFIX + name.upper(), displayed(settings, name), origin)
                known.add(PREFIX + name.upper())
        console.print(table, soft_wrap=True)
        for name in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
            errors.print(f"{name} is set, and there is no such setting", markup=False, soft_wrap=True)


app.command("query")(query_command.query)
app.command("tail")(tail_command.tail)
app.command()(verify_command.verify)
app.command("import")(import_command.import_file)
app.command("token")(token_command.token)
app.command("revoke")(token_command.revoke)
app.add_typer(dead_command.app, name="dead")
