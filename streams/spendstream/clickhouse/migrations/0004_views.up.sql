-- What BI tools read. Always deduplicated (FINAL): a row that was written twice counts once.
--
-- No partition holds two rows of one key, so FINAL may take them one by one, in parallel (the setting).
-- cost_usd is NULL, not 0, where every call of a row is unpriced; with some unpriced it is the cost of the others, and
-- unpriced_calls and unpriced_tokens say what is missing.
-- Hours and days are UTC. A filter on the time column becomes a range of the index, through the view.
CREATE VIEW IF NOT EXISTS {database}.calls_v {on_cluster} AS
SELECT
    event_id, occurred_at, requested_at, provider_response_id, attempt, trace_id, span_id, conversation_id,
    task_id, operation, provider, model, model_requested, model_served, region, service_tier, status,
    latency_ms, usage_quality, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    cache_write_tokens, input_audio_tokens, cache_read_audio_tokens, input_image_tokens, output_tokens,
    reasoning_tokens, output_audio_tokens, output_image_tokens, web_searches, prompt_system_tokens,
    prompt_history_tokens, prompt_retrieval_tokens, prompt_tools_tokens, prompt_logging_tokens, gpu_us,
    service, team, feature, customer, user, environment, deployment, tags, cost_usd, cost_input_usd,
    cost_cache_read_usd, cost_cache_write_5m_usd, cost_cache_write_1h_usd, cost_cache_write_usd,
    cost_input_audio_usd, cost_cache_read_audio_usd, cost_input_image_usd, cost_output_usd,
    cost_reasoning_usd, cost_output_audio_usd, cost_output_image_usd, cost_web_search_usd, cost_request_usd,
    cost_gpu_usd, cost_without_cache_usd, cost_at_standard_tier_usd, cost_with_requested_model_usd,
    unpriced_reason, rate_card_id, rate_source, provider_cost, currency, lateness, recorded_at, priced_at,
    source_log, source_partition, source_offset,
    inserted_at,
    input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens + cache_write_tokens +
    input_audio_tokens + cache_read_audio_tokens + input_image_tokens + output_tokens + reasoning_tokens +
    output_audio_tokens + output_image_tokens AS total_tokens,
    cost_without_cache_usd - cost_usd AS savings_cache_usd,
    cost_at_standard_tier_usd - cost_usd AS savings_tier_usd,
    cost_with_requested_model_usd - cost_usd AS savings_model_usd
FROM {database}.calls FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.spend_1m {on_cluster} AS
SELECT
    r.minute AS minute,
    service, team, feature, customer, user, environment, provider, model, service_tier, region,
    sum(r.calls) AS calls,
    sum(r.failed_calls) AS failed_calls,
    sum(r.retries) AS retries,
    sum(r.late_calls) AS late_calls,
    sum(r.unpriced_calls) AS unpriced_calls,
    sum(r.unpriced_tokens) AS unpriced_tokens,
    sum(r.web_searches) AS web_searches,
    sum(r.gpu_us) AS gpu_us,
    sum(r.input_tokens) AS input_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_5m_tokens) AS cache_write_5m_tokens,
    sum(r.cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.input_audio_tokens) AS input_audio_tokens,
    sum(r.cache_read_audio_tokens) AS cache_read_audio_tokens,
    sum(r.input_image_tokens) AS input_image_tokens,
    sum(r.output_tokens) AS output_tokens,
    sum(r.reasoning_tokens) AS reasoning_tokens,
    sum(r.output_audio_tokens) AS output_audio_tokens,
    sum(r.output_image_tokens) AS output_image_tokens,
    sum(r.input_tokens) + sum(r.cache_read_tokens) + sum(r.cache_write_5m_tokens) + sum(r.cache_write_1h_tokens)
        + sum(r.cache_write_tokens) + sum(r.input_audio_tokens) + sum(r.cache_read_audio_tokens) + sum(r.input_image_tokens)
        + sum(r.output_tokens) + sum(r.reasoning_tokens) + sum(r.output_audio_tokens) + sum(r.output_image_tokens) AS total_tokens,
    if(sum(r.calls) > sum(r.unpriced_calls), sum(r.cost_usd), NULL) AS cost_usd,
    sum(r.cost_input_usd) AS cost_input_usd,
    sum(r.cost_cache_read_usd) AS cost_cache_read_usd,
    sum(r.cost_cache_write_5m_usd) AS cost_cache_write_5m_usd,
    sum(r.cost_cache_write_1h_usd) AS cost_cache_write_1h_usd,
    sum(r.cost_cache_write_usd) AS cost_cache_write_usd,
    sum(r.cost_input_audio_usd) AS cost_input_audio_usd,
    sum(r.cost_cache_read_audio_usd) AS cost_cache_read_audio_usd,
    sum(r.cost_input_image_usd) AS cost_input_image_usd,
    sum(r.cost_output_usd) AS cost_output_usd,
    sum(r.cost_reasoning_usd) AS cost_reasoning_usd,
    sum(r.cost_output_audio_usd) AS cost_output_audio_usd,
    sum(r.cost_output_image_usd) AS cost_output_image_usd,
    sum(r.cost_web_search_usd) AS cost_web_search_usd,
    sum(r.cost_request_usd) AS cost_request_usd,
    sum(r.cost_gpu_usd) AS cost_gpu_usd,
    sum(r.cost_without_cache_usd) AS cost_without_cache_usd,
    sum(r.cost_at_standard_tier_usd) AS cost_at_standard_tier_usd,
    sum(r.cost_with_requested_model_usd) AS cost_with_requested_model_usd,
    sum(r.cost_without_cache_usd) - sum(r.cost_usd) AS savings_cache_usd,
    sum(r.cost_at_standard_tier_usd) - sum(r.cost_usd) AS savings_tier_usd,
    sum(r.cost_with_requested_model_usd) - sum(r.cost_usd) AS savings_model_usd,
    sum(r.latency_ms_sum) AS latency_ms_sum,
    max(r.latency_ms_max) AS latency_ms_max,
    sum(r.latency_calls) AS latency_calls,
    if(sum(r.latency_calls) > 0, sum(r.latency_ms_sum) / sum(r.latency_calls), NULL) AS latency_ms_avg,
    min(r.first_event_at) AS first_event_at,
    max(r.last_event_at) AS last_event_at
FROM {database}.rollups_1m AS r FINAL
GROUP BY minute, service, team, feature, customer, user, environment, provider, model, service_tier, region
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.spend_1h {on_cluster} AS
SELECT
    toStartOfHour(r.minute) AS hour,
    service, team, feature, customer, user, environment, provider, model, service_tier, region,
    sum(r.calls) AS calls,
    sum(r.failed_calls) AS failed_calls,
    sum(r.retries) AS retries,
    sum(r.late_calls) AS late_calls,
    sum(r.unpriced_calls) AS unpriced_calls,
    sum(r.unpriced_tokens) AS unpriced_tokens,
    sum(r.web_searches) AS web_searches,
    sum(r.gpu_us) AS gpu_us,
    sum(r.input_tokens) AS input_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_5m_tokens) AS cache_write_5m_tokens,
    sum(r.cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.input_audio_tokens) AS input_audio_tokens,
    sum(r.cache_read_audio_tokens) AS cache_read_audio_tokens,
    sum(r.input_image_tokens) AS input_image_tokens,
    sum(r.output_tokens) AS output_tokens,
    sum(r.reasoning_tokens) AS reasoning_tokens,
    sum(r.output_audio_tokens) AS output_audio_tokens,
    sum(r.output_image_tokens) AS output_image_tokens,
    sum(r.input_tokens) + sum(r.cache_read_tokens) + sum(r.cache_write_5m_tokens) + sum(r.cache_write_1h_tokens)
        + sum(r.cache_write_tokens) + sum(r.input_audio_tokens) + sum(r.cache_read_audio_tokens) + sum(r.input_image_tokens)
        + sum(r.output_tokens) + sum(r.reasoning_tokens) + sum(r.output_audio_tokens) + sum(r.output_image_tokens) AS total_tokens,
    if(sum(r.calls) > sum(r.unpriced_calls), sum(r.cost_usd), NULL) AS cost_usd,
    sum(r.cost_input_usd) AS cost_input_usd,
    sum(r.cost_cache_read_usd) AS cost_cache_read_usd,
    sum(r.cost_cache_write_5m_usd) AS cost_cache_write_5m_usd,
    sum(r.cost_cache_write_1h_usd) AS cost_cache_write_1h_usd,
    sum(r.cost_cache_write_usd) AS cost_cache_write_usd,
    sum(r.cost_input_audio_usd) AS cost_input_audio_usd,
    sum(r.cost_cache_read_audio_usd) AS cost_cache_read_audio_usd,
    sum(r.cost_input_image_usd) AS cost_input_image_usd,
    sum(r.cost_output_usd) AS cost_output_usd,
    sum(r.cost_reasoning_usd) AS cost_reasoning_usd,
    sum(r.cost_output_audio_usd) AS cost_output_audio_usd,
    sum(r.cost_output_image_usd) AS cost_output_image_usd,
    sum(r.cost_web_search_usd) AS cost_web_search_usd,
    sum(r.cost_request_usd) AS cost_request_usd,
    sum(r.cost_gpu_usd) AS cost_gpu_usd,
    sum(r.cost_without_cache_usd) AS cost_without_cache_usd,
    sum(r.cost_at_standard_tier_usd) AS cost_at_standard_tier_usd,
    sum(r.cost_with_requested_model_usd) AS cost_with_requested_model_usd,
    sum(r.cost_without_cache_usd) - sum(r.cost_usd) AS savings_cache_usd,
    sum(r.cost_at_standard_tier_usd) - sum(r.cost_usd) AS savings_tier_usd,
    sum(r.cost_with_requested_model_usd) - sum(r.cost_usd) AS savings_model_usd,
    sum(r.latency_ms_sum) AS latency_ms_sum,
    max(r.latency_ms_max) AS latency_ms_max,
    sum(r.latency_calls) AS latency_calls,
    if(sum(r.latency_calls) > 0, sum(r.latency_ms_sum) / sum(r.latency_calls), NULL) AS latency_ms_avg,
    min(r.first_event_at) AS first_event_at,
    max(r.last_event_at) AS last_event_at
FROM {database}.rollups_1m AS r FINAL
GROUP BY hour, service, team, feature, customer, user, environment, provider, model, service_tier, region
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.spend_1d {on_cluster} AS
SELECT
    toDate(toStartOfHour(r.minute)) AS day,
    service, team, feature, customer, user, environment, provider, model, service_tier, region,
    sum(r.calls) AS calls,
    sum(r.failed_calls) AS failed_calls,
    sum(r.retries) AS retries,
    sum(r.late_calls) AS late_calls,
    sum(r.unpriced_calls) AS unpriced_calls,
    sum(r.unpriced_tokens) AS unpriced_tokens,
    sum(r.web_searches) AS web_searches,
    sum(r.gpu_us) AS gpu_us,
    sum(r.input_tokens) AS input_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_5m_tokens) AS cache_write_5m_tokens,
    sum(r.cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.input_audio_tokens) AS input_audio_tokens,
    sum(r.cache_read_audio_tokens) AS cache_read_audio_tokens,
    sum(r.input_image_tokens) AS input_image_tokens,
    sum(r.output_tokens) AS output_tokens,
    sum(r.reasoning_tokens) AS reasoning_tokens,
    sum(r.output_audio_tokens) AS output_audio_tokens,
    sum(r.output_image_tokens) AS output_image_tokens,
    sum(r.input_tokens) + sum(r.cache_read_tokens) + sum(r.cache_write_5m_tokens) + sum(r.cache_write_1h_tokens)
        + sum(r.cache_write_tokens) + sum(r.input_audio_tokens) + sum(r.cache_read_audio_tokens) + sum(r.input_image_tokens)
        + sum(r.output_tokens) + sum(r.reasoning_tokens) + sum(r.output_audio_tokens) + sum(r.output_image_tokens) AS total_tokens,
    if(sum(r.calls) > sum(r.unpriced_calls), sum(r.cost_usd), NULL) AS cost_usd,
    sum(r.cost_input_usd) AS cost_input_usd,
    sum(r.cost_cache_read_usd) AS cost_cache_read_usd,
    sum(r.cost_cache_write_5m_usd) AS cost_cache_write_5m_usd,
    sum(r.cost_cache_write_1h_usd) AS cost_cache_write_1h_usd,
    sum(r.cost_cache_write_usd) AS cost_cache_write_usd,
    sum(r.cost_input_audio_usd) AS cost_input_audio_usd,
    sum(r.cost_cache_read_audio_usd) AS cost_cache_read_audio_usd,
    sum(r.cost_input_image_usd) AS cost_input_image_usd,
    sum(r.cost_output_usd) AS cost_output_usd,
    sum(r.cost_reasoning_usd) AS cost_reasoning_usd,
    sum(r.cost_output_audio_usd) AS cost_output_audio_usd,
    sum(r.cost_output_image_usd) AS cost_output_image_usd,
    sum(r.cost_web_search_usd) AS cost_web_search_usd,
    sum(r.cost_request_usd) AS cost_request_usd,
    sum(r.cost_gpu_usd) AS cost_gpu_usd,
    sum(r.cost_without_cache_usd) AS cost_without_cache_usd,
    sum(r.cost_at_standard_tier_usd) AS cost_at_standard_tier_usd,
    sum(r.cost_with_requested_model_usd) AS cost_with_requested_model_usd,
    sum(r.cost_without_cache_usd) - sum(r.cost_usd) AS savings_cache_usd,
    sum(r.cost_at_standard_tier_usd) - sum(r.cost_usd) AS savings_tier_usd,
    sum(r.cost_with_requested_model_usd) - sum(r.cost_usd) AS savings_model_usd,
    sum(r.latency_ms_sum) AS latency_ms_sum,
    max(r.latency_ms_max) AS latency_ms_max,
    sum(r.latency_calls) AS latency_calls,
    if(sum(r.latency_calls) > 0, sum(r.latency_ms_sum) / sum(r.latency_calls), NULL) AS latency_ms_avg,
    min(r.first_event_at) AS first_event_at,
    max(r.last_event_at) AS last_event_at
FROM {database}.rollups_1m AS r FINAL
GROUP BY day, service, team, feature, customer, user, environment, provider, model, service_tier, region
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE VIEW IF NOT EXISTS {database}.dead_letters_v {on_cluster} AS
SELECT topic, source_log, partition, offset, reason, field, message, event_id, service, recorded_at, key, original,
    replayed_at, inserted_at
FROM {database}.dead_letters FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
