"""64 clients at once on the query endpoints while events come in: how long they wait, and whether anything fails.

    python -m benchmarks.load [--clients 64] [--events 20000] [--seconds 20] [--operators]

Service, Redis, apps and clients share the machine. The events come as apps send them, entries of 500 calls put into the
stream at that rate; the service, started as a user does, stores them and computes rollups while it answers. Each client
is the admin of a workspace and asks one question after the other (`--operators`: about all workspaces, which costs
far more). The table says how long they wait; below it, how many events waited in the stream, and how soon the rest was
stored. At the end every event has to be counted.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import redis

from aggregator.tokens import OPERATOR, Principal, Tokens
from benchmarks.recorder import calls
from tests.conftest import wait_until
from tests.processes import alongside, serving
from usage_meter import keys
from usage_meter.event import FORMAT_VERSION, concatenated, new_id, pack

ENTRY_EVENTS = 500
KINDS = 20_000  # different calls, sent again and again
SECRET = "a secret of the benchmark, long enough"
WARM_SECONDS = 2  # of events before the first question: an empty store answers anything at once
QUESTIONS = {
    "usage by voice": "/v1/usage?scope=workspace&last=24h&interval=hour&breakdown=voice&metric=credits&metric=requests",
    "success and p95": "/v1/usage?scope=workspace&last=24h&interval=hour&metric=success_rate&metric=latency_p95",
    "CSV by product": "/v1/usage.csv?scope=workspace&last=24h&interval=hour&breakdown=product",
    "request log": "/v1/requests?scope=workspace&last=24h&limit=50",
    "values of voice": "/v1/dimensions/voice?scope=workspace&last=24h",
    "failed by route": "/v1/usage?scope=workspace&last=24h&interval=total&breakdown=route&status=4xx",
}


class Apps:
    """Sends calls of now into the stream at a rate, all with ids of their own; `sent` counts them."""

    def __init__(self, client: "redis.Redis", per_second: int) -> None:
        self.sent = 0
        self.waiting: list[int] = []  # entries in the stream, looked at with each one that is sent
        self._redis = client
        self._pause = ENTRY_EVENTS / per_second
        self._calls = itertools.cycle(calls(KINDS))

    def send(self) -> None:
        now_us = time.time_ns() // 1000
        some = itertools.islice(self._calls, ENTRY_EVENTS)
        events = [msgspec.structs.replace(one, id=new_id(now_us), started_us=now_us) for one in some]
        fields = {"v": FORMAT_VERSION, "n": len(events), "b": pack(concatenated(events))}
        self._redis.xadd(keys.events(0), fields)  # type: ignore[arg-type]  # numbers and bytes are fields too
        self.waiting.append(self._redis.xlen(keys.events(0)))
        self.sent += len(events)

    def go_on(self, stop: threading.Event) -> None:
        """At the rate, however long a sending takes."""
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            self.send()
            due += self._pause


class Clients:
    """Ask at once, each one question after the other; `seconds` are those of each answer, `errors` what was none."""

    def __init__(self, address: str, principals: Sequence[Principal], tokens: Tokens) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []
        self._address = address
        self._headers = [{"authorization": f"Bearer {tokens.make(one, days=1)}"} for one in principals]

    def ask(self, seconds: float, each: int = 1_000_000) -> None:
        """Until that time is over, or each client has had `each` answers."""
        until = time.monotonic() + seconds
        count = len(self._headers)
        with ThreadPoolExecutor(count) as threads:
            for done in [threads.submit(self._one, number, until, each) for number in range(count)]:
                done.result()

    def _one(self, number: int, until: float, each: int) -> None:
        with httpx.Client(base_url=self._address, headers=self._headers[number], timeout=60) as client:
            for name in itertools.islice(itertools.cycle(QUESTIONS), number, number + each):
                if time.monotonic() > until:
                    return
                begun = time.perf_counter()
                try:
                    response = client.get(QUESTIONS[name])
                    if response.status_code != 200:
                        self.errors.append(f"{response.status_code} {name}: {response.text[:200]}")
                except httpx.HTTPError as error:
                    self.errors.append(f"{error!r} {name}")
                self.seconds[name].append(time.perf_counter() - begun)


def report(clients: Clients, seconds: float) -> Iterator[str]:
    """A line per question, and what failed."""
    yield f"{'':18}{'answers':>9}{'p50 s':>9}{'p95 s':>9}{'p99 s':>9}{'most s':>9}"
    everything = [one for some in clients.seconds.values() for one in some]
    for name, some in [*((name, clients.seconds[name]) for name in QUESTIONS), ("all", everything)]:
        cuts = statistics.quantiles(some, n=100, method="inclusive")
        yield f"{name:18}{len(some):9}{cuts[49]:9.2f}{cuts[94]:9.2f}{cuts[98]:9.2f}{max(some):9.2f}"
    yield f"{len(everything) / seconds:.0f} answers/s, {len(clients.errors)} errors"
    yield from (f"  {count} × {error}" for error, count in Counter(clients.errors).most_common(5))


def counted_requests(address: str) -> int:
    token = Tokens(SECRET).make(OPERATOR, days=1)
    answer = httpx.get(
        f"{address}/v1/usage?last=24h&interval=total&metric=requests", headers={"xi-api-key": token}, timeout=60
    )
    return int(answer.json()["series"][0]["total"])


def admins(count: int) -> list[Principal]:
    """Of the workspaces that the events are of, the busiest first."""
    busiest = Counter(one.workspace for one in calls(KINDS)).most_common()
    return [Principal("admin", workspace) for workspace, _ in itertools.islice(itertools.cycle(busiest), count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--operators", action="store_true")
    arguments = parser.parse_args()
    principals = [OPERATOR] * arguments.clients if arguments.operators else admins(arguments.clients)
    settings = {"AGGREGATOR_SECRET": SECRET}
    with tempfile.TemporaryDirectory() as directory, serving(Path(directory), settings=settings) as service:
        redis_client = redis.Redis.from_url(service.redis_url)
        apps = Apps(redis_client, arguments.events)
        address = service.page.rstrip("/")
        clients = Clients(address, principals, Tokens(SECRET))
        with alongside(apps.go_on):
            time.sleep(WARM_SECONDS)
            begun, before = time.monotonic(), apps.sent
            clients.ask(arguments.seconds)
            ended, after = time.monotonic(), apps.sent
        wait_until(lambda: not redis_client.xlen(keys.events(0)), "all is stored", 120)
        caught_up = time.monotonic() - ended
        counted = counted_requests(address)
    print("\n".join(report(clients, ended - begun)))
    asked = "all workspaces" if arguments.operators else "a workspace each"
    print(f"{arguments.clients} clients about {asked}; {(after - before) / (ended - begun):,.0f} events/s came in")
    print(f"waiting in the stream: at most {max(apps.waiting) * ENTRY_EVENTS:,}; all stored {caught_up:.1f} s later")
    print(f"sent {apps.sent:,}, counted {counted:,}: {'all' if counted == apps.sent else 'NOT ALL'}")


if __name__ == "__main__":
    main()
