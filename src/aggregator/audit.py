"""The audit log: who exported or changed what. Kept in the store, never rewritten."""

import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

from aggregator.buckets import from_us
from aggregator.query import Audience, Statement
from aggregator.store import Store
from aggregator.tokens import Principal

MAX_ENTRIES = 1000  # of one answer: the newest; what is older is in the store for an operator's own question
MAX_DETAIL = 2000  # characters of what is said of one entry
TITLES = ("time", "workspace", "user", "role", "action", "detail")


class Audit:
    """`now` in Unix seconds."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def record(self, principal: Principal, action: str, detail: str, workspace: str | None = None) -> None:
        """`action` is such as `export` or `labels`; `detail` says what of it, without secrets."""
        moment = from_us(int(self._now() * 1_000_000), UTC)
        whose = principal.workspace if workspace is None else workspace
        row = (moment, whose, principal.user, principal.role, action, detail)
        self._store.write("audit", ("at", "workspace", "user", "role", "action", "detail"), [row])

    def export(self, principal: Principal, path: str, query_string: str) -> None:
        """A file was taken: `/v1/requests.csv?voice=en`."""
        asked = f"{path}?{query_string}" if query_string else path
        self.record(principal, "export", asked[:MAX_DETAIL])

    def entries(self, audience: Audience) -> list[dict[str, Any]]:
        """The newest first."""
        where = "1" if audience.workspace is None else "workspace = {workspace:String}"
        found = self._store.select(
            Statement(
                f"SELECT at, workspace, user, role, action, detail FROM audit WHERE {where} "  # noqa: S608
                f"ORDER BY at DESC LIMIT {MAX_ENTRIES}",
                {"workspace": audience.workspace or ""},
            )
        )
        return [
            dict(zip(TITLES, (row[0].replace(tzinfo=UTC).isoformat(timespec="microseconds"), *row[1:]), strict=True))
            for row in found
        ]
