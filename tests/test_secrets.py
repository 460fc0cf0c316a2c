"""A secret never leaves the process it came in: planted ones are looked for in everything that we write or answer."""

from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_until
from tests.processes import serving, speech_api

KEY = "sk_planted_xi_api_key_9d1f"
OTHER_KEY = "sk_planted_x_api_key_77aa"
BEARER = "planted-bearer-token-51c3"
BASIC = "planted-basic-credentials-e0b2"
COOKIE = "planted-cookie-8842"
QUERY = "planted-query-value-30fd"
BODY = "planted words of the body 6b7e"
SECRETS = (KEY, OTHER_KEY, BEARER, BASIC, COOKIE, QUERY, BODY)


def call_with_secrets(api: str) -> int:
    """Every place in which a client may put a secret; returns the number of calls."""
    url = f"{api}/v1/text-to-speech/en-us?token={QUERY}"
    with httpx.Client(cookies={"session": COOKIE}) as client:
        for headers in (
            {"xi-api-key": KEY},
            {"x-api-key": OTHER_KEY},
            {"authorization": f"Bearer {BEARER}"},
            {"authorization": f"Basic {BASIC}"},
        ):
            client.post(url, headers=headers, json={"text": BODY})
        client.get(f"{api}/nowhere?token={QUERY}", headers={"xi-api-key": KEY})
    return 5


def test_planted_secrets_are_found_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, journal = tmp_path / "data", tmp_path / "journal"
    found: dict[str, bytes] = {}
    with serving(data) as service, speech_api(service.redis_url, journal) as api:
        calls = call_with_secrets(api)
        wait_until(lambda: service.total("requests", last="24h") >= calls, "every call is stored")
        for path in (
            "v1/requests?last=24h", "v1/requests.csv?last=24h", "v1/usage.csv?breakdown=api_key&last=24h", "metrics",
            "v1/live", f"v1/usage?token={QUERY}", f"nowhere?token={QUERY}", "usage?breakdown=api_key&last=24h",
        ):  # fmt: skip
            answer = httpx.get(service.page + path, headers={"xi-api-key": KEY, "authorization": f"Bearer {BEARER}"})
            found[path] = answer.content
    log = capfd.readouterr()
    found["what the processes said"] = (log.out + log.err).encode()
    for file in (*data.rglob("*"), *journal.rglob("*")):
        if file.is_file():
            found[str(file)] = file.read_bytes()

    assert b"/v1/text-to-speech/en-us" in found["v1/requests.csv?last=24h"]
    leaks = [(where, secret) for where, content in found.items() for secret in SECRETS if secret.encode() in content]
    assert leaks == []


def test_every_part_of_the_store_is_looked_into(tmp_path: Path) -> None:
    """The search above would find a secret in the append-only file and in the journal: neither is compressed away."""
    with serving(tmp_path / "data") as service, speech_api(service.redis_url, tmp_path / "journal") as api:
        httpx.get(f"{api}/a-path-that-is-no-secret")
        wait_until(lambda: service.total("requests", last="24h") >= 1, "the call is stored")

    assert "a-path-that-is-no-secret" in journal_text(tmp_path / "journal")


def journal_text(directory: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in directory.rglob("*") if file.is_file())
