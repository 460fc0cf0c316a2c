"""How long each table keeps what it has, and what that seals. Pure.

Calls are removed by whole days, once they are all older than asked: so calls of the last N days are always there. A
quarter of an hour whose calls may be gone is sealed: its rollup is what is left, and computing it anew would lose
what was in it. So a call that comes late for it is refused, from a while before it is sealed: what was accepted must
be in the rollups by then.

What was removed does not come back when the setting is raised or unset: the store remembers up to where it may be gone
(`removed`, schema.sql), and such days stay sealed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from aggregator.errors import SettingsError

DAY_US = 86_400 * 1_000_000
SEALING_US = 6 * 3_600_000_000  # from refusing calls until their day is sealed: they pass Redis and the rollups by then
MOST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Retention:
    """Days for which each table keeps its rows; None is for ever. Raises SettingsError when they do not fit.

    `removed` has for a table the moment (UTC microseconds) before which rows may have gone by rules from before these.
    """

    raw: int | None = None
    quarter_hourly: int | None = None
    hourly: int | None = None
    daily: int | None = None
    monthly: int | None = None
    removed: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        given = [(variable, getattr(self, name)) for name, variable in VARIABLES.items()]
        for (variable, days), least in zip(given, LEAST_DAYS, strict=True):
            if days is not None and not least <= days <= MOST_DAYS:
                raise SettingsError(f"{variable} is {days}: must be {least} to {MOST_DAYS} days, or unset for ever")
        for (finer, shorter), (coarser, longer) in pairwise(given):
            if longer is not None and (shorter is None or shorter > longer):
                raise SettingsError(
                    f"{coarser} is {longer} days, and {finer} {f'{shorter} days' if shorter else 'for ever'}: what is "
                    f"coarser is there for what is older, so set {finer} to at most {longer}, or {coarser} higher"
                )

    def sealed_us(self, now_us: int) -> int:
        """What began before this moment may have lost its calls, so its rollups stay as they are; 0 when none has."""
        return self.removed_us("events", now_us)

    def refused_us(self, now_us: int) -> int:
        """Calls that began before this moment are not taken any more; 0 when all are."""
        return self.sealed_us(now_us + SEALING_US)

    def kept_us(self, now_us: int) -> int:
        """What began before this moment is a part of no table any more; 0 when everything is."""
        return self.removed_us("usage_1mo", now_us)

    def removed_us(self, table: str, now_us: int) -> int:
        """Rows of the table from before this moment may have been removed; 0 when none ever are."""
        return max(self.removed.get(table, 0), _removed_us(self._days()[table], now_us))

    def statements(self, engines: Mapping[str, str]) -> Iterator[str]:
        """What has each table remove what is asked, and no more; nothing where it does so already.

        `engines` are what ENGINES gives: the tables, as the store describes them, with the rule in force. Calls go by
        whole days: rows of one that went while others stay would leave a bucket that looks complete.
        """
        for table, days in self._days().items():
            column = "started" if table == "events" else "bucket"
            wanted = None if days is None else f"toStartOfDay({column}) + toIntervalDay({days + 1})"
            found = _RULE.search(engines[table])
            if wanted == (found[1] if found else None):
                continue
            if wanted is None:
                yield f"ALTER TABLE {table} REMOVE TTL"
                continue
            if table == "events":
                yield "ALTER TABLE events MODIFY SETTING ttl_only_drop_parts = 1"
            yield f"ALTER TABLE {table} MODIFY TTL {wanted}"

    def _days(self) -> dict[str, int | None]:
        return {
            "events": self.raw,
            "usage_15m": self.quarter_hourly,
            "peaks_15m": self.quarter_hourly,
            "usage_1h": self.hourly,
            "usage_1d": self.daily,
            "usage_1mo": self.monthly,
        }


def removed_by_rules(engines: Mapping[str, str], now_us: int) -> dict[str, int]:
    """For each table with a rule in force the moment before which that may have removed rows. `engines` as above."""
    rules = {table: _RULE.search(engine) for table, engine in engines.items()}
    return {
        table: _removed_us(int(days[1]) - 1, now_us)
        for table, rule in rules.items()
        if rule and (days := _DAYS.search(rule[1]))
    }


def _removed_us(days: int | None, now_us: int) -> int:
    return 0 if days is None else max(0, now_us - now_us % DAY_US - days * DAY_US)


VARIABLES = {
    "raw": "AGGREGATOR_RETENTION_RAW",
    "quarter_hourly": "AGGREGATOR_RETENTION_15M",
    "hourly": "AGGREGATOR_RETENTION_HOURLY",
    "daily": "AGGREGATOR_RETENTION_DAILY",
    "monthly": "AGGREGATOR_RETENTION_MONTHLY",
}
LEAST_DAYS = (2, 2, 2, 33, 33)
"""A bucket is computed from those of the finer table once it is over: two days of slack, and a month of days."""

ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"

_RULE = re.compile(r" TTL (.+?)(?: SETTINGS |$)")
_DAYS = re.compile(r"toIntervalDay\((\d+)\)")
