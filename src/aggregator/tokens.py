"""Who asks: the principal behind a signed token (JWT, HS256), and what each role may see.

Two secrets may be valid at a time, so that one can be replaced without a minute in which tokens fail: tokens are made
with the first and accepted with both. A token has an id (`jti`), by which it can be revoked before it expires.

The workspace and the user of a question come from here and from nowhere else. Without a secret there are no tokens:
the service then answers on loopback only, and everybody there is an operator.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal, get_args

import jwt

from aggregator.errors import AggregatorError
from aggregator.query import EVERYBODY, Audience

Role = Literal["member", "admin", "operator", "ingest"]
ROLES: tuple[Role, ...] = get_args(Role)
Scope = Literal["account", "workspace"]

_ALGORITHM = "HS256"
_DAY_SECONDS = 86_400

FAILURES_PER_MINUTE = 60  # from one address: a page with an expired token tries that often, a guesser needs more
ADDRESSES = 10_000  # remembered within a minute; beyond it the counting begins anew


class TokenError(AggregatorError):
    """A token that is missing, forged, expired or malformed."""


class ForbiddenError(AggregatorError):
    """A valid token whose role does not allow what was asked."""


class TooManyFailuresError(AggregatorError):
    """Too many refused tokens from one address; `seconds` until it may try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many tokens were refused: try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Principal:
    """`member` sees the own account; `admin` the workspace too; `operator` everything; `ingest` only records."""

    role: Role
    workspace: str = ""
    user: str = ""

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"

    def audience(self, scope: Scope) -> Audience:
        """Whose calls this principal sees in that scope. Raises ForbiddenError."""
        if self.role == "operator":
            return EVERYBODY
        if self.role == "ingest":
            raise ForbiddenError("an ingest token may only record events (POST /v1/events)")
        if scope == "workspace" and self.role != "admin":
            raise ForbiddenError("a member's token sees the own account only; scope=workspace needs an admin's")
        return Audience(self.workspace, self.user if scope == "account" else None)

    def widest_audience(self) -> Audience:
        """All that this principal may see at all: for one call by its id. Raises ForbiddenError."""
        return self.audience("workspace" if self.role == "admin" else "account")

    def may_ingest(self) -> bool:
        return self.role in ("ingest", "operator")


OPERATOR = Principal("operator")


class Tokens:
    """Makes tokens with `secret`; accepts those of `previous` too, unless their id is in `revoked`."""

    def __init__(self, secret: str, previous: str = "", revoked: Container[str] = frozenset()) -> None:
        self._secrets = [one for one in (secret, previous) if one]
        self._revoked = revoked

    @property
    def required(self) -> bool:
        return bool(self._secrets)

    def make(self, principal: Principal, days: float) -> str:
        claims: dict[str, object] = {
            "role": principal.role,
            "exp": int(time.time() + days * _DAY_SECONDS),
            "jti": secrets.token_hex(8),
        }
        if principal.workspace:
            claims["ws"] = principal.workspace
        if principal.user:
            claims["sub"] = principal.user
        return jwt.encode(claims, self._secrets[0], algorithm=_ALGORITHM)

    def check(self, token: str | None) -> Principal:
        """The principal of a token; without a secret, the operator. Raises TokenError."""
        if not self.required:
            return OPERATOR
        if not token:
            raise TokenError("no token: send one as 'Authorization: Bearer …' or 'xi-api-key: …'")
        claims = self._claims(token)
        if claims.get("jti", "") in self._revoked:
            raise TokenError("the token has been revoked: ask for a new one")
        return _principal(claims)

    def id_of(self, token: str) -> str:
        """The id of a token that is still valid here. Raises TokenError."""
        return str(self._claims(token).get("jti", ""))

    def _claims(self, token: str) -> dict[str, object]:
        for secret in self._secrets:
            try:
                return dict(jwt.decode(token, secret, algorithms=[_ALGORITHM], options={"require": ["exp"]}))
            except jwt.ExpiredSignatureError:
                raise TokenError("the token has expired: ask for a new one") from None
            except jwt.InvalidTokenError:
                continue
        raise TokenError("the token is not valid here")


class Failures:
    """Counts tokens that were refused, per client address and minute: a guesser is slowed down and seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def add(self, address: str) -> None:
        """Raises TooManyFailuresError once there are more than FAILURES_PER_MINUTE."""
        minute = int(self._clock() // 60)
        if minute != self._minute or len(self._counts) > ADDRESSES:
            self._minute, self._counts = minute, Counter()
        self._counts[address] += 1
        if self._counts[address] > FAILURES_PER_MINUTE:
            raise TooManyFailuresError(60 - int(self._clock() % 60))


def _principal(claims: dict[str, object]) -> Principal:
    role, workspace, user = claims.get("role"), claims.get("ws", ""), claims.get("sub", "")
    if role not in ROLES or not isinstance(workspace, str) or not isinstance(user, str):
        raise TokenError("the token is not valid here")
    if role != "operator" and not workspace:
        raise TokenError("the token names no workspace")
    if role == "member" and not user:
        raise TokenError("the token names no user")
    return Principal(role, workspace, user)
