"""The calls that are in flight in this process, per workspace and API key.

Redis gets the whole picture each time, with a lifetime, never an increment: what a dead process left behind ages out,
and nothing leaks. A call is known by its event, so it counts for whoever is named as its caller by now; one dictionary
entry, which takes no lock in any Python, since this is a part of the price of every call.
"""

from collections import Counter
from operator import attrgetter

from usage_meter.event import UsageEvent

Calls = dict[bytes, UsageEvent]
"""The calls in flight by their events' ids. Any thread puts one in and takes it out; the sending thread looks."""

Callers = Counter[tuple[str, str]]
"""How many there are of each workspace and API key."""

_caller = attrgetter("workspace", "api_key")


def callers_of(calls: Calls) -> Callers:
    return Counter(map(_caller, list(calls.values())))  # copied in one step, since it changes all the time
