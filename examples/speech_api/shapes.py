"""What the calls of one API key have in common, as the meter records it: encoded once for each way that they end."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from examples.speech_api.accounts import MODELS, Account
from examples.speech_api.habits import SERVICES, Fate, Habit, Service
from usage_meter.event import MICRO, EventDimensions


@dataclass(frozen=True, slots=True)
class Shape:
    """What the calls of one API key for one thing that ended the same way have in common."""

    dimensions: msgspec.Raw
    attributes: msgspec.Raw
    path: str


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that a customer calls: a service with a voice and a model, and its price."""

    service: Service
    voice: str
    model: str
    path: str
    credits_micro: int
    """For each unit."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the meter would record of one API key's calls."""

    account: Account
    habit: Habit
    api_key: str
    api_key_hint: str

    def call(self, offer: Offer, fate: Fate) -> Shape:
        service, is_understood = offer.service, understood(fate)
        dimensions = EventDimensions(
            **self._caller(),
            product=service.product,
            voice=offer.voice if is_understood else "",
            model=offer.model if is_understood else "",
            method=service.method,
            route=service.route,
            status=service.ok if fate.charged else fate.status,
            outcome=fate.outcome,
            error=fate.error,
        )
        return Shape(_raw(dimensions), _raw({"tier": self.account.tier}), offer.path)

    def delivery(self, offer: Offer, fate: Fate, attempt: int) -> Shape:
        """As `meter.webhook` records it."""
        dimensions = EventDimensions(
            **self._caller(),
            kind="webhook",
            product=offer.service.product,
            model=offer.model,
            method="POST",
            route="speech_to_text_transcription",
            status=fate.status,
            outcome=fate.outcome,
            error=fate.error,
        )
        path = f"hooks.{self.account.workspace}.example/{self.account.user}/transcripts"
        return Shape(_raw(dimensions), _raw({"tier": self.account.tier, "attempt": str(attempt)}), path)

    def _caller(self) -> dict[str, Any]:
        return {
            "workspace": self.account.workspace,
            "user": self.account.user,
            "groups": self.account.groups,
            "api_key": self.api_key,
            "api_key_hint": self.api_key_hint,
            "region": self.account.region,
            "source": self.habit.source,
            "instance": "history",
        }


def understood(fate: Fate) -> bool:
    """Whether it is recorded what a call was for: one that is wrong in itself is refused before."""
    return fate.charged or fate.status >= 429


def offers_of(habit: Habit) -> tuple[list[Offer], list[float]]:
    """What the customer calls, and how often, cumulated."""
    offers: list[Offer] = []
    weights: list[float] = []
    for name, often in habit.services.items():
        service = SERVICES[name]
        voices = habit.voices if "{voice_id}" in service.route else {"": 1}
        for voice, voice_often in voices.items():
            for model, model_often in service.models.items():
                offers.append(_offer(service, voice, model))
                share = voice_often / sum(voices.values()) * model_often / sum(service.models.values())
                weights.append(often * share)
    return offers, list(accumulate(weights))


def _offer(service: Service, voice: str, model: str) -> Offer:
    path = service.route.replace("{voice_id}", voice)
    price = int(MODELS[model].price(MICRO)) if model in MODELS else service.credits_micro
    return Offer(service, voice, model, path, price)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))
