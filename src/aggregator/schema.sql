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
