"""The service keeps what its OpenAPI says: Schemathesis asks every endpoint, with all its checks.

It knows the description and nothing else, so it finds where that is not true: an undocumented status, an answer that
has not the shape, a wrong value that is taken, a right one that is not, a failure, a method or a token that is not
looked at. By default it sends the examples of the description and some of its own making; with
`SCHEMATHESIS_EXAMPLES` so many for each endpoint, and every limit and every order of calls beside, which takes minutes.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis

from aggregator.labels import Labels
from aggregator.limits import Limit, Limits
from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService, listening

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
PHASES = [] if EXAMPLES else ["--phases", "examples,fuzzing"]

CONFIG = """
# The same questions each time; an answer that takes longer has hung.
seed = 20260310
request-timeout = 20.0

[parameters]
"query.workspace" = "acme"
"query.tz" = "Europe/Berlin"

# A schema cannot say that a start lies before its end, that a range has not too many buckets, which parameters exclude
# each other, or what a time zone is called.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "422"]
"""
HOOKS = """
import schemathesis
schemathesis.serializer.alias("application/x-ndjson", "text/plain")
"""
STREAMS = ("/v1/live/stream", "/v1/requests/stream")  # they never end; test_live.py and test_isolation.py ask them


@pytest.fixture
def address(store: Store, redis_client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A running service with some of everything, and an operator's token."""
    monkeypatch.setattr("aggregator.tokens.FAILURES_PER_MINUTE", 10**9)  # all come from one address
    service = TestedService(store, redis_client)
    store.insert([call(NOON + timedelta(hours=i), voice=voice, groups=("staff",)) for i in range(3) for voice in "ab"])
    Labels(store).put("acme", "voice", {"a": "Anna"})
    Limits(store).put("acme", [Limit("user", "alice", Decimal(10))])
    with listening(service) as address:
        yield address, service.tokens.make(OPERATOR, days=1)


@pytest.mark.timeout(600)
def test_the_service_is_what_its_openapi_says(address: tuple[str, str], tmp_path: Path) -> None:
    url, token = address
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "lines.py").write_text(HOOKS)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all"]
    command += [
        "--max-examples",
        str(EXAMPLES or 2),
        *PHASES,
        "--header",
        f"Authorization: Bearer {token}",
        "--no-color",
    ]
    command += [word for path in STREAMS for word in ("--exclude-path", path)]

    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "lines", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, cwd=tmp_path, env=hooks, capture_output=True, text=True, check=False, timeout=500)

    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Tested: " in run.stdout
