-- Alerts: one row a transition of an alert, with all that was said of it.
--
-- Identity: alert_id and seq. A transition that is written again is the same row, and replaces itself.
-- started_at is part of an alert's identity (its id is made of it), so partition and sort key are fixed by the alert.
--
-- ORDER BY: the hour first, as reports ask for a range of time; then the watch; an alert's transitions lie together.
-- factor_* and words: why the spend changed. The changes sum to attributed_observed_usd - attributed_expected_usd,
--   exactly; all are USD a minute.
-- limit_value is the bound that was crossed. observed, expected and limit_value are in `unit`.
-- inserted_at is what retention counts from, as for calls.
CREATE TABLE IF NOT EXISTS {database}.alerts {on_cluster}
(
    -- identity
    alert_id UUID,
    transition_id UUID,
    seq UInt32,
    transition LowCardinality(String),
    state LowCardinality(String),
    watch LowCardinality(String),
    rule LowCardinality(String),
    facet LowCardinality(String),
    severity LowCardinality(String),
    group Map(LowCardinality(String), String),
    -- when
    started_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    ends_at Nullable(DateTime64(6, 'UTC')),
    -- what
    title String CODEC(ZSTD(1)),
    measure LowCardinality(String),
    unit LowCardinality(String),
    observed Float64,
    expected Nullable(Float64),
    limit_value Nullable(Float64),
    score Nullable(Float64),
    -- why: USD a minute
    reason String CODEC(ZSTD(1)),
    attributed_observed_usd Nullable(Decimal(38, 12)),
    attributed_expected_usd Nullable(Decimal(38, 12)),
    factor_changes_usd Map(LowCardinality(String), Decimal(38, 12)),
    factor_words Map(LowCardinality(String), String),
    facts Array(String),
    -- who: USD a minute
    contributors Array(Tuple(
        dimension String,
        value String,
        change_usd Decimal(38, 12),
        observed_usd Decimal(38, 12),
        share Float64)),
    -- what it comes to
    excess_by_end_of_hour_usd Nullable(Decimal(38, 12)),
    excess_by_end_of_month_usd Nullable(Decimal(38, 12)),
    budget_period_start Nullable(DateTime64(6, 'UTC')),
    budget_period_end Nullable(DateTime64(6, 'UTC')),
    budget_amount_usd Nullable(Decimal(38, 12)),
    budget_spent_usd Nullable(Decimal(38, 12)),
    budget_forecast_usd Nullable(Decimal(38, 12)),
    budget_burn_rate Nullable(Float64),
    budget_burn_rate_short Nullable(Float64),
    -- who is told
    notify Bool,
    notified_at Nullable(DateTime64(6, 'UTC')),
    notifiers Array(LowCardinality(String)),
    silenced_by String,
    runbook String,
    ver UInt64 MATERIALIZED toUInt64(toUnixTimestamp64Micro(at)) CODEC(Delta, ZSTD(1)),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1))
)
ENGINE = {replacing:alerts:ver}
PARTITION BY toYYYYMM(started_at)
ORDER BY (toStartOfHour(started_at), watch, alert_id, seq);

-- Every transition, once.
CREATE VIEW IF NOT EXISTS {database}.alerts_v {on_cluster} AS
SELECT
    alert_id, transition_id, seq, transition, state, watch, rule, facet, severity, group, started_at, at, ends_at,
    title, measure, unit, observed, expected, limit_value, score, reason, attributed_observed_usd,
    attributed_expected_usd, factor_changes_usd, factor_words, facts, contributors, excess_by_end_of_hour_usd,
    excess_by_end_of_month_usd, budget_period_start, budget_period_end, budget_amount_usd, budget_spent_usd,
    budget_forecast_usd, budget_burn_rate, budget_burn_rate_short, notify, notified_at, notifiers, silenced_by, runbook,
    inserted_at
FROM {database}.alerts FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Every alert as it stands: its last transition.
CREATE VIEW IF NOT EXISTS {database}.alerts_current {on_cluster} AS
SELECT *
FROM {database}.alerts_v
ORDER BY seq DESC
LIMIT 1 BY alert_id;
