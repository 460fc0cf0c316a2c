"""Limits that are shown, not enforced: monthly credits and concurrency of a workspace, a user or an API key."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from aggregator.query import Statement
from aggregator.store import Store

Subject = Literal["workspace", "user", "api_key"]
SUBJECTS: tuple[Subject, ...] = get_args(Subject)


@dataclass(frozen=True, slots=True)
class Limit:
    """`value` names the user or the key; for the workspace itself it is empty. None is no limit."""

    subject: Subject
    value: str = ""
    monthly_credits: Decimal | None = None
    concurrency: int | None = None


class Limits:
    """Kept in the store. `now` in Unix seconds."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def put(self, workspace: str, limits: Sequence[Limit]) -> None:
        """Each replaces what was set for its subject."""
        columns = ("workspace", "subject", "value", "monthly_credits", "concurrency", "written_us")
        written_us = int(self._now() * 1_000_000)
        rows = [(workspace, one.subject, one.value, one.monthly_credits, one.concurrency, written_us) for one in limits]
        self._store.write("limits", columns, rows)

    def of(self, workspace: str) -> list[Limit]:
        """All that are set, the workspace's own first."""
        found = self._store.select(
            Statement(
                "SELECT subject, value, monthly_credits, concurrency FROM limits FINAL WHERE workspace = {w:String} "
                "AND (monthly_credits IS NOT NULL OR concurrency IS NOT NULL) ORDER BY subject = 'workspace' DESC, "
                "subject, value",
                {"w": workspace},
            )
        )
        return [
            Limit(subject, str(value), None if credits is None else Decimal(credits), concurrency)
            for subject, value, credits, concurrency in found
        ]
