"""`usage-meter verify`: whether all that was accepted is accounted for, and the rollups say what the calls say."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from aggregator.commands.terminal import FAILED, console, errors, friendly
from aggregator.settings import EMBEDDED, Settings, without_password

if TYPE_CHECKING:
    from aggregator import verify as verification
    from aggregator.ledger import Account

SHOWN = 50  # differences in the table: more are counted

RedisUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_REDIS_URL.")]
StoreUrl = Annotated[str | None, typer.Option(help="Instead of AGGREGATOR_STORE_URL.")]
Repair = Annotated[bool, typer.Option("--repair", help="Compute anew what differs.")]


def verify(repair: Repair = False, store_url: StoreUrl = None, redis_url: RedisUrl = None) -> None:
    """Account for all that was accepted, and hold every rollup against the calls, bucket by bucket.

    Exit code 1 when something differs.

    An embedded store belongs to one process: stop the service first. A ClickHouse server is verified while it runs.
    """
    from aggregator import verify as verification  # with the engine, a second to import: no other command waits for it
    from aggregator.freshness import Freshness
    from aggregator.rollup import Rollup
    from aggregator.store import Store

    with friendly():
        settings = Settings.from_env(os.environ, store_url=store_url, redis_url=redis_url)
        with Store(settings.store_url) as store:
            freshness = Freshness(store)
            removed_us = partial(store.kept(settings.retention).removed_us, now_us=time.time_ns() // 1000)
            sealed_us = removed_us("events")
            found = verification.Verification(store, freshness, sealed_us)
            differences = _all(found)
            if repair and differences:
                # What waits for its sealed day is the service's to add: two at once would do it wrong.
                rollup = Rollup(store, freshness, removed_us=removed_us, may_add=lambda: False)
                verification.repair(rollup, differences)
                errors.print(f"{len(differences)} differences: computed anew, verifying again")
                found = verification.Verification(store, Freshness(store), sealed_us)
                differences = _all(found)
            accounts = _accounts(settings)
    if differences:
        console.print(_table(differences), soft_wrap=True)
    for line in _totals(accounts):
        print(line)
    print(f"compared\t{found.compared}\ndifferent\t{len(differences)}")
    if differences or any(one.missing_entries or one.missing_events for one in accounts):
        raise typer.Exit(FAILED)


def _accounts(settings: Settings) -> "list[Account]":
    """Of all shards. An embedded Redis runs only beside its service: while that is stopped, it is started for this."""
    import redis

    from aggregator.app import connect
    from aggregator.backlog import Backlog
    from aggregator.embedded_redis import EmbeddedRedis
    from aggregator.ledger import Ledger

    with ExitStack() as stack:
        url = settings.redis_url
        if url == EMBEDDED:
            url = stack.enter_context(EmbeddedRedis(settings.directory / "redis")).url
        client = stack.enter_context(connect(url))
        try:
            ledger = Ledger(client)
            return [found for shard in Backlog(client).shards() if (found := ledger.account(shard))]
        except redis.RedisError as error:
            errors.print(f"what was accepted is not verified: no Redis answers at {without_password(url)} ({error})")
            return []


def _totals(accounts: "list[Account]") -> Iterator[str]:
    """Entries of the streams, then the events in those that were settled; nothing where there are no books."""
    if not accounts:
        return
    entries: tuple[str, ...] = ("accepted", "settled", "waiting", "missing_entries")
    events = ("events", "stored", "dead", "dropped", "retried", "missing_events")
    if any(one.accepted is None for one in accounts):
        errors.print("entries that were accepted are not counted: that takes Redis 7 or Valkey")
        entries = entries[1:3]
    for name in (*entries, *events):
        yield f"{name}\t{sum(getattr(one, name) for one in accounts)}"


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
