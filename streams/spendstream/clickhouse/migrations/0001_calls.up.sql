-- The ledger: one row a priced call. Identity: event_id.
--
-- A row may be written any number of times; the one priced last stays (greatest ver, else the last inserted). That
-- holds only among rows with one sort key, in one partition, on one shard, so partition and sort key are made of what
-- the event alone fixes: never of Kafka offsets, nor of the time of pricing.
--
-- PARTITION BY month of occurred_at: fixed by the event, prunes reports by time, and a history of years makes dozens
--   of partitions, not thousands. Retention does not need it (see below).
-- ORDER BY: the hour first, so that any range of time is a range of the index; then what reports group by, so that
--   equal values lie together and compress; event_id last makes it the identity.
-- Codecs: Delta turns times into small steps. T64 drops the high bits that small counts do not use. ZSTD(1) packs
--   amounts of 16 bytes that are mostly zero, and ids, 2 to 3 times smaller than LZ4 does, at little cost.
-- customer and user are plain text: a dictionary of many thousand values is slower than none.
-- inserted_at is what retention counts from: history imported today has its full time to live from today.
CREATE TABLE IF NOT EXISTS {database}.calls {on_cluster}
(
    -- identity
    event_id UUID,
    occurred_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    requested_at Nullable(DateTime64(6, 'UTC')) CODEC(Delta, ZSTD(1)),
    provider_response_id String CODEC(ZSTD(1)),
    attempt Int32 CODEC(T64, ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    conversation_id String CODEC(ZSTD(1)),
    task_id String CODEC(ZSTD(1)),
    -- call
    operation LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    model_requested LowCardinality(String),
    model_served LowCardinality(String),
    region LowCardinality(String),
    service_tier LowCardinality(String),
    status LowCardinality(String),
    latency_ms Nullable(Int64) CODEC(T64, ZSTD(1)),
    usage_quality LowCardinality(String),
    -- tokens: disjoint, they sum to the call's total
    input_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_read_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_write_5m_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_write_1h_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_write_tokens Int64 CODEC(T64, ZSTD(1)),
    input_audio_tokens Int64 CODEC(T64, ZSTD(1)),
    cache_read_audio_tokens Int64 CODEC(T64, ZSTD(1)),
    input_image_tokens Int64 CODEC(T64, ZSTD(1)),
    output_tokens Int64 CODEC(T64, ZSTD(1)),
    reasoning_tokens Int64 CODEC(T64, ZSTD(1)),
    output_audio_tokens Int64 CODEC(T64, ZSTD(1)),
    output_image_tokens Int64 CODEC(T64, ZSTD(1)),
    web_searches Int64 CODEC(T64, ZSTD(1)),
    prompt_system_tokens Int64 CODEC(T64, ZSTD(1)),
    prompt_history_tokens Int64 CODEC(T64, ZSTD(1)),
    prompt_retrieval_tokens Int64 CODEC(T64, ZSTD(1)),
    prompt_tools_tokens Int64 CODEC(T64, ZSTD(1)),
    prompt_logging_tokens Int64 CODEC(T64, ZSTD(1)),
    gpu_us Int64 CODEC(T64, ZSTD(1)),
    -- attribution
    service LowCardinality(String),
    team LowCardinality(String),
    feature LowCardinality(String),
    customer String CODEC(ZSTD(1)),
    user String CODEC(ZSTD(1)),
    environment LowCardinality(String),
    deployment LowCardinality(String),
    tags String CODEC(ZSTD(1)),
    -- money: USD, exact to 1e-12; NULL where no rate is known, never a silent 0
    cost_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_input_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_cache_read_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_cache_write_5m_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_cache_write_1h_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_cache_write_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_input_audio_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_cache_read_audio_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_input_image_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_output_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_reasoning_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_output_audio_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_output_image_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_web_search_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_request_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_gpu_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_without_cache_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_at_standard_tier_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    cost_with_requested_model_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    unpriced_reason LowCardinality(String),
    rate_card_id LowCardinality(String),
    rate_source LowCardinality(String),
    provider_cost Nullable(Decimal(38, 12)) CODEC(ZSTD(1)),
    currency LowCardinality(String),
    -- audit
    lateness LowCardinality(String),
    recorded_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    priced_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    source_log LowCardinality(String),
    source_partition Int32 CODEC(T64, ZSTD(1)),
    source_offset Int64 CODEC(T64, ZSTD(1)),
    ver UInt64 MATERIALIZED toUInt64(toUnixTimestamp64Micro(priced_at)) CODEC(Delta, ZSTD(1)),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1)),
    INDEX occurred_at_range occurred_at TYPE minmax GRANULARITY 1 -- for toDate(occurred_at) = ..., which the sort key can't answer
)
ENGINE = {replacing:calls:ver}
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (toStartOfHour(occurred_at), team, feature, model, event_id);
