"""Every name that we use in Redis. Nothing else builds one.

All keys that one flush touches carry the same hash tag `{shard}`, so that a flush is one MULTI/EXEC on one node of
a cluster. A workspace always goes to the same shard of an app. Free text stands last in a name, so that it cannot
be mistaken for another part.

    um:{N}:events              stream     v format version, n events, b payload; trimmed as far as it is stored
    um:{N}:dead                stream     v, n, b as they came, reason; kept until somebody retries or drops them
    um:{N}:ledger              hash       what became of the entries and events of the stream; written by the aggregator
    um:{N}:live:METRIC:DIMENSION:PERIOD:WORKSPACE
                               sorted set value → credits (micro) or requests; expires after its period
    um:{N}:inflight:INSTANCE   hash       '["workspace","api_key"]' → calls in flight; expires unless refreshed
    um:instances               sorted set processes that record, by their last sign of life (Unix seconds)
    um:rollup                  string     the aggregator that computes the rollups; expires unless renewed
    um:shards                  set        shard numbers that apps write to, so that the aggregator finds them all
"""

import zlib
from datetime import UTC, datetime
from typing import Literal

import msgspec

INSTANCES = "um:instances"
SHARDS = "um:shards"
ROLLUP_LEASE = "um:rollup"
GROUP = "aggregator"
"""The consumer group on every events stream."""

MAX_SHARDS = 64  # more than the nodes of any cluster that one product needs; bounds the set and the reader's fan-out
INFLIGHT_SECONDS = 10  # the lifetime of a process's in-flight counters: a dead process's share ages out after this
LIVE_DIMENSIONS = ("api_key", "user", "voice", "product")
LIVE_METRICS = ("credits", "requests")

Period = Literal["hour", "month"]
LIVE_SECONDS: dict[Period, int] = {"hour": 2 * 3600, "month": 35 * 86_400}  # the period itself and a margin


def shard_of(workspace: str, shards: int) -> int:
    """The shard of a workspace: the same in every process of an app."""
    return zlib.crc32(workspace.encode("utf-8", "replace")) % shards if shards > 1 else 0


def events(shard: int) -> str:
    return f"um:{{{shard}}}:events"


def dead(shard: int) -> str:
    return f"um:{{{shard}}}:dead"


def ledger(shard: int) -> str:
    return f"um:{{{shard}}}:ledger"


def inflight(shard: int, instance: str) -> str:
    return f"um:{{{shard}}}:inflight:{instance}"


def inflight_field(workspace: str, api_key: str) -> bytes:
    return msgspec.json.encode((workspace, api_key))


def inflight_caller(field: bytes) -> tuple[str, str]:
    """Workspace and API key of a field that `inflight_field` made."""
    return msgspec.json.decode(field, type=tuple[str, str])


def period_name(period: Period, unix_seconds: float) -> str:
    """`hour` → `h2026112215`, `month` → `m202611`, in UTC."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment.strftime("h%Y%m%d%H" if period == "hour" else "m%Y%m")


def live(shard: int, metric: str, dimension: str, period: str, workspace: str) -> str:
    """`period` as `period_name` gives it."""
    return f"um:{{{shard}}}:live:{metric}:{dimension}:{period}:{workspace}"
