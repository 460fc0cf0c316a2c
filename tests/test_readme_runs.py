"""What the README and docs/ tell people to type: the snippets run, and the commands are ones that there are."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main
from fastapi.testclient import TestClient

from aggregator.cli import app
from tests.conftest import RedisServer, wait_until
from usage_meter import UsageEvent, keys
from usage_meter.event import unpack

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)

DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from usage_meter import usage

def speak(request, voice):
    usage.set(voice=voice, product="text_to_speech", credits="1.5")
    return HttpResponse("hello")

urlpatterns = [path("v1/text-to-speech/<str:voice>", speak)]
settings.configure(
    MIDDLEWARE=MIDDLEWARE, USAGE_METER=USAGE_METER, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x"
)
django.setup()
assert Client().post("/v1/text-to-speech/en-us").status_code == 200
USAGE_METER.close()
"""


@pytest.fixture
def snippets(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By the framework; on this test's Redis."""
    monkeypatch.setenv("USAGE_METER_JOURNAL_DIR", str(tmp_path / "journal"))
    found = {}
    for framework in ("fastapi", "flask", "django"):
        (snippet,) = (one for one in SNIPPETS if "Meter(redis_url" in one and framework in one)
        found[framework] = snippet.replace("redis://localhost:6379/0", redis_server.url)
    return found


def recorded(client: "redis.Redis") -> UsageEvent:
    def first() -> Any:
        return client.xrange(keys.events(0), count=1)

    fields = wait_until(first, "the call is in Redis")[0][1]
    (event,) = unpack(fields[b"b"], int(fields[b"n"]))
    return event


def test_the_fastapi_app_records_its_calls(snippets: dict[str, str], redis_client: "redis.Redis") -> None:
    names: dict[str, Any] = {}
    exec(compile(snippets["fastapi"], "README.md", "exec"), names)  # noqa: S102  # our own README

    with TestClient(names["app"]) as client:
        assert client.post("/v1/text-to-speech/en-us", params={"text": "hello"}).status_code == 200

    event = recorded(redis_client)
    assert (event.workspace, event.user, event.groups, event.voice) == ("acme", "alice", ("staff",), "en-us")
    assert (event.credits_micro, event.quantities, event.api_key_hint) == (5_000_000, {"characters": 5.0}, "c1d8")
    assert event.route == "/v1/text-to-speech/{voice}"


def test_the_flask_app_records_its_calls(snippets: dict[str, str], redis_client: "redis.Redis") -> None:
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(snippets["flask"], "README.md", "exec"), names)  # noqa: S102  # our own README

    assert names["app"].test_client().post("/v1/text-to-speech/en-us").status_code == 200

    event = recorded(redis_client)
    assert (event.voice, event.credits_micro, event.route) == ("en-us", 1_500_000, "/v1/text-to-speech/{voice}")


def test_the_django_project_records_its_calls(
    snippets: dict[str, str], redis_client: "redis.Redis", tmp_path: Path
) -> None:
    """In a process of its own: Django's settings are one per process."""
    project = tmp_path / "project.py"
    project.write_text(snippets["django"] + DJANGO)
    subprocess.run([sys.executable, project], check=True, timeout=60)

    event = recorded(redis_client)
    assert (event.voice, event.credits_micro, event.route) == ("en-us", 1_500_000, "/v1/text-to-speech/{voice}")


def commands() -> Iterator[str]:
    """Every shell line of a block, and every `usage-meter …` of a text."""
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            yield from (line for line in re.sub(r"'\[\n.*?\]'", "'[]'", block, flags=re.DOTALL).splitlines() if line)
        yield from re.findall(r"`(usage-meter [a-z][^`]*)`", text)


KNOWN = (
    "python3 -m venv .venv && .venv/bin/pip install -e ",  # the two commands, which test_docs.py holds
    "curl ",  # test_readme.py sends them
    "export AGGREGATOR_SECRET=",
)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_that_is_shown_is_one_that_there_is(command: str) -> None:
    """Its name, arguments and options are taken, up to the point where it would begin."""
    words = [word for word in shlex.split(command) if word != "…"]
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words[0] != "usage-meter":
        assert command.startswith(KNOWN)
        return
    found: Any = typer.main.get_command(app)
    words.pop(0)
    while hasattr(found, "commands") and words:
        found = found.commands[words.pop(0)]
    if words:
        found.make_context("usage-meter", words)
