"""The commands, as a user types them: what they print, and what they say when something is wrong."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from aggregator.app import Service
from aggregator.commands.serving import announce
from aggregator.settings import Settings
from tests.conftest import free_port, wait_until
from tests.processes import COMMAND, serving

DAY = {"start": "2026-03-10", "end": "2026-03-10"}


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    return subprocess.run([COMMAND, *arguments], env=clean | environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({"AGGREGATOR_REDIS_URL": "redis://127.0.0.1:1/0"}, "no Redis answers at redis://127.0.0.1:1/0"),
        ({"AGGREGATOR_REDIS_URL": "http://localhost"}, "must look like redis://host:6379/0"),
        ({"AGGREGATOR_STORE_URL": "sqlite:///x"}, "must look like chdb:///directory"),
        ({"AGGREGATOR_PORT": "http"}, "AGGREGATOR_PORT is 'http': must be a whole number"),
        ({"AGGREGATOR_HOST": "0.0.0.0"}, "set a secret of at least 32 characters"),
        ({"AGGREGATOR_SECRET": "short"}, "must be at least 32"),
        (
            {"AGGREGATOR_STORE_URL": "chdb:///proc/nowhere", "AGGREGATOR_REDIS_URL": "embedded"},
            "cannot use the directory",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(environ: dict[str, str], hint: str, tmp_path: Path) -> None:
    usable = {"STORE_URL": f"chdb://{tmp_path}", "REDIS_URL": "embedded", "PORT": "0"}
    given = {f"AGGREGATOR_{name}": value for name, value in usable.items()} | environ

    found = run("serve", **given)

    assert found.returncode == 2
    assert hint in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--bogus"], "usage-meter serve: No such option: --bogus"),
        (["serve", "--port", "http"], "usage-meter serve: Invalid value for '--port': must be a whole number"),
        (["query", "--interval"], "Option '--interval' requires an argument"),
        (["frobnicate"], "usage-meter: No such command 'frobnicate'"),
        (["import"], "usage-meter import: Missing argument"),
        (["import", "x", "--format", "xml"], "'xml' is not one of 'combined', 'jsonl', 'csv'"),
    ],
)
def test_a_wrong_option_is_one_clear_sentence(arguments: list[str], said: str) -> None:
    found = run(*arguments)

    assert found.returncode == 2
    assert said in found.stderr
    assert "--help)" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("role", ["consumer", "api"])
@pytest.mark.parametrize("own", ["AGGREGATOR_STORE_URL", "AGGREGATOR_REDIS_URL"])
def test_half_a_service_needs_what_two_processes_can_share(role: str, own: str, tmp_path: Path) -> None:
    shared = {"AGGREGATOR_STORE_URL": "http://clickhouse.example:8123/x", "AGGREGATOR_REDIS_URL": "redis://a.example"}
    embedded = {"AGGREGATOR_STORE_URL": f"chdb://{tmp_path}", "AGGREGATOR_REDIS_URL": "embedded"}

    found = run("serve", "--role", role, **shared | {own: embedded[own]})

    assert found.returncode == 2
    assert f"--role {role} is one of two processes, and {own} is '{embedded[own]}'" in found.stderr
    assert "or leave --role out" in found.stderr


def test_a_consumer_names_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(store_url="http://clickhouse.example:8123/x", secret="a secret of the tests, long enough")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        announce(Service(settings, "consumer"), listener)

    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["metrics", "store", "redis"]


@contextmanager
def in_a_terminal(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A command that Ctrl-C reaches, also where this run itself is in the background: what starts there ignores it."""
    with subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_a_tail_at_once_and_says_nothing(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as service,
        in_a_terminal("tail", "--url", service.page) as tail,
    ):
        assert tail.stderr
        assert "Ctrl-C ends" in tail.stderr.readline()

        tail.send_signal(signal.SIGINT)

        assert tail.wait(20) == 130
        assert tail.stderr.read() == ""


def test_an_import_that_is_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    line = '{{"id": "{0}", "time": "2026-03-10T12:00:00Z", "workspace": "acme"}}\n'
    with serving(tmp_path) as service:
        arguments = ["import", "-", "--format", "jsonl", "--url", service.page]
        with in_a_terminal(*arguments) as first:
            assert first.stdin
            assert first.stderr
            first.stdin.write("".join(line.format(number) for number in range(50_000)))
            first.stdin.flush()
            wait_until(lambda: service.total("requests", **DAY) > 0, "some are stored")

            first.send_signal(signal.SIGINT)

            assert first.wait(20) == 130
            said = first.stderr.read()
        assert "the same command again records the rest" in said
        assert "Traceback" not in said
        everything = "".join(line.format(number) for number in range(60_000))
        again = subprocess.run([COMMAND, *arguments], input=everything, capture_output=True, text=True, timeout=60)

        assert again.returncode == 0, again.stderr
        wait_until(lambda: service.total("requests", **DAY) == 60_000, "each is stored once")


def test_a_store_in_use_names_its_holder(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        found = run("serve", "--store-url", f"chdb://{tmp_path}", "--redis-url", "embedded", "--port", "0")

        assert found.returncode == 2
        assert f"in use by process {service.process.pid}" in found.stderr
        assert service.stop() == 0


def test_a_port_in_use_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        url = f"chdb://{tmp_path / 'data'}"

        found = run("serve", "--port", str(port), "--store-url", url, "--redis-url", "embedded")

    assert found.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in found.stderr
    assert not (tmp_path / "data").exists()


def test_config_shows_every_setting_where_it_came_from_and_no_secret() -> None:
    found = run(
        "config",
        AGGREGATOR_SECRET="x" * 40,
        AGGREGATOR_REDIS_URL="redis://user:hunter2@redis.example:6379/0",
        COLUMNS="200",
    )

    assert "AGGREGATOR_PORT" in found.stdout
    assert "redis://user:***@redis.example:6379/0" in found.stdout
    assert "(set)" in found.stdout
    assert "hunter2" not in found.stdout + found.stderr
    assert "x" * 40 not in found.stdout + found.stderr


def test_token_prints_a_token_and_nothing_else() -> None:
    found = run("token", "--workspace", "acme", "--user", "alice", AGGREGATOR_SECRET="x" * 40)

    assert found.returncode == 0
    assert found.stdout.count(".") == 2
    assert len(found.stdout.split()) == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--role", "king"], "must be one of member, admin, operator, ingest"),
        (["--role", "admin"], "--workspace is missing"),
        (["--workspace", "acme"], "--user is missing"),
    ],
)
def test_a_token_that_would_not_work_is_not_made(arguments: list[str], hint: str) -> None:
    found = run("token", *arguments, AGGREGATOR_SECRET="x" * 40)

    assert found.returncode == 2
    assert hint in found.stderr


def test_a_misspelt_setting_is_pointed_out() -> None:
    assert run("config", AGGREGATOR_PROT="8081").stderr == "AGGREGATOR_PROT is set, and there is no such setting\n"


def test_the_version_is_told() -> None:
    assert run("--version").stdout.strip() == version("usage-meter")
