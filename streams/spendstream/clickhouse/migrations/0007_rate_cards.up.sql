-- Rate cards: every card that priced a call of the ledger, or lacked a rate for one.
--
-- Identity: rate_card_id, a hash of what determines a price. A row that is written again says the same.
-- No partitions, few rows: thousands of cards at most. No retention: a card is needed for as long as the ledger names it.
CREATE TABLE IF NOT EXISTS {database}.rate_cards {on_cluster}
(
    rate_card_id String COMMENT 'Hash of the rates, their origin and their first day; calls.rate_card_id.',
    source LowCardinality(String) COMMENT 'contract, custom, correction, genai-prices or prepaid.',
    provider LowCardinality(String) COMMENT 'Whose prices these are; the hardware, for GPU time.',
    model LowCardinality(String) COMMENT 'The model, or the pattern of names, that the card prices.',
    deployment String COMMENT 'The deployment that the card is for; empty for all.',
    service_tier LowCardinality(String) COMMENT 'Tier of the rates: standard for a call of another tier means that no rate of its own is known.',
    valid_from Nullable(DateTime64(6, 'UTC')) COMMENT 'First instant of the rates; null if the source has no date.',
    reference String COMMENT 'Where the rates are published: a URL, or a contract and its clause.',
    rates Array(Tuple(
        item String,
        above_input_tokens Int64,
        up_to_input_tokens Nullable(Int64),
        usd Decimal(38, 18),
        per Int64,
        unit LowCardinality(String),
        minimum Int64,
        priced_as String,
        multiplier Decimal(38, 18))) COMMENT 'Every rate, by size of input: an amount is quantity * usd / per. See rates_v.',
    record String CODEC(ZSTD(1)) COMMENT 'The record of llm.rate-card.v1, JSON.',
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When the card came here; the latest write stays.'
)
ENGINE = {replacing:rate_cards:inserted_at}
ORDER BY rate_card_id
COMMENT 'Rate cards that priced calls of the ledger, one row a card.';

CREATE VIEW IF NOT EXISTS {database}.rate_cards_v {on_cluster} AS
SELECT rate_card_id, source, provider, model, deployment, service_tier, valid_from, reference, record, inserted_at
FROM {database}.rate_cards FINAL;

CREATE VIEW IF NOT EXISTS {database}.rates_v {on_cluster} AS
SELECT
    rate_card_id, source, provider, model, deployment, service_tier, valid_from, reference,
    rate.item AS item,
    rate.above_input_tokens AS above_input_tokens,
    rate.up_to_input_tokens AS up_to_input_tokens,
    rate.usd AS usd,
    rate.per AS per,
    rate.unit AS unit,
    rate.minimum AS minimum,
    rate.priced_as AS priced_as,
    rate.multiplier AS multiplier
FROM {database}.rate_cards FINAL
ARRAY JOIN rates AS rate
COMMENT 'One row per rate card, size of input and item: its rate.';

CREATE VIEW IF NOT EXISTS {database}.charges_v {on_cluster} AS
SELECT
    c.event_id AS event_id,
    c.occurred_at AS occurred_at,
    c.service AS service, c.team AS team, c.feature AS feature, c.customer AS customer,
    c.provider AS provider, c.model AS model, c.service_tier AS service_tier,
    c.charge.1 AS item,
    c.charge.2 AS quantity,
    r.usd AS rate_usd,
    r.per AS per,
    r.unit AS unit,
    r.minimum AS minimum,
    r.multiplier AS multiplier,
    r.priced_as AS priced_as,
    c.context_step AS above_input_tokens,
    c.charge.3 AS cost_usd,
    c.price_quality AS price_quality,
    c.price_notes AS price_notes,
    c.rate_card_id AS rate_card_id,
    c.rate_source AS rate_source,
    r.service_tier AS rate_tier,
    r.valid_from AS rate_valid_from,
    r.reference AS reference
FROM
(
    SELECT
        event_id, occurred_at, service, team, feature, customer, provider, model, service_tier, context_step,
        price_quality, price_notes, rate_card_id, rate_source,
        arrayJoin(arrayFilter(charge -> charge.2 != 0, arrayConcat([
            ('input', toDecimal128(input_tokens, 12), cost_input_usd),
            ('cache_read', toDecimal128(cache_read_tokens, 12), cost_cache_read_usd),
            ('cache_write_5m', toDecimal128(cache_write_5m_tokens, 12), cost_cache_write_5m_usd),
            ('cache_write_1h', toDecimal128(cache_write_1h_tokens, 12), cost_cache_write_1h_usd),
            ('cache_write', toDecimal128(cache_write_tokens, 12), cost_cache_write_usd),
            ('input_audio', toDecimal128(input_audio_tokens, 12), cost_input_audio_usd),
            ('cache_read_audio', toDecimal128(cache_read_audio_tokens, 12), cost_cache_read_audio_usd),
            ('input_image', toDecimal128(input_image_tokens, 12), cost_input_image_usd),
            ('cache_read_image', toDecimal128(cache_read_image_tokens, 12), cost_cache_read_image_usd),
            ('input_video', toDecimal128(input_video_tokens, 12), cost_input_video_usd),
            ('output', toDecimal128(output_tokens, 12), cost_output_usd),
            ('reasoning', toDecimal128(reasoning_tokens, 12), cost_reasoning_usd),
            ('output_audio', toDecimal128(output_audio_tokens, 12), cost_output_audio_usd),
            ('output_image', toDecimal128(output_image_tokens, 12), cost_output_image_usd),
            ('output_video', toDecimal128(output_video_tokens, 12), cost_output_video_usd),
            ('web_search', toDecimal128(web_searches, 12), cost_web_search_usd),
            ('request', toDecimal128(cost_request_usd != 0, 12), cost_request_usd),
            ('gpu', toDecimal128(if(cost_gpu_usd != 0, gpu_us, 0), 12) / 1000000, cost_gpu_usd)
        ], arrayMap(unit -> (unit, units[unit], if(mapContains(cost_by_unit, unit), cost_by_unit[unit], NULL)),
            mapKeys(units))))) AS charge
    FROM {database}.calls_v
) AS c
LEFT JOIN {database}.rates_v AS r
    ON r.rate_card_id = c.rate_card_id AND r.item = c.charge.1 AND r.above_input_tokens = c.context_step
SETTINGS join_use_nulls = 1;
