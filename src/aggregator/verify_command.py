"""`usage-meter verify`: whether the rollups say what the calls say, on the terminal."""

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from aggregator.settings import Settings
from aggregator.terminal import FAILED, console, errors, friendly

if TYPE_CHECKING:
    from aggregator import verify as verification

SHOWN = 50  # differences in the table: more are counted

StoreUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_STORE_URL.")]
Repair = Annotated[bool, typer.Option("--repair", help="Compute anew what differs.")]


def verify(repair: Repair = False, store_url: StoreUrl = None) -> None:
    """Hold every rollup against the calls, bucket by bucket. Exit code 1 when something differs.

    An embedded store belongs to one process: stop the service first. A ClickHouse server is verified while it runs.
    """
    from aggregator import verify as verification  # with the engine, a second to import: no other command waits for it
    from aggregator.freshness import Freshness
    from aggregator.rollup import Rollup
    from aggregator.store import Store

    with friendly():
        settings = Settings.from_env(os.environ, store_url=store_url)
        with Store(settings.store_url) as store:
            freshness = Freshness(store)
            sealed_us = settings.retention.sealed_us(time.time_ns() // 1000)
            found = verification.Verification(store, freshness, sealed_us)
            differences = _all(found)
            if repair and differences:
                verification.repair(Rollup(store, freshness, sealed_us=lambda: sealed_us), differences)
                errors.print(f"{len(differences)} differences: computed anew, verifying again")
                found = verification.Verification(store, Freshness(store), sealed_us)
                differences = _all(found)
    if differences:
        console.print(_table(differences), soft_wrap=True)
    print(f"compared\t{found.compared}\ndifferent\t{len(differences)}")
    if differences:
        raise typer.Exit(FAILED)


def _all(found: "verification.Verification") -> "list[verification.Difference]":
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=errors, transient=True) as progress:
        months = found.months()
        return [one for month in progress.track(months, description="months") for one in found.differences(month)]


def _table(differences: "list[verification.Difference]") -> Table:
    table = Table("bucket (UTC)", "rollup", "cube", "calls", "says", "credits", "says", box=None, pad_edge=False)
    for one in differences[:SHOWN]:
        start = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(one.bucket_us / 1_000_000))
        amounts = (one.calls[0], one.rollup[0], one.calls[1], one.rollup[1])
        table.add_row(start, one.level.table, one.cube, *map(str, amounts))
    if len(differences) > SHOWN:
        table.add_row(f"and {len(differences) - SHOWN} more")
    return table
