"""One request for a page: who asks, for which view, and when. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from fastapi import Request

from aggregator.buckets import from_us
from aggregator.page.view import LOG_ONLY, USAGE_ONLY, Items, View
from aggregator.parameters import usage_query, zone_of
from aggregator.query import UsageQuery
from aggregator.tokens import Principal


@dataclass(frozen=True, slots=True)
class Asked:
    """`now_us` is the moment for the whole page, so that its parts agree."""

    request: Request
    principal: Principal
    view: View
    now_us: int

    @property
    def zone(self) -> tzinfo:
        return zone_of(self.view.value("tz", "UTC")) or UTC

    @property
    def today(self) -> datetime:
        return from_us(self.now_us, self.zone)

    @property
    def scope(self) -> str:
        """Whose calls: `account` or `workspace`."""
        return self.view.value("scope", "account")

    @property
    def items(self) -> Items:
        """Range, zone, interval, whose calls, and filters: what every part of a page shares."""
        names = [name for name in USAGE_ONLY if name != "interval"]
        return self.view.asked(*names, *LOG_ONLY)

    def query(self, items: Items) -> UsageQuery:
        """Raises QueryError and ForbiddenError."""
        return usage_query(items, self.principal, self.now_us)
