"""Who asks: the principal behind a signed token (JWT, HS256), and what each role may see.

The workspace and the user of a question come from here and from nowhere else. Without a secret there are no tokens:
the service then answers on loopback only, and everybody there is an operator.
"""

import time
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


class TokenError(AggregatorError):
    """A token that is missing, forged, expired or malformed."""


class ForbiddenError(AggregatorError):
    """A valid token whose role does not allow what was asked."""


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
    """Makes and checks tokens with one secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @property
    def required(self) -> bool:
        return bool(self._secret)

    def make(self, principal: Principal, days: float) -> str:
        claims: dict[str, object] = {"role": principal.role, "exp": int(time.time() + days * _DAY_SECONDS)}
        if principal.workspace:
            claims["ws"] = principal.workspace
        if principal.user:
            claims["sub"] = principal.user
        return jwt.encode(claims, self._secret, algorithm=_ALGORITHM)

    def check(self, token: str | None) -> Principal:
        """The principal of a token; without a secret, the operator. Raises TokenError."""
        if not self.required:
            return OPERATOR
        if not token:
            raise TokenError("no token: send one as 'Authorization: Bearer …' or 'xi-api-key: …'")
        try:
            claims = jwt.decode(token, self._secret, algorithms=[_ALGORITHM], options={"require": ["exp"]})
        except jwt.ExpiredSignatureError:
            raise TokenError("the token has expired: ask for a new one") from None
        except jwt.InvalidTokenError:
            raise TokenError("the token is not valid here") from None
        return _principal(claims)


def _principal(claims: dict[str, object]) -> Principal:
    role, workspace, user = claims.get("role"), claims.get("ws", ""), claims.get("sub", "")
    if role not in ROLES or not isinstance(workspace, str) or not isinstance(user, str):
        raise TokenError("the token is not valid here")
    if role != "operator" and not workspace:
        raise TokenError("the token names no workspace")
    if role == "member" and not user:
        raise TokenError("the token names no user")
    return Principal(role, workspace, user)
