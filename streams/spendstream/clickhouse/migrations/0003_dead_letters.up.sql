-- Records that could not be metered, with the reason and the original bytes.
--
-- Identity: where the record stood. source_log names one life of the topic, whose offsets begin at 0 each time.
-- A row is written again with replayed_at once its record was published anew; that row stays, whatever is repeated.
CREATE TABLE IF NOT EXISTS {database}.dead_letters {on_cluster}
(
    topic LowCardinality(String),
    source_log LowCardinality(String),
    partition Int32,
    offset Int64 CODEC(Delta, ZSTD(1)),
    reason LowCardinality(String),
    field LowCardinality(String),
    message String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)), -- as far as it could be read: not always a UUID
    service String CODEC(ZSTD(1)),
    recorded_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    key Nullable(String) CODEC(ZSTD(1)), -- raw bytes
    original String CODEC(ZSTD(3)), -- raw bytes, up to a megabyte
    replayed_at Nullable(DateTime64(6, 'UTC')),
    ver UInt64 MATERIALIZED if(replayed_at IS NULL, 0, toUInt64(toUnixTimestamp64Micro(assumeNotNull(replayed_at)))),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1))
)
ENGINE = {replacing:dead_letters:ver}
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (toStartOfHour(recorded_at), topic, source_log, partition, offset);
