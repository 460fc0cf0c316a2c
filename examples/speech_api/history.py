"""Sixty days of plausible history, as if the users of `accounts` had been here all the while. Pure, and quick.

Each day is drawn from its date and the seed alone: the same date always gives the same events with the same ids, so
loading a history again, later today or next week, adds what is new and nothing twice. The days have the rhythm of
their users (office hours in Berlin and Kolkata, evenings, a nightly job, quiet weekends), now and then an incident.

A customer's day is drawn as columns, and what calls have in common is encoded once, for all of them: event by event,
two hundred thousand would take longer than storing them does.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from examples.speech_api.accounts import ACCOUNTS, MAX_CHARACTERS, Account
from examples.speech_api.habits import (
    DELIVERIES,
    FATES,
    HABITS,
    INCIDENT_FATES,
    RHYTHMS,
    Habit,
)
from examples.speech_api.shapes import Offer, Recorded, Shape, offers_of, understood
from usage_meter.event import MICRO, EventRow

DAYS = 60
QUARTERS = 96  # of an hour, in a day
QUARTER_US = 15 * 60 * MICRO
DAY_US = QUARTERS * QUARTER_US
DRAWS = 4096  # lognormal numbers drawn beforehand: choosing one of them costs a fifth of drawing one
INCIDENT_DAYS = 0.08  # the share of days on which something breaks for a while
WEBHOOK_DELAY_US = 40_000  # from the end of a transcription to the first attempt to deliver it
WEBHOOK_RETRY_US = 5 * MICRO  # from the end of an attempt to the next
WEBHOOK_ATTEMPTS = 3
WEBHOOK_TIMEOUT_US = 10 * MICRO
EPOCH = date(1970, 1, 1)
NONE = -1  # in a column of numbers that a call may lack

_CALL_FATES = (*FATES, *INCIDENT_FATES)  # a fate's number is its place here
_ORDINARY = list(accumulate(fate.often for fate in FATES))
_BROKEN = list(accumulate(fate.often for fate in INCIDENT_FATES))
_DELIVERED = list(accumulate(fate.often for fate in DELIVERIES))

Column = NDArray[Any]
HashKey = Callable[[str], tuple[str, str]]
"""From an API key to what is recorded of it: its identifier and its hint."""


_CHARGED = np.array([fate.charged for fate in _CALL_FATES])
_UNDERSTOOD = np.array([understood(fate) for fate in _CALL_FATES])
_CUT_SHORT = np.array([fate.outcome == "disconnected" for fate in _CALL_FATES])
_TIMED_OUT = np.array([fate.outcome == "exception" for fate in DELIVERIES])
_TAKEN = np.array([fate.outcome == "ok" for fate in DELIVERIES])


@dataclass(frozen=True, slots=True)
class _Customer:
    """One API key, ready to be drawn from. The columns have a value for each offer."""

    account: Account
    habit: Habit
    weights: list[float]
    """Of the offers, cumulated."""
    shapes: Column
    """The number of a call's shape, by its offer and its fate."""
    deliveries: Column
    """The number of a webhook's shape, by its offer, its fate and the attempt."""
    offers: dict[str, Column]


@dataclass(frozen=True, slots=True)
class _Calls:
    """Columns of as many calls, or webhooks. NONE stands where a call has no time to its first byte, or no quantity."""

    shape: Column
    started_us: Column
    duration_us: Column
    ttfb_us: Column
    request_bytes: Column
    response_bytes: Column
    credits_micro: Column
    characters: Column
    audio_seconds: Column

    def at(self, places: Column) -> "_Calls":
        return _Calls(*(getattr(self, one.name)[places] for one in fields(self)))


class _Chance:
    """Random numbers of one day. The generator's own output is the same for every release of numpy; what numpy draws
    from it is not."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def words(self, number: int) -> Column:
        """64 random bits each."""
        return self._bits.random_raw(number)

    def shares(self, number: int) -> Column:
        """From 0 to 1."""
        return (self.words(number) >> np.uint64(11)) * 2.0**-53

    def places(self, size: int, number: int) -> Column:
        """From 0 to `size`, which is left out."""
        return (self.shares(number) * size).astype(np.int64)

    def choices(self, cumulated: Sequence[float] | Column, number: int) -> Column:
        """Places of the weights."""
        return np.searchsorted(cumulated, self.shares(number) * cumulated[-1], side="right")


class History:
    """The past of every customer. `hash_key` makes of a key what the app's meter makes of it, so that both are one."""

    def __init__(self, hash_key: HashKey, seed: int = 0) -> None:
        chance = random.Random(seed)
        self._seed = seed
        self._sizes = np.array([math.exp(chance.gauss(0, 0.8)) for _ in range(DRAWS)])
        self._delays = np.array([math.exp(chance.gauss(0, 0.35)) for _ in range(DRAWS)])
        self._shapes: list[Shape] = []
        self._customers = [self._customer(ACCOUNTS[key], habit, hash_key) for key, habit in HABITS.items()]

    def until(self, now: datetime, days: int = DAYS) -> Iterator[list[EventRow]]:
        """The events of each of the last `days` days (UTC) and of today, oldest first, that were over before `now`."""
        today = now.astimezone(UTC).date()
        for ago in range(days, -1, -1):
            yield self.over(today - timedelta(ago), now)

    def over(self, day: date, now: datetime) -> list[EventRow]:
        """The day's events; today's that were over before `now`."""
        events = self.day(day)
        if day < now.astimezone(UTC).date():
            return events
        now_us = int(now.timestamp() * MICRO)
        return [event for event in events if event.started_us + event.duration_us < now_us]

    def day(self, day: date) -> list[EventRow]:
        """All that starts on that day (UTC), in the order of time: always the same."""
        chance = random.Random(f"{self._seed} {day}")
        incident, drawn = _incident(chance, day), _Chance(chance.getrandbits(64))
        parts: list[_Calls] = []
        for customer in self._customers:
            quarters = _rhythm(customer.habit, customer.account.zone, day)
            count = customer.habit.calls * float(quarters[-1]) * _season(day) * chance.lognormvariate(0, 0.12)
            quarter = drawn.choices(quarters, round(count))
            parts += self._calls(drawn, customer, (day - EPOCH).days * DAY_US, quarter, incident)
        calls = _Calls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(_Calls)))
        return self._rows(calls.at(np.argsort(calls.started_us, kind="stable")), drawn)

    def _calls(
        self, chance: _Chance, customer: _Customer, midnight_us: int, quarter: Column, incident: range
    ) -> Iterator[_Calls]:
        count = len(quarter)
        offer = chance.choices(customer.weights, count)
        size = self._sizes[chance.places(DRAWS, count)]
        delay = self._delays[chance.places(DRAWS, count)]
        fate = chance.choices(_ORDINARY, count)
        started_us = midnight_us + quarter * QUARTER_US + chance.places(QUARTER_US, count)
        if incident:
            broken = (quarter >= incident.start) & (quarter < incident.stop)
            fate = np.where(broken, len(FATES) + chance.choices(_BROKEN, count), fate)
            delay = np.where(broken, delay * 4, delay)
        calls = _called(chance, customer, offer, fate, started_us, size, delay)
        yield calls
        told = np.flatnonzero(customer.offers["webhook"][offer] & _CHARGED[fate])
        yield from _delivered(chance, customer, offer[told], calls.at(told), delay[told])

    def _rows(self, calls: _Calls, chance: _Chance) -> list[EventRow]:
        ids = _ids(calls.started_us, chance)
        shapes = list(map(self._shapes.__getitem__, calls.shape.tolist()))
        columns = (getattr(calls, one.name).tolist() for one in fields(calls) if one.name != "shape")
        return [
            EventRow(
                dimensions=shape.dimensions,
                id=id,
                started_us=started_us,
                duration_us=duration_us,
                ttfb_us=None if ttfb_us < 0 else ttfb_us,
                path=shape.path,
                request_bytes=request_bytes,
                response_bytes=response_bytes,
                credits_micro=credits_micro,
                quantities={"characters": characters, "audio_seconds": audio_seconds}
                if characters >= 0
                else {"audio_seconds": audio_seconds}
                if audio_seconds >= 0
                else {},
                attributes=shape.attributes,
                request_id=id.hex(),
            )
            for (
                id, shape, started_us, duration_us, ttfb_us, request_bytes, response_bytes, credits_micro, characters,
                audio_seconds,
            ) in zip(ids, shapes, *columns, strict=True)
        ]  # fmt: skip

    def _customer(self, account: Account, habit: Habit, hash_key: HashKey) -> _Customer:
        offers, weights = offers_of(habit)
        recorded = Recorded(account, habit, *hash_key(account.api_key))
        shapes = [[self._number(recorded.call(offer, fate)) for fate in _CALL_FATES] for offer in offers]
        deliveries = [
            [
                [self._number(recorded.delivery(offer, fate, attempt)) for attempt in range(1, WEBHOOK_ATTEMPTS + 1)]
                for fate in DELIVERIES
            ]
            for offer in offers
        ]
        return _Customer(account, habit, weights, np.array(shapes), np.array(deliveries), _columns(offers))

    def _number(self, shape: Shape) -> int:
        self._shapes.append(shape)
        return len(self._shapes) - 1


def _called(
    chance: _Chance, customer: _Customer, offer: Column, fate: Column, started_us: Column, size: Column, delay: Column
) -> _Calls:
    of = {name: column[offer] for name, column in customer.offers.items()}
    charged, understood = _CHARGED[fate], _UNDERSTOOD[fate]
    whole = np.clip((of["size"] * size).astype(np.int64), 1, MAX_CHARACTERS)
    units = np.where(charged, np.where(of["is_characters"], whole, np.round(of["size"] * size, 1)), 0)
    share = np.where(_CUT_SHORT[fate], chance.shares(len(offer)), 1.0)
    ttfb_us = (np.where(understood, of["first_byte_ms"], 0) * delay * 1000).astype(np.int64)
    ttfb_us += np.where(understood, 0, 3_000 + (delay * 1000).astype(np.int64))
    return _Calls(
        shape=customer.shapes[offer, fate],
        started_us=started_us,
        duration_us=ttfb_us + 200 + (units * of["work_ms"] * share * delay * 1000).astype(np.int64),
        ttfb_us=ttfb_us,
        request_bytes=70 + (units * of["request_bytes"]).astype(np.int64),
        response_bytes=190 + (units * of["response_bytes"] * share).astype(np.int64),
        credits_micro=np.rint(units * of["credits_micro"]).astype(np.int64),
        characters=np.where(of["is_characters"] & charged, units, NONE),
        audio_seconds=np.where(units > 0, np.round(units * of["audio_seconds"] * share, 3), NONE),
    )


def _delivered(chance: _Chance, customer: _Customer, offer: Column, calls: _Calls, delay: Column) -> Iterator[_Calls]:
    """The webhooks that tell the customer that its transcript is there, each tried until it is taken."""
    started_us = calls.started_us + calls.duration_us + WEBHOOK_DELAY_US
    size = 300 + calls.response_bytes
    for attempt in range(WEBHOOK_ATTEMPTS):
        fate = chance.choices(_DELIVERED, len(offer))
        timed_out = _TIMED_OUT[fate]
        duration_us = np.where(timed_out, WEBHOOK_TIMEOUT_US, (180_000 * delay).astype(np.int64))
        nothing, none = np.zeros(len(offer), np.int64), np.full(len(offer), float(NONE))
        yield _Calls(
            shape=customer.deliveries[offer, fate, attempt],
            started_us=started_us,
            duration_us=duration_us,
            ttfb_us=np.where(timed_out, NONE, duration_us),
            request_bytes=size,
            response_bytes=nothing,
            credits_micro=nothing,
            characters=none,
            audio_seconds=none,
        )
        again = np.flatnonzero(~_TAKEN[fate])
        started_us = (started_us + duration_us + WEBHOOK_RETRY_US)[again]
        offer, delay, size = offer[again], delay[again], size[again]


def _ids(started_us: Column, chance: _Chance) -> list[bytes]:
    """UUIDv7s like any other, but drawn from `chance`, so that the same call has the same id each time."""
    high = (started_us // 1000).astype(np.uint64) << np.uint64(16) | np.uint64(7 << 12)
    high |= chance.words(len(started_us)) >> np.uint64(52)
    low = chance.words(len(started_us)) >> np.uint64(2) | np.uint64(1 << 63)
    encoded = np.stack([high, low], axis=1).astype(">u8").tobytes()
    return [encoded[first : first + 16] for first in range(0, len(encoded), 16)]


def _incident(chance: random.Random, day: date) -> range:
    """The quarters of an hour in which something is broken: none on most days."""
    if chance.random() >= INCIDENT_DAYS:
        return range(0)
    first = chance.randrange(QUARTERS - 4)
    return range(first, first + chance.randint(2, 4))


def _season(day: date) -> float:
    """Business goes up and down by a fifth in the course of three months."""
    return 1 + 0.2 * math.sin(day.toordinal() * 2 * math.pi / 91)


def _rhythm(habit: Habit, zone: str, day: date) -> Column:
    """The share of a weekday's calls that fall into each quarter of an hour of this UTC day, cumulated."""
    hours, at_weekend = _local(zone, day)
    rhythm: Column = np.array(RHYTHMS[habit.rhythm]) / (4 * sum(RHYTHMS[habit.rhythm]))
    return np.cumsum(rhythm[hours] * np.where(at_weekend, habit.weekend, 1.0))


@lru_cache(maxsize=4)
def _local(zone: str, day: date) -> tuple[Column, Column]:
    """The hour of each quarter of an hour of this UTC day there, and whether that is at a weekend."""
    midnight, there = (day - EPOCH).days * 86_400, ZoneInfo(zone)
    moments = [datetime.fromtimestamp(midnight + quarter * 900, there) for quarter in range(QUARTERS)]
    return np.array([moment.hour for moment in moments]), np.array([moment.weekday() >= 5 for moment in moments])


def _columns(offers: Sequence[Offer]) -> dict[str, Column]:
    names = ("size", "audio_seconds", "request_bytes", "response_bytes", "work_ms", "first_byte_ms", "webhook")
    return {
        "credits_micro": np.array([offer.credits_micro for offer in offers]),
        "is_characters": np.array([offer.service.unit == "characters" for offer in offers]),
        **{name: np.array([getattr(offer.service, name) for offer in offers]) for name in names},
    }
