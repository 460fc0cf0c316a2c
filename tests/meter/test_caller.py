"""Who called: which key is read, what is kept of it, and that the secret itself goes nowhere."""

import pytest

from tests.meter.fakes import ListMeter
from usage_meter.caller import Caller, Callers, Identity, sent_key

KEY = "sk_0123456789abcdef"


@pytest.fixture
def callers() -> Callers:
    return ListMeter().callers


@pytest.mark.parametrize(
    ("xi_api_key", "x_api_key", "authorization", "key"),
    [
        (KEY, None, None, KEY),
        (None, KEY, None, KEY),
        (None, None, f"Bearer {KEY}", KEY),
        (None, None, f"bearer  {KEY} ", KEY),
        (KEY, "other", "Bearer other", KEY),
        (None, None, "Basic dXNlcjpwYXNz", ""),
        (None, None, "Digest username=x", ""),
        (None, None, "Bearer", ""),
        ("", "", "", ""),
        (None, None, None, ""),
    ],
)
def test_the_key_is_read_from_three_headers_and_no_other_scheme(
    callers: Callers, xi_api_key: str | None, x_api_key: str | None, authorization: str | None, key: str
) -> None:
    environ = {"HTTP_XI_API_KEY": xi_api_key, "HTTP_X_API_KEY": x_api_key, "HTTP_AUTHORIZATION": authorization}

    assert sent_key(environ).strip() == key  # `Callers` takes the blanks off
    assert bool(callers.by_key(sent_key(environ)).api_key) == bool(key)


def test_a_key_is_kept_as_a_keyed_hash_and_its_last_four_characters(callers: Callers) -> None:
    identity = callers.by_key(KEY)

    assert identity.api_key_hint == "cdef"
    assert len(identity.api_key) == 24
    assert KEY not in str(identity)
    assert identity == ListMeter().callers.by_key(KEY)
    assert identity.api_key != ListMeter(key_secret="another secret").callers.by_key(KEY).api_key


def test_a_short_key_gets_no_hint_because_four_characters_would_be_half_of_it(callers: Callers) -> None:
    assert callers.by_key("abcdefgh").api_key_hint == ""


def test_without_a_key_the_caller_is_anonymous_in_the_default_workspace(callers: Callers) -> None:
    assert callers.by_key("") == Identity("default", "", (), "", "")


def test_the_key_hashes_alike_whether_the_header_or_the_app_gave_it(callers: Callers) -> None:
    named = callers.of(Caller(workspace="acme", user="alice", groups=("staff", "beta"), api_key=KEY))

    assert named == Identity("acme", "alice", ("staff", "beta"), callers.by_key(KEY).api_key, "cdef")


def test_the_secret_is_not_in_a_callers_repr() -> None:
    assert KEY not in repr(Caller(workspace="acme", api_key=KEY))


@pytest.mark.parametrize("strange", ["acme", 7, object(), Caller(workspace=7), Caller("a", groups=(7,))])  # type: ignore[arg-type]
def test_what_is_no_caller_is_refused_with_a_reason(callers: Callers, strange: Caller) -> None:
    with pytest.raises(TypeError, match="Caller"):
        callers.of(strange)


def test_a_callers_texts_are_cut_and_mended(callers: Callers) -> None:
    identity = callers.of(Caller(workspace="w" * 1000, user="bad \udc80", groups=("g" * 1000,) * 1000))

    assert len(identity.workspace) == 256
    assert identity.user == "bad ?"
    assert len(identity.groups) == 32
    assert len(identity.groups[0]) == 256
