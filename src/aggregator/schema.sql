-- The store's tables, in numbered sections that are applied in order when a store is opened (see schema.py).
-- A section never changes once it is released: what comes later is a section of its own. Statements are separated by a
-- line that holds only a semicolon, and each may be run again (IF NOT EXISTS): a crash may have left a section half done.

-- version 1: events, and what people set
-- events: every call, once. A redelivered, re-imported or corrected event has the same key (workspace, started, id)
-- and is collapsed to its highest version, at the latest by FINAL when it is read.
--   ORDER BY: every question names a workspace and a range of time, so both lead; the id makes the key unique.
--     An hour in front of the workspace would serve "all workspaces" and make one workspace's log five times slower.
--   PARTITION BY day: a day that is no longer written to merges into one part, which FINAL reads as it is; retention
--     drops whole partitions. All versions of an event have the same start, so they meet in one partition.
--   id is the UUID's bytes and not UUID, whose order in ClickHouse is not that of its bytes.
--   inserted is when the row came, not when the call was: what changed since a rollup is derived from it.
CREATE TABLE IF NOT EXISTS events (
    id              FixedString(16),
    version         UInt32,
    kind            LowCardinality(String),
    started         DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    duration_us     Int64 CODEC(ZSTD(1)),
    ttfb_us         Nullable(Int64) CODEC(ZSTD(1)),
    workspace       LowCardinality(String),
    user            String CODEC(ZSTD(1)),
    groups          Array(LowCardinality(String)),
    api_key         String CODEC(ZSTD(1)),
    api_key_hint    LowCardinality(String),
    product         LowCardinality(String),
    voice           LowCardinality(String),
    model           LowCardinality(String),
    region          LowCardinality(String),
    source          LowCardinality(String),
    method          LowCardinality(String),
    route           LowCardinality(String),
    path            String CODEC(ZSTD(1)),
    status          UInt16,
    outcome         LowCardinality(String),
    error           LowCardinality(String),
    request_bytes   Int64 CODEC(ZSTD(1)),
    response_bytes  Int64 CODEC(ZSTD(1)),
    credits         Decimal(18, 6) CODEC(ZSTD(1)),
    quantities      Map(LowCardinality(String), Float64),
    attributes      Map(LowCardinality(String), String),
    request_id      String CODEC(ZSTD(1)),
    trace_id        String CODEC(ZSTD(1)),
    instance        LowCardinality(String),
    inserted        DateTime64(6, 'UTC') DEFAULT now64(6) CODEC(Delta, ZSTD(1)),
    INDEX by_id id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_request_id request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_end (toUnixTimestamp64Micro(started) + duration_us) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(started)
ORDER BY (workspace, started, id)
;
-- labels: the display name of a dimension's value, per workspace. The newest row counts; an empty label is none.
CREATE TABLE IF NOT EXISTS labels (
    workspace  String,
    dimension  LowCardinality(String),
    value      String,
    label      String,
    written_us UInt64
)
ENGINE = ReplacingMergeTree(written_us)
ORDER BY (workspace, dimension, value)
;
-- limits: monthly credits and concurrency of a workspace, a user or an API key. The newest row counts; null is none.
CREATE TABLE IF NOT EXISTS limits (
    workspace       String,
    subject         LowCardinality(String),
    value           String,
    monthly_credits Nullable(Decimal(18, 6)),
    concurrency     Nullable(UInt32),
    written_us      UInt64
)
ENGINE = ReplacingMergeTree(written_us)
ORDER BY (workspace, subject, value)
;
-- audit: who exported or changed what, in the order of time.
CREATE TABLE IF NOT EXISTS audit (
    at        DateTime64(6, 'UTC'),
    workspace String,
    user      String,
    role      LowCardinality(String),
    action    LowCardinality(String),
    detail    String
)
ENGINE = MergeTree
ORDER BY (workspace, at)
;
-- revoked: tokens that are refused before they expire, by their id.
CREATE TABLE IF NOT EXISTS revoked (
    token_id String,
    at       DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY token_id

-- version 2: rollups
-- What came when: for each quarter of an hour in which calls began, and the one in which they ended, the newest insert
-- and how many rows there are. It is a part of every part of events, so nothing that is stored can be missing from it;
-- what rollups have yet to take in is derived from it (freshness.py). Some hundred rows a day.
ALTER TABLE events MODIFY SETTING deduplicate_merge_projection_mode = 'rebuild'
;
ALTER TABLE events ADD PROJECTION IF NOT EXISTS arrivals (
    SELECT
        toStartOfFifteenMinutes(started) AS bucket,
        intDiv(toUnixTimestamp64Micro(started) + duration_us, 900000000) AS until,
        max(inserted),
        count()
    GROUP BY bucket, until
)
;
ALTER TABLE events MATERIALIZE PROJECTION arrivals
;
-- usage_15m, usage_1h, usage_1d, usage_1mo: calls added up by UTC quarters of an hour, hours, days and months.
--   A row belongs to the version under which its bucket was computed; it counts once that is published.
--   cube: which dimensions are kept together; those that a cube lacks are empty (cubes.py). Estimated from a million calls
--     as dense as 50 million in 60 days of 200 workspaces, rows as a share of the calls that they stand for, by quarters of an hour, in the
--     largest workspace (in all of them): path 4 % (33 %), key 4 % (44 %), voice 18 % (56 %), user 14 % (57 %).
--     All dimensions together would be 97 % (99 %) of the calls. What is sparse is kept to be exact after its calls expire.
--     So: several narrow cubes. Region, source, attributes and what crosses two cubes are answered from the calls.
--   ORDER BY: a question names a cube and, as a rule, a workspace and a range.
--   durations, ttfbs: calls by bins of a logarithmic scale, any quantile of which is within 1 % (measures.py).
CREATE TABLE IF NOT EXISTS usage_15m (
    cube           LowCardinality(String),
    workspace      LowCardinality(String),
    bucket         DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    version        UInt64 CODEC(Delta, ZSTD(1)),
    kind           LowCardinality(String),
    product        LowCardinality(String),
    voice          LowCardinality(String),
    model          LowCardinality(String),
    api_key        String CODEC(ZSTD(1)),
    user           String CODEC(ZSTD(1)),
    groups         Array(LowCardinality(String)),
    method         LowCardinality(String),
    route          LowCardinality(String),
    status         UInt16,
    outcome        LowCardinality(String),
    calls          UInt64 CODEC(T64, ZSTD(1)),
    ok             UInt64 CODEC(T64, ZSTD(1)),
    credits        Decimal(38, 6) CODEC(ZSTD(1)),
    duration_us    Int64 CODEC(ZSTD(1)),
    ttfb_us        Int64 CODEC(ZSTD(1)),
    ttfb_calls     UInt64 CODEC(T64, ZSTD(1)),
    request_bytes  Int64 CODEC(ZSTD(1)),
    response_bytes Int64 CODEC(ZSTD(1)),
    quantities     Map(LowCardinality(String), Float64),
    durations      AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8) CODEC(ZSTD(1)),
    ttfbs          AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8) CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (cube, workspace, bucket, kind)
;
CREATE TABLE IF NOT EXISTS usage_1h AS usage_15m
;
CREATE TABLE IF NOT EXISTS usage_1d AS usage_15m
ENGINE = MergeTree
PARTITION BY toYear(bucket)
ORDER BY (cube, workspace, bucket, kind)
;
CREATE TABLE IF NOT EXISTS usage_1mo AS usage_1d
;
-- peaks_15m: how many calls were in flight at once at most, and for how long together, in each quarter of an hour: of
-- all workspaces (dimension `all`), of each (`workspace`), and of each of its API keys, users, products and voices.
-- A longer time's peak is the greatest of its quarters'; peaks of two users say nothing about both together, so other
-- questions are answered from the calls.
CREATE TABLE IF NOT EXISTS peaks_15m (
    dimension LowCardinality(String),
    workspace LowCardinality(String),
    value     String CODEC(ZSTD(1)),
    bucket    DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    version   UInt64 CODEC(Delta, ZSTD(1)),
    kind      LowCardinality(String),
    peak      UInt32 CODEC(T64, ZSTD(1)),
    busy_us   Int64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (dimension, workspace, bucket, kind)
;
-- published: which version of a bucket counts: the highest. `computed` is up to when calls that were inserted are in it.
CREATE TABLE IF NOT EXISTS published (
    level    LowCardinality(String),
    bucket   DateTime('UTC'),
    version  UInt64,
    computed DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (level, bucket)

-- version 3: calls for sealed days
-- unsealed: calls that came late for a sealed day and were let in by hand, until they are added to its rollups
--   (unsealing.py). Columns as those of events: a section that gives events a column gives it to this table too.
CREATE TABLE IF NOT EXISTS unsealed (
    id              FixedString(16),
    version         UInt32,
    kind            LowCardinality(String),
    started         DateTime64(6, 'UTC'),
    duration_us     Int64,
    ttfb_us         Nullable(Int64),
    workspace       LowCardinality(String),
    user            String,
    groups          Array(LowCardinality(String)),
    api_key         String,
    api_key_hint    LowCardinality(String),
    product         LowCardinality(String),
    voice           LowCardinality(String),
    model           LowCardinality(String),
    region          LowCardinality(String),
    source          LowCardinality(String),
    method          LowCardinality(String),
    route           LowCardinality(String),
    path            String,
    status          UInt16,
    outcome         LowCardinality(String),
    error           LowCardinality(String),
    request_bytes   Int64,
    response_bytes  Int64,
    credits         Decimal(18, 6),
    quantities      Map(LowCardinality(String), Float64),
    attributes      Map(LowCardinality(String), String),
    request_id      String,
    trace_id        String,
    instance        LowCardinality(String)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (workspace, started, id)
;
-- added: the keys of such calls, each with the version of its quarter of an hour with which it was added; the call
-- counts once that version is published. Version 0: the day had the call already. Kept for ever, so that no call is
-- added twice.
CREATE TABLE IF NOT EXISTS added (
    workspace  LowCardinality(String),
    started    DateTime64(6, 'UTC'),
    id         FixedString(16),
    version    UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY (workspace, started, id, version)

-- version 4: sketches as plain numbers
-- duration_bins, ttfb_bins: calls by bins of a logarithmic scale, any quantile of which is within 1 % (measures.py), as
--   bin * 2^32 + calls, rising. They take the place of durations and ttfbs, the engine's own states of the same, which
--   cost more than twice as much to merge, and more to write, where a row stands for a call or two. Such a state is the number
--   of its cells, in one byte or two, and ten bytes for each: a bin and its calls. A store that was left after the old
--   columns were dropped gets them again, empty, and loses them again.
ALTER TABLE usage_15m
    ADD COLUMN IF NOT EXISTS duration_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS ttfb_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS durations AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8),
    ADD COLUMN IF NOT EXISTS ttfbs AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8)
;
ALTER TABLE usage_15m UPDATE duration_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(durations))])[1],
ttfb_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(ttfbs))])[1]
WHERE empty(duration_bins) SETTINGS mutations_sync = 2
;
ALTER TABLE usage_15m DROP COLUMN IF EXISTS durations, DROP COLUMN IF EXISTS ttfbs
;
ALTER TABLE usage_1h
    ADD COLUMN IF NOT EXISTS duration_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS ttfb_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS durations AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8),
    ADD COLUMN IF NOT EXISTS ttfbs AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8)
;
ALTER TABLE usage_1h UPDATE duration_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(durations))])[1],
ttfb_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(ttfbs))])[1]
WHERE empty(duration_bins) SETTINGS mutations_sync = 2
;
ALTER TABLE usage_1h DROP COLUMN IF EXISTS durations, DROP COLUMN IF EXISTS ttfbs
;
ALTER TABLE usage_1d
    ADD COLUMN IF NOT EXISTS duration_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS ttfb_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS durations AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8),
    ADD COLUMN IF NOT EXISTS ttfbs AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8)
;
ALTER TABLE usage_1d UPDATE duration_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(durations))])[1],
ttfb_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(ttfbs))])[1]
WHERE empty(duration_bins) SETTINGS mutations_sync = 2
;
ALTER TABLE usage_1d DROP COLUMN IF EXISTS durations, DROP COLUMN IF EXISTS ttfbs
;
ALTER TABLE usage_1mo
    ADD COLUMN IF NOT EXISTS duration_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS ttfb_bins Array(Int64) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS durations AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8),
    ADD COLUMN IF NOT EXISTS ttfbs AggregateFunction(quantilesExactWeighted(0.5, 0.95, 0.99), Int16, UInt8)
;
ALTER TABLE usage_1mo UPDATE duration_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(durations))])[1],
ttfb_bins = arrayMap(
    cells -> arraySort(arrayMap(
        i -> bitShiftLeft(toInt64(reinterpretAsInt16(substring(cells, i, 2))), 32)
            + reinterpretAsInt64(substring(cells, i + 2, 8)),
        range(toUInt32(if(length(cells) % 10 = 1, 2, 3)), toUInt32(length(cells)), 10))),
    [unhex(hex(ttfbs))])[1]
WHERE empty(duration_bins) SETTINGS mutations_sync = 2
;
ALTER TABLE usage_1mo DROP COLUMN IF EXISTS durations, DROP COLUMN IF EXISTS ttfbs

-- version 5: what retention removed
-- removed: for a table, the moment before which its rows may have been removed by a rule that another one replaced; the
--   latest counts. The rule in force is the table's own. Days before it stay sealed for ever (retention.py).
CREATE TABLE IF NOT EXISTS removed (
    name   LowCardinality(String),
    before DateTime('UTC')
)
ENGINE = MergeTree
ORDER BY name

-- version 6: what is complete lies in one part
-- Each part that a question reads costs it some milliseconds, whatever its size. A partition to which nothing came for
--   an hour is therefore merged into one part, where the engine's own choice would leave several for ever: a day of
--   events (which FINAL then reads as it is), a month of quarters of an hour and of hours, the year of days once a day.
ALTER TABLE events MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
;
ALTER TABLE usage_15m MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
;
ALTER TABLE usage_1h MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
;
ALTER TABLE usage_1d MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
;
ALTER TABLE usage_1mo MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
;
ALTER TABLE peaks_15m MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1

-- version 7: users and API keys with a dictionary
-- As of everything else that a call is told apart by: a question about one user or one key then compares a number in
--   each row instead of a text, in half the time, and a part is not larger. Of a million users in a day the engine keeps
--   many dictionaries: a call takes a tenth more space then, and such a question two fifths longer.
--   The engine rewrites the columns of what is stored in the background, and reads the old ones until then.
ALTER TABLE events
    MODIFY COLUMN user LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN api_key LowCardinality(String) CODEC(ZSTD(1))
SETTINGS alter_sync = 0
;
ALTER TABLE unsealed MODIFY COLUMN user LowCardinality(String), MODIFY COLUMN api_key LowCardinality(String)

-- version 8: a cube of whole workspaces, and cheaper credits
-- usage_15m and the others have a cube `workspace`, of no other dimension: most charts are of all calls of a workspace, and
--   the cube that answered them until now has dozens of rows where this one has one.
--   published.format says what the rows of a version are like: 1 with that cube. 0 is a version of an older release, which is
--   answered by the cube `path` as before: nothing has to be computed again, and both releases may run at once.
ALTER TABLE published ADD COLUMN IF NOT EXISTS format UInt8 DEFAULT 0
;
-- What most questions read of a call. By their greatest common divisor and the bits that they need they take a third less
--   space, and a question that reads a user's calls a quarter less time. What is stored stays as it is until it is merged.
ALTER TABLE events MODIFY COLUMN credits Decimal(18, 6) CODEC(GCD, T64, LZ4)
