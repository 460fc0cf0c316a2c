"""Tokens: who is let in, who no longer is, and how a secret is replaced."""

from collections.abc import Iterator

import jwt
import pytest
import redis

from aggregator.query import Statement
from aggregator.store import Store
from aggregator.tokens import FAILURES_PER_MINUTE, Failures, Principal, TokenError, Tokens, TooManyFailuresError
from tests.aggregator.service import SECRET, TestedService

ALICE = Principal("member", "acme", "alice")
OLD, NEW = "the old secret, long enough to sign", "the new secret, long enough to sign"


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    store.select(Statement("TRUNCATE TABLE revoked", {}))
    tested = TestedService(store, redis_client)
    with tested.http:
        yield tested


@pytest.mark.parametrize(
    "principal", [ALICE, Principal("admin", "acme"), Principal("operator"), Principal("ingest", "a")]
)
def test_a_token_says_who_it_was_made_for(principal: Principal) -> None:
    tokens = Tokens(NEW)

    assert tokens.check(tokens.make(principal, days=1)) == principal


def test_while_a_secret_is_replaced_the_tokens_of_both_are_valid() -> None:
    old_token = Tokens(OLD).make(ALICE, days=1)
    both = Tokens(NEW, previous=OLD)

    assert both.check(old_token) == both.check(both.make(ALICE, days=1)) == ALICE
    assert Tokens(NEW).check(both.make(ALICE, days=1)) == ALICE
    with pytest.raises(TokenError, match="not valid"):
        Tokens(NEW).check(old_token)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"role": "member", "ws": "acme", "sub": "alice", "exp": 1}, "expired"),
        ({"role": "member", "ws": "acme", "sub": "alice"}, "not valid"),
        ({"role": "king", "ws": "acme", "exp": 2**40}, "not valid"),
        ({"role": "admin", "exp": 2**40}, "names no workspace"),
        ({"role": "member", "ws": "acme", "exp": 2**40}, "names no user"),
        ({"role": "admin", "ws": ["acme"], "exp": 2**40}, "not valid"),
    ],
)
def test_a_token_without_what_it_needs_is_refused(claims: dict[str, object], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        Tokens(NEW).check(jwt.encode(claims, NEW, algorithm="HS256"))


def test_an_unsigned_token_and_one_of_another_algorithm_are_refused() -> None:
    claims = {"role": "operator", "exp": 2**40}
    for forged in (jwt.encode(claims, "", algorithm="none"), jwt.encode(claims, NEW * 2, algorithm="HS512")):
        with pytest.raises(TokenError):
            Tokens(NEW).check(forged)


def test_a_revoked_token_is_refused_and_others_are_not(service: TestedService) -> None:
    first, second = (service.tokens.make(ALICE, days=1) for _ in range(2))
    operator = service.headers(Principal("operator"))

    path = f"/v1/tokens/{service.tokens.id_of(first)}/revoke"
    assert service.http.post(path, headers=service.headers(ALICE)).status_code == 403
    assert service.http.post(path, headers=operator).status_code == 200

    assert service.http.get("/v1/usage", headers={"xi-api-key": first}).status_code == 401
    assert service.http.get("/v1/usage", headers={"xi-api-key": second}).status_code == 200
    again = TestedService(service.store, redis.Redis(port=1), SECRET)  # another process on the same store
    assert again.http.get("/v1/usage", headers={"xi-api-key": first}).status_code == 401


def test_a_guesser_is_slowed_down_and_the_rightful_are_not(service: TestedService) -> None:
    guesses = [service.http.get("/v1/usage", headers={"xi-api-key": "x"}) for _ in range(2 * FAILURES_PER_MINUTE + 1)]

    # More than two minutes' worth at once: whenever the minute turned, one of them had too many.
    assert {guess.status_code for guess in guesses} == {401, 429}
    assert all(int(guess.headers["retry-after"]) <= 60 for guess in guesses if guess.status_code == 429)
    assert service.http.get("/v1/usage", headers=service.headers(ALICE)).status_code == 200


def test_failures_are_counted_per_address_and_minute() -> None:
    now = [0.0]
    failures = Failures(clock=lambda: now[0])
    for _ in range(FAILURES_PER_MINUTE):
        failures.add("a")
    failures.add("b")
    with pytest.raises(TooManyFailuresError) as refused:
        failures.add("a")
    assert refused.value.seconds == 60
    now[0] = 60
    failures.add("a")
