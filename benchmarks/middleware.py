"""What a middleware costs: µs added per request in process, and requests/s behind a server.

    python -m benchmarks.middleware [--rounds 300] [--seconds 2] [--server-rounds 3] [--only process|servers]

Every variant runs in a process of its own; the rounds are interleaved, each going through all variants, so that
whatever else the machine does falls on all alike. In process, the best of many short turns counts, since other work
only ever slows a turn down; behind a server, the median rate and its ratio. Ours records for real: into its journal,
and from there to a real Redis, in the same process. Trust the ratios more than the figures.

The load comes from `wrk`; where that is missing, from a Python client, which is slower than the servers and so makes
all variants look more alike than they are (it is said in the table's title).
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from benchmarks.variants import (
    APITALLY,
    BARE,
    CAN,
    EXPORTER,
    FRAMEWORKS,
    HEADERS,
    INSTRUMENTATOR,
    NONE,
    OTEL,
    OURS,
    PATH,
    STARLETTE,
    VARIANTS,
)
from tests.conftest import RedisServer, free_port, wait_until

CALLS = 50  # per turn: a few milliseconds, so that some turns fall between two interruptions
WARM_UP_TURNS = 10
CONNECTIONS = 32  # kept open by the load; enough to keep one worker busy all the time
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "--factory", "--log-level", "critical", "--no-access-log", "--lifespan", "off"],
    "granian": ["-m", "granian", "--factory", "--log-level", "critical", "--interface", "asginl", "--workers", "1"],
}
PEERS = [INSTRUMENTATOR, EXPORTER, OTEL, APITALLY]

BAR_BARE_US = 8.0
BAR_OF_STARLETTE_ITSELF = 8 / 15  # a call of Starlette took 15 µs where 8 was set: holds on a slower machine too
BAR_OF_CHEAPEST_PEER = 1 / 4
BAR_OF_OTEL = 1 / 30
BAR_RATE = 0.80
BAR_P99 = 2.0


class Worker:
    """A variant in a process of its own, that makes calls when asked to."""

    def __init__(self, variant: str, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.variants", variant]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def turn(self, framework: str) -> float:
        """µs per call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{framework} {CALLS}\n")
        return int(self.process.stdout.readline()) / CALLS / 1000


@dataclass
class Load:
    """What a server stood. Latency in ms."""

    rates: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)

    @property
    def p99(self) -> float:
        return median(self.p99s)


Added = dict[str, dict[str, float]]  # framework → variant → µs, of no middleware the whole call
Loads = dict[str, dict[str, Load]]  # server → variant


def in_process(environment: dict[str, str], rounds: int) -> Added:
    with ExitStack() as stack:
        workers = {variant: Worker(variant, environment) for variant in VARIANTS}
        for worker in workers.values():
            stack.callback(_end, worker.process)
        turns: dict[tuple[str, str], list[float]] = {}
        for number in range(WARM_UP_TURNS + rounds):
            for framework in FRAMEWORKS:
                for variant in VARIANTS:
                    if framework in CAN[variant]:
                        took = workers[variant].turn(framework)
                        if number >= WARM_UP_TURNS:
                            turns.setdefault((framework, variant), []).append(took)
    return {
        framework: {
            variant: _added(turns[framework, NONE], turns[framework, variant], variant)
            for variant in VARIANTS
            if framework in CAN[variant]
        }
        for framework in FRAMEWORKS
    }


def _added(without: list[float], with_it: list[float], variant: str) -> float:
    return min(without) if variant == NONE else min(with_it) - min(without)


def behind_servers(environment: dict[str, str], rounds: int, seconds: int) -> Loads:
    loads: Loads = {}
    for server, options in SERVERS.items():
        with ExitStack() as stack:
            ports = {variant: stack.enter_context(serving(variant, options, environment)) for variant in VARIANTS}
            loads[server] = {variant: Load() for variant in VARIANTS}
            for port in ports.values():
                load(port, 1)
            for _ in range(rounds):
                for variant, port in ports.items():
                    rate, p99 = load(port, seconds)
                    loads[server][variant].rates.append(rate)
                    loads[server][variant].p99s.append(p99)
    return loads


@contextmanager
def serving(variant: str, options: list[str], environment: dict[str, str]) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, *options, "--host", "127.0.0.1", "--port", str(port)]
    named = {**environment, "BENCHMARK_FRAMEWORK": STARLETTE, "BENCHMARK_VARIANT": variant}
    process = subprocess.Popen([*command, "benchmarks.variants:from_environment"], env=named, start_new_session=True)
    try:
        wait_until(lambda: _answers(port), f"{variant} serves")
        yield port
    finally:
        _end(process)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(_request())
        return connection.recv(65536).startswith(b"HTTP/1.1 200")
    return False


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def load(port: int, seconds: int) -> tuple[float, float]:
    """Requests per second, and the 99th percentile of the latency in ms."""
    wrk = shutil.which("wrk")
    return _by_wrk(wrk, port, seconds) if wrk else asyncio.run(_by_python(port, seconds))


def _by_wrk(wrk: str, port: int, seconds: int) -> tuple[float, float]:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    for name, value in HEADERS:
        command += ["-H", f"{name.decode()}: {value.decode()}"]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{PATH}"], check=True, capture_output=True, text=True)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert rate, done.stdout
    assert p99, done.stdout
    assert "Non-2xx" not in done.stdout, done.stdout
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]


async def _by_python(port: int, seconds: int) -> tuple[float, float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(_request())
            while not (await reader.read(65536)).endswith(b"hello"):
                pass
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    latencies.sort()
    return len(latencies) / seconds, latencies[int(len(latencies) * 0.99)] * 1000


def _request() -> bytes:
    lines = [f"GET {PATH} HTTP/1.1".encode(), *(name + b": " + value for name, value in HEADERS)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@contextmanager
def surroundings() -> Iterator[dict[str, str]]:
    """The environment of every variant: a real Redis for ours, and a sink for what peers export."""
    directory = Path(tempfile.mkdtemp())
    redis = RedisServer(directory, options=("--maxmemory", "1gb"))
    redis.start()
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    try:
        yield {
            **os.environ,
            "USAGE_METER_REDIS_URL": redis.url,
            "USAGE_METER_JOURNAL_DIR": str(directory / "journal"),
            "APITALLY_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.server_port}",
        }
    finally:
        sink.shutdown()
        redis.kill()
        shutil.rmtree(directory)


class Sink(BaseHTTPRequestHandler):
    """Takes everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def table(added: Added, loads: Loads) -> Iterator[str]:
    by = "wrk" if shutil.which("wrk") else "a Python client (no wrk here: it flatters the slow)"
    yield f"µs added per request in process (of no middleware: the whole); behind servers, {STARLETTE} and load by {by}"
    heads = [*added, *(f"{server} {what}" for server in loads for what in ("req/s", "ratio", "p99 ms"))]
    yield f"{'':42}" + "".join(f"{head:>15}" for head in heads)
    for variant in VARIANTS:
        cells = [_cell(added[framework].get(variant)) for framework in added]
        for server in loads.values():
            one = server[variant]
            cells += [f"{one.rate:,.0f}", f"{one.rate / server[NONE].rate:.2f}", f"{one.p99:.2f}"]
        yield f"{variant:42}" + "".join(f"{cell:>15}" for cell in cells)


def _cell(added: float | None) -> str:
    return "" if added is None else f"{added:.1f}"


def bars(added: Added, loads: Loads) -> Iterator[str]:
    if added:
        starlette = added[STARLETTE]
        cheapest = min(starlette[peer] for peer in PEERS)
        bare, itself = added[BARE][OURS], starlette[NONE]
        yield _bar(f"bare ASGI: µs added to the app's own {added[BARE][NONE]:.1f}", bare, BAR_BARE_US, "at most")
        yield _bar(
            f"bare ASGI: added, of the {itself:.1f} µs of a call of Starlette itself",
            bare / itself,
            BAR_OF_STARLETTE_ITSELF,
            "at most",
        )
        share = starlette[OURS] / cheapest
        yield _bar("Starlette: share of the cheapest peer", share, BAR_OF_CHEAPEST_PEER, "at most")
        yield _bar("Starlette: share of OpenTelemetry's", starlette[OURS] / starlette[OTEL], BAR_OF_OTEL, "at most")
    for server, variants in loads.items():
        rate, p99 = variants[OURS].rate / variants[NONE].rate, variants[OURS].p99 / variants[NONE].p99
        yield _bar(f"{server}: rate, of no middleware's", rate, BAR_RATE, "at least")
        yield _bar(f"{server}: p99, of no middleware's", p99, BAR_P99, "at most")


def _bar(what: str, value: float, bar: float, way: str) -> str:
    held = value <= bar if way == "at most" else value >= bar
    return f"{'held  ' if held else 'MISSED'} {what}: {value:.3f}, {way} {bar:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="in process")
    parser.add_argument("--server-rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load, per server and round")
    parser.add_argument("--only", choices=["process", "servers"])
    options = parser.parse_args()
    with surroundings() as environment:
        added = in_process(environment, options.rounds) if options.only != "servers" else {}
        loads = behind_servers(environment, options.server_rounds, options.seconds) if options.only != "process" else {}
    print("\n".join(table(added, loads)), end="\n\n")
    print("\n".join(bars(added, loads)))


if __name__ == "__main__":
    main()
