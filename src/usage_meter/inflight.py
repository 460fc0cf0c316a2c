"""The calls that are in flight in this process, per workspace and API key.

Redis gets the whole picture each time, with a lifetime, never an increment: what a dead process left behind ages out,
and nothing leaks. A caller's count is the length of a list, since appending and popping need no lock in any Python: two
locks would be a sixth of all that a call costs.
"""

import threading

Callers = dict[tuple[str, str], int]


class InFlight:
    """Any thread enters and leaves; the sending thread looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: dict[tuple[str, str], list[None]] = {}
        self._idle: set[tuple[str, str]] = set()  # had nothing in flight at the last pruning

    def enter(self, workspace: str, api_key: str) -> None:
        """A call of this caller is in flight until `leave`."""
        calls = self._callers.get((workspace, api_key))
        if calls is None:
            with self._lock:
                calls = self._callers.setdefault((workspace, api_key), [])
        calls.append(None)

    def leave(self, workspace: str, api_key: str) -> None:
        """The end of what `enter` began; one too many changes nothing."""
        calls = self._callers.get((workspace, api_key))
        if calls:
            calls.pop()

    def callers(self) -> Callers:
        with self._lock:
            return {caller: len(calls) for caller, calls in self._callers.items() if calls}

    def prune(self) -> None:
        """Forget callers that had nothing in flight this time and the last.

        A call that enters in this very moment is not counted, and leaves uncounted; the next one is.
        """
        with self._lock:
            idle = {caller for caller, calls in self._callers.items() if not calls}
            for caller in idle & self._idle:
                del self._callers[caller]
            self._idle = idle - self._idle

    def total(self) -> int:
        return sum(self.callers().values())
