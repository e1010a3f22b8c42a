-- Spend per minute: absolute totals of one (source log, source partition, correction block) each; readers sum over them.
--
-- A later total replaces an earlier one of the same key: greatest ver, which is the last offset that was absorbed.
-- source_log names one life of the usage topic. It is part of the key, so a topic made anew, whose offsets begin at 0
-- again, adds rows beside the old ones and overwrites none.
-- A repair may write a row with ver = through_offset + 1: it outlives a repeated insert of the total it mends, and
-- yields to the next one.
--
-- ORDER BY: the hour first, as a range of time is a range of the index; then dimensions, few values first. The minute
--   within the hour, and not the plain column: with `minute` itself in the key, a filter on it is tried against that
--   late place instead of the first, and a day of a month reads the whole month.
-- PARTITION BY month: fixed by the key, as replacing needs it.
-- inserted_at is what retention counts from, as for calls.
CREATE TABLE IF NOT EXISTS {database}.rollups_1m {on_cluster}
(
    minute DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source_log LowCardinality(String),
    source_partition Int32 CODEC(T64, ZSTD(1)),
    correction_block Int64 CODEC(T64, ZSTD(1)),
    -- dimensions: empty where the event gave none, or the deployment does not group by it
    service LowCardinality(String),
    team LowCardinality(String),
    feature LowCardinality(String),
    customer String CODEC(ZSTD(1)),
    user String CODEC(ZSTD(1)),
    environment LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    service_tier LowCardinality(String),
    region LowCardinality(String),
    -- counts
    calls Int64 CODEC(T64, ZSTD(1)),
    failed_calls Int64 CODEC(T64, ZSTD(1)),
    retries Int64 CODEC(T64, ZSTD(1)),
    late_calls Int64 CODEC(T64, ZSTD(1)),
    unpriced_calls Int64 CODEC(T64, ZSTD(1)),
    unpriced_tokens Int64 CODEC(T64, ZSTD(1)),
    web_searches Int64 CODEC(T64, ZSTD(1)),
    gpu_us Int64 CODEC(T64, ZSTD(1)),
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
    -- money: USD, exact to 1e-12, of the priced calls; with unpriced_calls > 0 the true cost is higher
    cost_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_input_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_cache_read_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_cache_write_5m_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_cache_write_1h_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_cache_write_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_input_audio_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_cache_read_audio_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_input_image_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_output_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_reasoning_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_output_audio_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_output_image_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_web_search_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_request_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_gpu_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_without_cache_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_at_standard_tier_usd Decimal(38, 12) CODEC(ZSTD(1)),
    cost_with_requested_model_usd Decimal(38, 12) CODEC(ZSTD(1)),
    -- latency, in milliseconds, of the calls that reported one
    latency_ms_sum Int64 CODEC(T64, ZSTD(1)),
    latency_ms_max Int64 CODEC(T64, ZSTD(1)),
    latency_calls Int64 CODEC(T64, ZSTD(1)),
    -- audit
    first_event_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    last_event_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    first_offset Int64 CODEC(Delta, ZSTD(1)),
    through_offset Int64 CODEC(Delta, ZSTD(1)),
    ver UInt64 DEFAULT toUInt64(through_offset) CODEC(Delta, ZSTD(1)),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1)),
    INDEX minute_range minute TYPE minmax GRANULARITY 1 -- for toDate(minute) = ..., which the sort key can't answer
)
ENGINE = {replacing:rollups_1m:ver}
PARTITION BY toYYYYMM(minute)
ORDER BY
(
    toStartOfHour(minute), environment, service, team, feature, provider, model, service_tier, region, customer, user,
    toMinute(minute), source_log, source_partition, correction_block
);
