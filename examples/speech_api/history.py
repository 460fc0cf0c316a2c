"""Sixty days of plausible history, as if the users of `accounts` had been here all the while. Pure, and quick.

Each day is drawn from its date and the seed alone: the same date always gives the same events with the same ids, so
loading a history again, later today or next week, adds what is new and nothing twice. The days have the rhythm of
their users (office hours in Berlin and Kolkata, evenings, a nightly job, quiet weekends), now and then an incident.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from zoneinfo import ZoneInfo

from examples.speech_api.accounts import ACCOUNTS, MAX_CHARACTERS, MODELS, Account
from examples.speech_api.habits import (
    DELIVERIES,
    FATES,
    HABITS,
    INCIDENT_FATES,
    RHYTHMS,
    SERVICES,
    Fate,
    Habit,
    Service,
)
from usage_meter.event import MICRO, UsageEvent

DAYS = 60
QUARTERS = 96  # of an hour, in a day
QUARTER_US = 15 * 60 * MICRO
DAY_US = QUARTERS * QUARTER_US
DRAWS = 4096  # lognormal numbers drawn beforehand: choosing one of them costs a fifth of drawing one
INCIDENT_DAYS = 0.08  # the share of days on which something breaks for a while
WEBHOOK_DELAY_US = 40_000  # from the end of a transcription to the first attempt to deliver it
WEBHOOK_RETRY_US = 5 * MICRO  # from the end of an attempt to the next
WEBHOOK_ATTEMPTS = 3
EPOCH = date(1970, 1, 1)

# Each fate as often as it happens: choosing from such a list is the quickest draw there is.
_ORDINARY = [fate for fate in FATES for _ in range(fate.often)]
_BROKEN = [fate for fate in INCIDENT_FATES for _ in range(fate.often)]
_DELIVERED = [fate for fate in DELIVERIES for _ in range(fate.often)]

HashKey = Callable[[str], tuple[str, str]]
"""From an API key to what is recorded of it: its identifier and its hint."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """One thing that a customer calls: a service with a voice and a model, and its price."""

    service: Service
    voice: str
    model: str
    path: str
    credits_micro: int
    """For each unit."""


@dataclass(frozen=True, slots=True)
class _Customer:
    """One API key, ready to be drawn from."""

    account: Account
    habit: Habit
    api_key: str
    api_key_hint: str
    offers: list[_Offer]
    weights: list[float]
    """Of the offers, cumulated."""
    attributes: dict[str, str]
    """Shared by all of its events, which are never changed."""
    delivery_attributes: list[dict[str, str]]
    """The same of its webhooks, for each attempt."""


class History:
    """The past of every customer. `hash_key` makes of a key what the app's meter makes of it, so that both are one."""

    def __init__(self, hash_key: HashKey, seed: int = 0) -> None:
        chance = random.Random(seed)
        self._seed = seed
        self._sizes = [math.exp(chance.gauss(0, 0.8)) for _ in range(DRAWS)]
        self._delays = [math.exp(chance.gauss(0, 0.35)) for _ in range(DRAWS)]
        self._customers = [_customer(ACCOUNTS[key], habit, hash_key) for key, habit in HABITS.items()]

    def until(self, now: datetime, days: int = DAYS) -> Iterator[list[UsageEvent]]:
        """The events of each of the last `days` days (UTC) and of today, oldest first, that were over before `now`."""
        now_us = int(now.timestamp() * MICRO)
        today = now.astimezone(UTC).date()
        for ago in range(days, 0, -1):
            yield self.day(today - timedelta(ago))
        yield [event for event in self.day(today) if event.started_us + event.duration_us < now_us]

    def day(self, day: date) -> list[UsageEvent]:
        """All that starts on that day (UTC), in the order of time: always the same."""
        chance = random.Random(f"{self._seed} {day}")
        incident = _incident(chance, day)
        events: list[UsageEvent] = []
        for customer in self._customers:
            events += self._calls(chance, customer, day, incident)
        events.sort(key=attrgetter("started_us"))
        return events

    def _calls(self, chance: random.Random, customer: _Customer, day: date, incident: range) -> Iterator[UsageEvent]:
        quarters = _quarters(customer.habit.rhythm, customer.habit.weekend, customer.account.zone, day)
        count = round(customer.habit.calls * quarters[-1] * _season(day) * chance.lognormvariate(0, 0.12))
        drawn = zip(
            chance.choices(range(QUARTERS), cum_weights=quarters, k=count),
            chance.choices(customer.offers, cum_weights=customer.weights, k=count),
            chance.choices(self._sizes, k=count),
            chance.choices(self._delays, k=count),
            chance.choices(_ORDINARY, k=count),
            strict=True,
        )
        midnight_us = (day - EPOCH).days * DAY_US
        for quarter, offer, size, delay, fate in drawn:
            started_us = midnight_us + quarter * QUARTER_US + int(chance.random() * QUARTER_US)
            if quarter in incident:
                fate, delay = chance.choice(_BROKEN), delay * 4
            call = _call(chance, customer, offer, started_us, size, delay, fate)
            yield call
            if offer.service.webhook and fate.charged:
                yield from _deliveries(chance, customer, offer, call, delay)


def _call(
    chance: random.Random, customer: _Customer, offer: _Offer, started_us: int, size: float, delay: float, fate: Fate
) -> UsageEvent:
    account, service = customer.account, offer.service
    known = fate.charged or fate.status >= 429  # a call that is wrong in itself is refused before it is understood
    units = _units(service, size) if fate.charged else 0
    share = chance.random() if fate.outcome == "disconnected" else 1.0
    ttfb_us = int(service.first_byte_ms * delay * 1000) if known else 3_000 + int(delay * 1000)
    id = _id(chance, started_us)
    return UsageEvent(
        id=id,
        started_us=started_us,
        duration_us=ttfb_us + 200 + int(units * service.work_ms * share * delay * 1000),
        ttfb_us=ttfb_us,
        workspace=account.workspace,
        user=account.user,
        groups=account.groups,
        api_key=customer.api_key,
        api_key_hint=customer.api_key_hint,
        product=service.product,
        voice=offer.voice if known else "",
        model=offer.model if known else "",
        region=account.region,
        source=customer.habit.source,
        method=service.method,
        route=service.route,
        path=offer.path,
        status=service.ok if fate.charged else fate.status,
        outcome=fate.outcome,
        error=fate.error,
        request_bytes=70 + int(units * service.request_bytes),
        response_bytes=190 + int(units * service.response_bytes * share),
        credits_micro=round(units * offer.credits_micro),
        quantities=_quantities(service, units, share),
        attributes=customer.attributes,
        request_id=id.hex(),
        instance="history",
    )


def _deliveries(
    chance: random.Random, customer: _Customer, offer: _Offer, call: UsageEvent, delay: float
) -> Iterator[UsageEvent]:
    """The webhook that tells the customer that its transcript is there, tried until it is taken."""
    started_us = call.started_us + call.duration_us + WEBHOOK_DELAY_US
    for attributes in customer.delivery_attributes:
        fate = chance.choice(_DELIVERED)
        attempt = _attempt(chance, customer, offer, call, started_us, delay, fate, attributes)
        yield attempt
        if fate.outcome == "ok":
            return
        started_us += attempt.duration_us + WEBHOOK_RETRY_US


def _attempt(
    chance: random.Random,
    customer: _Customer,
    offer: _Offer,
    call: UsageEvent,
    started_us: int,
    delay: float,
    fate: Fate,
    attributes: dict[str, str],
) -> UsageEvent:
    """As `meter.webhook` records it."""
    account = customer.account
    duration_us = 10 * MICRO if fate.outcome == "exception" else int(180_000 * delay)
    return UsageEvent(
        id=_id(chance, started_us),
        kind="webhook",
        started_us=started_us,
        duration_us=duration_us,
        ttfb_us=duration_us if fate.status else None,
        workspace=account.workspace,
        user=account.user,
        groups=account.groups,
        api_key=customer.api_key,
        api_key_hint=customer.api_key_hint,
        product=offer.service.product,
        model=offer.model,
        region=account.region,
        source=customer.habit.source,
        method="POST",
        route="speech_to_text_transcription",
        path=f"hooks.{account.workspace}.example/{account.user}/transcripts",
        status=fate.status,
        outcome=fate.outcome,
        error=fate.error,
        request_bytes=call.response_bytes + 300,
        attributes=attributes,
        request_id=call.request_id,
        instance="history",
    )


def _units(service: Service, size: float) -> float:
    """What is paid for: whole characters, or tenths of a second."""
    if service.unit == "characters":
        return min(max(int(service.size * size), 1), MAX_CHARACTERS)
    return round(service.size * size, 1)


def _quantities(service: Service, units: float, share: float) -> dict[str, float]:
    if not units:
        return {}
    audio_seconds = round(units * service.audio_seconds * share, 3)
    return (
        {"characters": units, "audio_seconds": audio_seconds}
        if service.unit == "characters"
        else {"audio_seconds": audio_seconds}
    )


def _id(chance: random.Random, started_us: int) -> bytes:
    """A UUIDv7 like any other, but drawn from `chance`, so that the same call has the same id each time."""
    drawn = chance.getrandbits(74)
    high = started_us // 1000 << 16 | 0x7000 | drawn >> 62
    return (high << 64 | 1 << 63 | drawn & 0x3FFF_FFFF_FFFF_FFFF).to_bytes(16, "big")


def _incident(chance: random.Random, day: date) -> range:
    """The quarters of an hour in which something is broken: none on most days."""
    if chance.random() >= INCIDENT_DAYS:
        return range(0)
    first = chance.randrange(QUARTERS - 4)
    return range(first, first + chance.randint(2, 4))


def _season(day: date) -> float:
    """Business goes up and down by a fifth in the course of three months."""
    return 1 + 0.2 * math.sin(day.toordinal() * 2 * math.pi / 91)


@lru_cache(maxsize=64)
def _quarters(rhythm: str, weekend: float, zone: str, day: date) -> list[float]:
    """The share of a weekday's calls that fall into each quarter of an hour of this UTC day, cumulated."""
    hours = RHYTHMS[rhythm]
    weekday_sum = 4 * sum(hours)
    shares = []
    for quarter in range(QUARTERS):
        moment = datetime.fromtimestamp((day - EPOCH).days * 86_400 + quarter * 900, UTC).astimezone(ZoneInfo(zone))
        shares.append(hours[moment.hour] * (weekend if moment.weekday() >= 5 else 1.0) / weekday_sum)
    return list(accumulate(shares))


def _customer(account: Account, habit: Habit, hash_key: HashKey) -> _Customer:
    offers: list[_Offer] = []
    weights: list[float] = []
    for name, often in habit.services.items():
        service = SERVICES[name]
        voices = habit.voices if "{voice_id}" in service.route else {"": 1}
        for voice, voice_often in voices.items():
            for model, model_often in service.models.items():
                offers.append(_offer(service, voice, model))
                share = voice_often / sum(voices.values()) * model_often / sum(service.models.values())
                weights.append(often * share)
    tier = {"tier": account.tier}
    attempts = [{**tier, "attempt": str(attempt)} for attempt in range(1, WEBHOOK_ATTEMPTS + 1)]
    return _Customer(account, habit, *hash_key(account.api_key), offers, list(accumulate(weights)), tier, attempts)


def _offer(service: Service, voice: str, model: str) -> _Offer:
    path = service.route.replace("{voice_id}", voice)
    price = int(MODELS[model].price(MICRO)) if model in MODELS else service.credits_micro
    return _Offer(service, voice, model, path, price)
