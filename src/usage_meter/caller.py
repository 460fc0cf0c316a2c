"""Who called: the app's own `Caller`, and what of it may leave the process.

A key is a secret. What is recorded of it is a keyed hash (the same in every process that has the same
`USAGE_METER_KEY_SECRET`, of no use to whoever reads the store) and its last four characters, so that its owner
recognises it. Only three headers are ever read for a key; `Authorization` of another scheme than Bearer is not.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

from usage_meter.cardinality import OTHER, CardinalityGuard

HASH_CHARACTERS = 24  # 96 bits in hex: among a billion keys, two with one hash are a 1 in 10**11 chance
HINT_CHARACTERS = 4
HINT_FROM_LENGTH = 12  # of a shorter key, four characters would give too much away: it gets no hint
KEYS_KEPT = 4096  # hashing costs some 5 µs, remembering 0.1 µs; a few MB at most, and what is unused is forgotten

Identify = Callable[[Any], "Caller | Awaitable[Caller | None] | None"]
"""The app's own function from the ASGI scope or the WSGI environ to the caller, or None for an unknown one."""

TEXT_LENGTH = 256  # characters of a dimension; longer ones are cut, since each event has to stay small
GROUPS_KEPT = 32  # of one user: a breakdown by group counts a call in each


def clean(text: str, length: int) -> str:
    """A text as the wire can carry it: cut to `length`, without lone surrogates."""
    text = text[:length]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the app knows it. `api_key` is the secret itself: it is hashed at once and never shown."""

    workspace: str
    user: str = ""
    groups: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)


class Identity(NamedTuple):
    """A caller as it is recorded: `api_key` is the keyed hash, `api_key_hint` the key's last characters."""

    workspace: str
    user: str = ""
    groups: tuple[str, ...] = ()
    api_key: str = ""
    api_key_hint: str = ""


def hash_key(secret: bytes, api_key: str) -> tuple[str, str]:
    """The keyed hash and the hint of an API key."""
    digest = hmac.new(secret, api_key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
    hint = api_key[-HINT_CHARACTERS:] if len(api_key) >= HINT_FROM_LENGTH else ""
    return digest[:HASH_CHARACTERS], hint


def sent_key(environ: Mapping[str, Any]) -> str:
    """The API key that the headers of a WSGI request carry; empty when none of them does."""
    key: str | None = environ.get("HTTP_XI_API_KEY") or environ.get("HTTP_X_API_KEY")
    if not key and (authorization := environ.get("HTTP_AUTHORIZATION")) and authorization[:7].lower() == "bearer ":
        key = authorization[7:]
    return key or ""


class Callers:
    """Turns keys and callers into identities. `workspace` is that of a caller who names none."""

    def __init__(self, key_secret: str, workspace: str, guard: CardinalityGuard) -> None:
        self.workspace = workspace
        self.guard = guard
        self.anonymous = Identity(workspace)
        self._one_of_many = Identity(workspace, api_key=OTHER)
        self._hashed = lru_cache(KEYS_KEPT)(partial(hash_key, key_secret.encode()))
        self._known: dict[str | bytes, Identity] = {}
        self._known_before: dict[str | bytes, Identity] = {}

    def by_key(self, sent: str | bytes) -> Identity:
        """The caller of whom only the key is known, as a header has it, or not even that."""
        identity = self._known.get(sent)
        return self._learn(sent) if identity is None else identity

    def _learn(self, sent: str | bytes) -> Identity:
        """Anybody may send any key: what is new goes past the guard, and is not remembered when it is too much."""
        api_key = (sent if isinstance(sent, str) else sent.decode("latin-1")).strip()
        if not api_key:
            return self.anonymous
        identity = self._known_before.get(sent)
        if identity is None:
            identity = Identity(self.workspace, "", (), *self._hashed(api_key))
            if self.guard.admit("api_key", identity.api_key) is OTHER:
                return self._one_of_many
        if len(self._known) >= KEYS_KEPT:
            self._known_before, self._known = self._known, {}  # what is in use comes back from there
        self._known[sent] = identity
        return identity

    def of(self, caller: object) -> Identity:
        """What is recorded of a caller that the app named. Raises TypeError when it is no Caller of texts."""
        if not isinstance(caller, Caller):
            raise TypeError(f"the caller is a {type(caller).__name__}: must be a usage_meter.Caller or None")
        texts = (caller.workspace or self.workspace, caller.user, *caller.groups[:GROUPS_KEPT])
        if not all(isinstance(text, str) for text in (*texts, caller.api_key)):
            raise TypeError("a Caller's workspace, user, groups and api_key must be text")
        workspace, user, *groups = (clean(text, TEXT_LENGTH) for text in texts)
        known_by_key = self._hashed(caller.api_key) if caller.api_key else ()
        return Identity(workspace, user, tuple(groups), *known_by_key)
