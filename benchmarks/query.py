"""How long the page's questions take, beside the same ones asked of the calls alone and of DuckDB.

    python -m benchmarks.query [--calls 1000000] [--rounds 7] [--directory DIR]

Sixty days of 200 workspaces, of which the largest has 28 % of all calls; the questions are its last 30 days, and some
are an operator's. The engine makes the calls itself, from numbers: the same ones every time. Ours is asked through the
HTTP API over rollups: "anew" by a service that has never been asked, "again" by one that keeps what its rollups say;
"calls" is our own SQL over the calls, without HTTP; DuckDB has the calls in a table sorted by workspace and time. Each
round asks all of them one after the other; the table shows medians. Trust the ratios.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import duckdb

from aggregator.answers import Answers
from aggregator.buckets import to_us
from aggregator.cover import Level, Span
from aggregator.formats import PARQUET
from aggregator.parameters import usage_query
from aggregator.plan import plan
from aggregator.query import Statement, UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.service import TestedService
from tests.conftest import RedisServer

BAR_MS = 50.0
CHUNK = 1_000_000  # calls made at once
DAYS = 60
START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=DAYS)
FROM = END - timedelta(days=30)

COLUMNS = ("workspace, started, kind, product, voice, model, api_key, user, groups, route, status, outcome, "
           "duration_us, ttfb_us, credits")  # fmt: skip

CALLS = """INSERT INTO events (id, version, kind, started, duration_us, ttfb_us, workspace, user, groups, api_key,
    api_key_hint, product, voice, model, region, source, method, route, path, status, outcome, error, request_bytes,
    response_bytes, credits, quantities, request_id, instance)
SELECT toFixedString(unhex(leftPad(hex(number), 32, '0')), 16), 1, if(h[1] % 50 = 0, 'webhook', 'request'),
    fromUnixTimestamp64Micro(toInt64({start:Int64} + number * {step:Int64}), 'UTC'),
    toInt64(exp(11 + 4 * u[1] * u[1]) + h[2] % 1000) AS duration, if(h[3] % 10 = 0, NULL, intDiv(duration, 3)),
    concat('w', toString(floor(200 * pow(u[2], 4.16)))) AS space,
    concat(space, '-u', toString(floor(300 * pow(u[3], 3)) AS someone)), [concat('g', toString(someone % 8))],
    concat(space, '-k', toString(floor(12 * u[4] * u[4]))), 'abcd',
    ['tts', 'stt', 'dubbing', 'music', 'sfx', 'agents'][1 + toUInt8(floor(6 * u[5] * u[5]))] AS what,
    if(what IN ('tts', 'dubbing'), concat('v', toString(floor(60 * u[6] * u[6]))), ''),
    ['m1', 'm2', 'm3'][1 + toUInt8(floor(3 * u[7] * u[7]))], ['eu', 'us', 'ap'][1 + h[4] % 3], '', 'POST',
    concat('/v1/', what, '/', toString(floor(3 * u[8] * u[8]))) AS place, concat(place, '/x'),
    if(h[5] % 20 > 2, 200, [404, 429, 500][1 + h[5] % 20]) AS code,
    multiIf(code < 400, 'ok', code < 500, 'client_error', 'server_error'), '', 200, 40000 + h[6] % 1000,
    toDecimal64(1 + h[7] % 900, 6), map('characters', toFloat64(1 + h[7] % 900)), toString(number), 'benchmark'
FROM (SELECT number, arrayMap(i -> cityHash64(number, i), range(8)) AS h,
    arrayMap(i -> cityHash64(i, number) / 18446744073709551616., range(8)) AS u
    FROM numbers({first:UInt64}, {count:UInt64}))"""


@dataclass(frozen=True)
class Question:
    """The API's parameters, and the same for DuckDB: its buckets, its key and what it computes."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    unit: str
    key: str
    values: str
    where: str = "workspace = 'w0'"
    offset: str = "0 minutes"

    @property
    def path(self) -> str:
        span = (("start", FROM.isoformat()), ("end", END.isoformat()))
        return f"/v1/usage?{urlencode((*span, *self.parameters))}"

    @property
    def duck(self) -> str:
        by = ", ".join(
            part for part in (f"date_trunc('{self.unit}', started + INTERVAL '{self.offset}')", self.key) if part
        )
        return (
            f"SELECT {by}, {self.values} FROM calls WHERE {self.where} AND kind = 'request' "
            f"AND started >= '{FROM:%Y-%m-%d}' AND started < '{END:%Y-%m-%d}' GROUP BY ALL"
        )


DUCK_PEAKS = f"""WITH steps AS (
    SELECT started AS moment, 1 AS step, workspace, kind FROM calls
    UNION ALL SELECT started + to_microseconds(duration_us), -1, workspace, kind FROM calls),
flight AS (SELECT moment, sum(step) OVER (ORDER BY moment, step) AS now FROM steps
    WHERE workspace = 'w0' AND kind = 'request' AND moment >= '{FROM:%Y-%m-%d}' AND moment < '{END:%Y-%m-%d}')
SELECT date_trunc('hour', moment), max(now) FROM flight GROUP BY 1"""
"""Without the calls that began before a bucket: to its advantage."""


class Concurrency(Question):
    @property
    def duck(self) -> str:
        return DUCK_PEAKS


def asked(*metrics: str, **parameters: str) -> tuple[tuple[str, str], ...]:
    return (*(("metric", name) for name in metrics), *parameters.items())


OURS = {"workspace": "w0"}
P95 = "approx_quantile(duration_us, 0.95)"
TILES = (
    f"count(*), count(*) FILTER (outcome = 'ok'), avg(duration_us), {P95}, avg(ttfb_us), "
    "approx_quantile(ttfb_us, 0.95), sum(credits)"
)
WHOLE = ("requests", "errors", "success_rate", "latency_avg", "latency_p95", "ttfb_avg", "ttfb_p95", "credits")
PATHS = (*WHOLE[:6], "credits")
CREDITS = "sum(credits)"


def credits_by(name: str, key: str) -> Question:
    return Question(f"credits by {name} per day", asked("credits", breakdown=name, **OURS), "day", key, CREDITS)


QUESTIONS: tuple[Question, ...] = (
    credits_by("voice", "voice"),
    credits_by("product", "product"),
    credits_by("api_key", "api_key"),
    credits_by("user", '"user"'),
    credits_by("group", "groups[1]"),
    Question(
        "credits by voice per day, Kolkata", asked("credits", breakdown="voice", tz="Asia/Kolkata", **OURS),
        "day", "voice", CREDITS, offset="330 minutes",
    ),
    Question("credits per hour", asked("credits", interval="hour", **OURS), "hour", "", CREDITS),
    Question(
        "credits by voice, one product", asked("credits", breakdown="voice", product="tts", **OURS),
        "day", "voice", CREDITS, "workspace = 'w0' AND product = 'tts'",
    ),
    Question(
        "credits by voice of one user", asked("credits", breakdown="voice", user="w0-u7", **OURS),
        "day", "voice", CREDITS, "workspace = 'w0' AND \"user\" = 'w0-u7'",
    ),
    Question("eight metrics per day (Analytics)", asked(*WHOLE, **OURS), "day", "", TILES),
    Question("seven metrics by path per day", asked(*PATHS, breakdown="route", **OURS), "day", "route", TILES),
    Question(
        "p95 by path per hour", asked("latency_p95", breakdown="route", interval="hour", **OURS), "hour", "route", P95,
    ),
    Question(
        "requests by outcome per day", asked("requests", breakdown="outcome", **OURS), "day", "outcome", "count(*)",
    ),
    Concurrency(
        "concurrency per hour", asked("concurrency", "concurrency_average", interval="hour", **OURS), "", "", "",
    ),
    Question(
        "all workspaces, credits by voice per day", asked("credits", breakdown="voice"),
        "day", "voice", CREDITS, "true",
    ),
)  # fmt: skip


class OnlyCalls:
    """What is known of rollups where there are none."""

    def dirty(self, level: Level) -> Sequence[Span]:
        return [Span(level.floor(0), to_us(datetime(2100, 1, 1, tzinfo=UTC)))]

    def versions(self, level: Level, spans: Iterable[Span]) -> Sequence[tuple[int, int]]:
        return []

    def format(self, level: Level, buckets: Iterable[int]) -> int:
        return 0

    def has_calls(self, span: Span) -> bool:
        return True

    def has_flights(self, span: Span) -> bool:
        return True


def count(store: Store, table: str) -> int:
    return int(store.select(Statement(f"SELECT count() FROM {table}", {}))[0][0])


def fill(store: Store, calls: int) -> None:
    """What a directory already holds is not made again: calls are numbered, in chunks."""
    for first in range(count(store, "events") // CHUNK * CHUNK, calls, CHUNK):
        numbers = {"first": first, "count": min(CHUNK, calls - first)}
        times = {"start": to_us(START), "step": (to_us(END) - to_us(START)) // calls}
        store.execute(Statement(CALLS, {**numbers, **times}), {})


def settle(store: Store) -> None:
    """Merge what is complete into one part, as the engine does by itself an hour later."""
    places = "SELECT DISTINCT table, partition_id FROM system.parts WHERE database = currentDatabase() AND active"
    for table, partition in store.select(Statement(f"{places} ORDER BY ALL", {})):
        merge = Statement(f"OPTIMIZE TABLE {table} PARTITION ID '{partition}'", {})
        store.execute(merge, {"optimize_skip_merged_partitions": 1})


def duck_of(store: Store, directory: Path) -> duckdb.DuckDBPyConnection:
    """The calls as DuckDB likes them best; a file that another run has finished is opened as it is."""
    filled, file = directory / "calls.duckdb", directory / "calls.parquet"
    if filled.exists():
        return opened(filled)
    selected = COLUMNS.replace("started,", "toDateTime64(started, 6) AS started,")
    with file.open("wb") as out:
        for piece in store.stream([Statement(f"SELECT {selected} FROM events FINAL", {})], PARQUET):
            out.write(piece)
    filling = directory / "filling.duckdb"
    filling.unlink(missing_ok=True)
    duck = opened(filling)
    columns = COLUMNS.replace("started,", "started::TIMESTAMP AS started,").replace("user,", '"user",')
    duck.execute(f"CREATE TABLE calls AS SELECT {columns} FROM read_parquet('{file}') ORDER BY workspace, started")
    duck.close()
    file.unlink()
    filling.rename(filled)
    return opened(filled)


def opened(file: Path) -> duckdb.DuckDBPyConnection:
    duck = duckdb.connect(str(file))
    duck.execute("SET TimeZone = 'UTC'")
    return duck


def of_calls(store: Store, question: Question) -> None:
    items = [("start", FROM.isoformat()), ("end", END.isoformat()), *question.parameters]
    planned = plan(usage_query(items, OPERATOR, to_us(END)), OnlyCalls())
    Answers(store, lambda _: None).of(planned, 0)


def milliseconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1000


class Anew(Reader):
    """Keeps nothing from one question to the next."""

    def usage(self, query: UsageQuery) -> UsageAnswer:
        self._answers = Answers(self._store, self._check_kept)
        return super().usage(query)


def measured(
    service: TestedService, anew: TestedService, duck: duckdb.DuckDBPyConnection, question: Question, rounds: int
) -> list[float]:
    def ask(one: TestedService) -> None:
        response = one.http.get(question.path)
        assert response.status_code == 200, response.text

    ask(service)
    ways = (
        lambda: ask(anew),
        lambda: ask(service),
        lambda: of_calls(service.store, question),
        lambda: duck.execute(question.duck).fetchall(),
    )
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, times, strict=True):
            found.append(milliseconds(way))
    return [statistics.median(found) for found in times]


def report(store: Store, server: RedisServer, directory: Path, calls: int, rounds: int) -> None:
    began = time.perf_counter()
    fill(store, calls)
    print(f"{calls:,} calls made in {time.perf_counter() - began:.0f} s", flush=True)
    service = TestedService(store, server.client(), secret="")
    began = time.perf_counter()
    service.roll_up()
    seconds = time.perf_counter() - began
    print(f"rollups computed in {seconds:.0f} s: {calls / seconds:,.0f} calls/s", flush=True)
    began = time.perf_counter()
    settle(store)
    print(f"parts merged in {time.perf_counter() - began:.0f} s", flush=True)
    for level in ("usage_15m", "usage_1h", "usage_1d", "usage_1mo", "peaks_15m"):
        rows = count(store, level)
        print(f"  {level}: {rows:,} rows, {rows / calls:.1%} of the calls")
    duck = duck_of(store, directory)
    print(f"\n| question (p50 of {rounds}, ms) | anew | again | calls | DuckDB | DuckDB ÷ anew, again | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    unkept = Anew(store, service.backlog.complete_until_us, freshness=service.freshness)
    anew = TestedService(store, server.client(), secret="", reader=unkept)
    with service.http, anew.http:
        for question in QUESTIONS:
            first, again, raw, duck_ms = measured(service, anew, duck, question, rounds)
            bar = "" if first <= BAR_MS and first <= duck_ms else "anew misses the bar"
            ratios = f"{duck_ms / first:.1f}, {duck_ms / again:.1f}"
            print(
                f"| {question.name} | {first:.0f} | {again:.0f} | {raw:.0f} | {duck_ms:.0f} | {ratios} | {bar} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=None, help="keep the stores here, and ask them again")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="usage-meter-"))
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        server = RedisServer(Path(scratch))
        server.start()
        try:
            with Store(f"chdb://{directory}/store") as store:
                report(store, server, directory, options.calls, options.rounds)
        finally:
            server.kill()
            if options.directory is None:
                shutil.rmtree(directory)


if __name__ == "__main__":
    main()
