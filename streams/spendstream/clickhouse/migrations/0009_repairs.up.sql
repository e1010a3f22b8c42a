-- What repairs of rollups replaced: the meter's totals as they were, and what was written over them.
--
-- Kept as JSON: a repair must be understood, and undone, whatever columns rollups_1m gets later. ver is only for the engine:
-- no two rows have the same key.
CREATE TABLE IF NOT EXISTS {database}.repairs {on_cluster}
(
    repaired_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    minute DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source_log LowCardinality(String),
    source_partition Int32,
    correction_block Int64,
    dimensions String CODEC(ZSTD(1)),
    total_before String CODEC(ZSTD(1)),
    total_after String CODEC(ZSTD(1)),
    ver UInt64 DEFAULT 0
)
ENGINE = {replacing:repairs:ver}
PARTITION BY toYYYYMM(repaired_at)
ORDER BY (repaired_at, minute, source_log, source_partition, correction_block, dimensions);
