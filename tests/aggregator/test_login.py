"""Signing in by an address: a token becomes a cookie, and nobody is led elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from aggregator.errors import SettingsError
from aggregator.page.login import own_path
from aggregator.page.look import Look
from aggregator.settings import Settings
from aggregator.store import Store
from aggregator.tokens import FAILURES_PER_MINUTE, Principal, Tokens
from tests.aggregator.events import call
from tests.aggregator.service import SECRET, TestedService
from tests.processes import serving

FRAMED = Look(frame_ancestors="https://app.example.com https://*.example.org:8443")
ALICE = Principal("member", "acme", "alice")


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client, look=FRAMED)
    with tested.http:
        yield tested


def client(service: TestedService, scheme: str) -> TestClient:
    return TestClient(service.app, base_url=f"{scheme}://usage.example.com", follow_redirects=False)


def test_a_token_goes_from_the_address_into_a_cookie_and_opens_the_page(service: TestedService) -> None:
    service.store.insert([call(workspace="acme", user="alice", credits=4711)])
    browser = client(service, "http")
    assert "Please sign in" in browser.get("/usage").text

    answer = browser.get("/login", params={"token": service.tokens.make(ALICE, 1), "next": "/usage?last=12mo"})

    assert answer.status_code == 303
    assert answer.headers["location"] == "/usage?last=12mo"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["set-cookie"].endswith("; HttpOnly; Path=/; SameSite=Lax")
    assert "4,711" in browser.get(answer.headers["location"]).text


def test_behind_tls_the_cookie_is_for_tls_and_works_in_the_frames_of_the_company(service: TestedService) -> None:
    token = service.tokens.make(ALICE, 1)

    cookie = client(service, "https").get("/login", params={"token": token}).headers["set-cookie"]

    assert cookie.endswith("; HttpOnly; Path=/; Secure; SameSite=None; Partitioned")


def test_what_a_proxy_on_this_machine_says_of_the_sender_is_believed_and_of_nobody_else(tmp_path: Path) -> None:
    """Of the running service: that TLS ended before it, and who refused tokens are counted for."""
    token = Tokens(SECRET).make(ALICE, 1)
    with serving(tmp_path, settings={"AGGREGATOR_SECRET": SECRET}) as running:

        def login(sent: str, **headers: str) -> httpx.Response:
            return httpx.get(f"{running.page}login", params={"token": sent}, headers=headers, timeout=30)

        by_tls = login(token, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
        by_itself = login(token).headers["set-cookie"]
        # So many that a minute holds too many of them, wherever in a minute they begin.
        tries = [login("forged", **{"X-Forwarded-For": "203.0.113.1"}) for _ in range(2 * FAILURES_PER_MINUTE + 1)]
        another = login("forged", **{"X-Forwarded-For": "203.0.113.2"})
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")  # no proxy's address
        with httpx.Client(transport=elsewhere, params={"token": token}) as stranger:
            unproven = stranger.get(f"{running.page}login", headers={"X-Forwarded-Proto": "https"})

    assert by_tls.endswith("; HttpOnly; Path=/; Secure; SameSite=Lax")
    assert by_itself.endswith("; HttpOnly; Path=/; SameSite=Lax")
    assert ({one.status_code for one in tries}, another.status_code) == ({401, 429}, 401)
    assert unproven.headers["set-cookie"].endswith("; HttpOnly; Path=/; SameSite=Lax")


def test_only_those_whom_the_company_names_may_frame_the_pages(service: TestedService) -> None:
    policy = client(service, "https").get("/usage").headers["content-security-policy"]

    assert policy.endswith("frame-ancestors https://app.example.com https://*.example.org:8443")


def test_a_token_that_is_not_valid_opens_nothing_and_a_guesser_is_slowed_down(service: TestedService) -> None:
    browser = client(service, "https")

    answer = browser.get("/login?token=forged")

    assert answer.status_code == 401
    assert "the token is not valid here" in answer.text
    assert "set-cookie" not in answer.headers
    # A minute may end meanwhile: of so many, more than enough fall into one.
    guesses = [browser.get("/login?token=forged").status_code for _ in range(2 * FAILURES_PER_MINUTE + 1)]
    assert 429 in guesses


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
        "/\t/evil.example", "/usage\r\nSet-Cookie: a=b", "usage", "", "http:///evil.example", "/%5Cevil\\.example",
        "//[", "/\N{FULLWIDTH SOLIDUS}evil.example",
    ],
)  # fmt: skip
def test_nobody_is_led_elsewhere(elsewhere: str) -> None:
    assert own_path(elsewhere) == "/usage"


@pytest.mark.parametrize("own", ["/usage?last=7d&voice=a%20b", "/requests/abc?tz=Europe/Berlin", "/analytics#view"])
def test_a_page_of_ours_is_gone_to(own: str) -> None:
    assert own_path(own) == own


def test_without_a_secret_there_is_nothing_to_sign_in_with(store: Store, redis_client: "redis.Redis") -> None:
    answer = client(TestedService(store, redis_client, secret=""), "http").get("/login?next=/analytics")

    assert answer.status_code == 400  # by that name: loopback only
    here = TestClient(TestedService(store, redis_client, secret="").app, base_url="http://localhost")
    answer = here.get("/login?next=/analytics", follow_redirects=False)
    assert answer.headers["location"] == "/analytics"
    assert "set-cookie" not in answer.headers


def test_a_company_makes_the_pages_its_own(store: Store, redis_client: "redis.Redis", tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    settings = Settings.from_env(
        {
            "AGGREGATOR_COMPANY": "Acme <Speech>",
            "AGGREGATOR_LOGO": str(logo),
            "AGGREGATOR_ACCENT": "#ffe600",
            "AGGREGATOR_TRACE_URL": "https://traces.example.com/{trace_id}",
        }
    )
    service = TestedService(store, redis_client, secret="", look=settings.look)
    service.store.insert([call(trace_id="4bf92f/35", request_id="r1")])

    page = service.http.get("/usage").text
    assert "Acme &lt;Speech&gt;" in page
    address = page.split('rel="icon" href="')[1].split('"')[0]
    assert service.http.get(address).text == logo.read_text()
    assert "--accent:light-dark(#" in service.http.get("/static/colors.css").text
    assert "#ffe600" not in service.http.get("/static/colors.css").text.split("--accent-ink")[0].split(",")[-2]
    assert 'href="https://traces.example.com/4bf92f%2F35"' in service.http.get("/requests/r1").text


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("LOGO", "/no/such/logo.svg", "must be the path of an SVG or PNG file"),
        ("ACCENT", "red", "must look like #4f46e5"),
        ("FRAME_ANCESTORS", "https://a.example; script-src *", "must be origins such as https://app.example.com"),
        ("TRACE_URL", "javascript:{trace_id}", "must look like https://traces.example.com/trace/{trace_id}"),
        ("TRACE_URL", "https://traces.example.com/", "must look like"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(variable: str, value: str, right: str) -> None:
    with pytest.raises(SettingsError, match=f"AGGREGATOR_{variable}") as raised:
        Settings.from_env({f"AGGREGATOR_{variable}": value})
    assert right in str(raised.value)
