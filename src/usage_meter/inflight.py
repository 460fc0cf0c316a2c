"""The calls that are in flight in this process, per workspace and API key.

A plain count under a lock. Redis gets the whole picture each time, with a lifetime, never an increment: what a dead
process left behind ages out, and nothing leaks.
"""

import threading

Callers = dict[tuple[str, str], int]


class InFlight:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: Callers = {}
        self.changes = 0  # by which the sender sees that there is news

    def enter(self, workspace: str, api_key: str) -> None:
        caller = (workspace, api_key)
        with self._lock:
            self._callers[caller] = self._callers.get(caller, 0) + 1
            self.changes += 1

    def leave(self, workspace: str, api_key: str) -> None:
        """The end of what `enter` began; one too many changes nothing."""
        caller = (workspace, api_key)
        with self._lock:
            left = self._callers.get(caller, 0) - 1
            if left > 0:
                self._callers[caller] = left
            else:
                self._callers.pop(caller, None)
            self.changes += 1

    def callers(self) -> Callers:
        with self._lock:
            return dict(self._callers)

    def total(self) -> int:
        with self._lock:
            return sum(self._callers.values())
