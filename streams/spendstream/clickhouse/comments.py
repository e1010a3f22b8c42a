"""What every table, view and column of the database means: set as their comments, which BI tools show.

A text that the contract has (a field's description, a measure's meaning) is taken from there; the rest stands here. A
column has one meaning wherever it appears; tables for which that is not so have entries of their own.
"""

from typing import Final

from pydantic import BaseModel

from spendstream.schemas.alert import Alert
from spendstream.schemas.buckets import COST_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, cost_column, tokens_field
from spendstream.schemas.dead_letter import DeadLetter
from spendstream.schemas.measures import MEASURES
from spendstream.schemas.rollup import CostRollup
from spendstream.schemas.usage import UsageEvent

TABLES: Final = {
    "calls": "The ledger: one row per priced call. May hold a row twice until it is merged: read calls_v.",
    "rollups_1m": "Absolute totals per minute, dimensions and source partition, replacing each other: read spend_1m.",
    "dead_letters": "Records that could not be metered, with their original bytes. Read dead_letters_v.",
    "alerts": "Transitions of alerts. Read alerts_v and alerts_current.",
    "rate_cards": "Rate cards that priced calls of the ledger, one row a card.",
    "repairs": "What repairs of rollups replaced: a row per total, as it was and as it became.",
    "schema_migrations": "Which migrations are applied.",
    "calls_v": "The ledger: one row per priced call, without duplicates.",
    "spend_1m": "Spend per minute (UTC) and dimensions, without duplicates.",
    "spend_1h": "Spend per hour (UTC) and dimensions, without duplicates.",
    "spend_1d": "Spend per day (UTC) and dimensions, without duplicates.",
    "dead_letters_v": "Records that could not be metered, each once.",
    "alerts_v": "Transitions of alerts, each once.",
    "alerts_current": "Alerts in their latest state.",
    "rate_cards_v": "Rate cards that priced calls of the ledger, each once.",
    "rates_v": "One row per rate card, size of input and item: its rate.",
    "charges_v": "One row per call and charged item: quantity, rate and amount, with the source of the rate.",
}
"""By name of a table or view."""

_COUNTED: Final = {
    "cache_read": "Input read from the cache",
    "cache_write_5m": "Written to a cache that lives 5 minutes",
    "cache_write_1h": "Written to a cache that lives an hour",
    "input_audio": "Uncached audio input",
    "cache_read_audio": "Audio input read from the cache",
    "input_image": "Uncached image input",
    "cache_read_image": "Image input read from the cache",
    "input_video": "Uncached video input",
    "output_audio": "Audio output",
    "output_image": "Image output",
    "output_video": "Video output",
}
_FEES: Final = {
    "web_search": "web searches",
    "request": "the fee per call",
    "gpu": "GPU time, self-hosted",
    "units": "billable units beside tokens, together",
}

_COLUMNS: Final = {
    # the call
    "provider_response_id": "The provider's own id of the answer; empty if unknown.",
    "trace_id": "OpenTelemetry trace that the call belongs to, hexadecimal; empty if unknown.",
    "span_id": "OpenTelemetry span of the call, hexadecimal; empty if unknown.",
    "conversation_id": "The conversation or session that the call belongs to; empty if unknown.",
    "operation": "What was asked for: chat, embeddings, image generation and so on.",
    "provider": "Who was asked: openai, anthropic, google and so on.",
    "model": "The model that was priced: served, else requested.",
    "model_requested": "The model that was asked for; empty if unknown.",
    "service_tier": "standard, batch, flex, priority or fast.",
    "status": "ok, error, timeout, cancelled, rate_limited or filtered.",
    "latency_ms": "Milliseconds from request to the end of the answer; null if unknown.",
    "usage_quality": "How well the counts are known: reported, partial or estimated.",
    "web_searches": "Searches of the web that the provider ran, a count.",
    "service": "The service that made the call.",
    "team": "Team that the call is attributed to; empty if unknown.",
    "feature": "Feature of the product that the call is attributed to; empty if unknown.",
    "customer": "Customer that the call is attributed to; empty if unknown.",
    "user": "End user that the call is attributed to; empty if unknown.",
    "environment": "production, staging and so on; empty if unknown.",
    "tags": "The caller's own key-value pairs, a JSON object; empty if none.",
    # its money
    "cost_usd": "USD, exact to 1e-12: the sum of all items with a known price. Null if nothing has a price.",
    "cost_by_unit": "USD of each billable unit beside tokens; they sum to cost_units_usd.",
    "cost_without_cache_usd": "USD that the same calls would cost, had nothing been cached.",
    "cost_at_standard_tier_usd": "USD that the same calls would cost at the standard service tier.",
    "cost_with_requested_model_usd": "USD that the same calls would cost, had the requested model served them.",
    "savings_cache_usd": "USD that caching saved: cost_without_cache_usd - cost_usd; negative if writing cost more.",
    "savings_tier_usd": "USD that the service tier saved: cost_at_standard_tier_usd - cost_usd; negative if it cost.",
    "savings_model_usd": "USD that the served model saved: cost_with_requested_model_usd - cost_usd; may be negative.",
    "unpriced_reason": "Why cost_usd is null: unknown_model, no_rate_for_bucket or too_large; empty if priced.",
    "price_quality": "How far cost_usd can be trusted: exact, substituted, estimated or partial; empty if unpriced.",
    "price_notes": "Why price_quality is not exact; empty if it is.",
    "rate_card_id": "The rate card that priced the call; see rates_v. Empty if unpriced.",
    "rate_source": "Where the rate card is from: contract, custom, genai-prices and so on.",
    "currency": "Currency of provider_cost, ISO 4217; empty if unknown.",
    "total_tokens": "Tokens of all buckets together.",
    # audit
    "lateness": "on_time; late: its minute had closed; correction: beyond the allowed lateness.",
    "priced_at": "When the call was priced (UTC). Of two rows of a call, the one priced last stays.",
    "source_partition": "Kafka partition of the usage record.",
    "source_offset": "Kafka offset of the usage record.",
    "ver": "Version of the row: of rows with one key, the greatest stays.",
    "inserted_at": "When the row was last written (UTC); retention counts from here.",
    # rollups
    "minute": "Start of the minute (UTC).",
    "hour": "Start of the hour (UTC).",
    "day": "The day (UTC).",
    "calls": "Number of calls, priced or not.",
    "unpriced_tokens": "Tokens of the unpriced calls.",
    "latency_ms_sum": "Milliseconds, summed over the calls that reported a latency.",
    "latency_ms_max": "Milliseconds of the slowest call.",
    "latency_ms_avg": "Mean milliseconds of the calls that reported a latency; null if none did.",
    "first_event_at": "occurred_at of the first call (UTC).",
    "last_event_at": "occurred_at of the last call (UTC).",
    # dead letters
    "topic": "Kafka topic of the record.",
    "partition": "Kafka partition of the record.",
    "offset": "Kafka offset of the record.",
    "reason": "Reason code, such as not_json or missing_field.",
    "key": "Key of the record, raw bytes; null if it had none.",
    "replayed_at": "When the record was published again (UTC); null if it was not.",
    # repairs
    "repaired_at": "When the repair began (UTC).",
    "dimensions": "Dimensions of the total, a JSON object.",
    "total_before": "The row of rollups_1m before, a JSON object; empty if there was none.",
    "total_after": "The row of rollups_1m that was written, a JSON object.",
    # alerts
    "alert_id": "Id of the alert: the same in all of its transitions.",
    "transition_id": "Id of the transition.",
    "seq": "Number of the transition within its alert, from 0.",
    "transition": "What happened to the alert: pending, firing, updated, resolved and so on.",
    "state": "State of the alert after the transition.",
    "watch": "Name of the watch.",
    "rule": "Rule of the watch: anomaly, budget or threshold.",
    "severity": "Severity that the watch gives.",
    "title": "The alert in one line.",
    "measure": "What the watch measures.",
    "observed": "What was observed, in the unit of the column unit.",
    "expected": "What was expected, in the unit of the column unit; null if the rule expects nothing.",
    "limit_value": "The bound that was crossed, in the unit of the column unit.",
    "attributed_observed_usd": "USD a minute that were observed, as the attribution counts them.",
    "attributed_expected_usd": "USD a minute that are usual, as the attribution counts them.",
    "factor_changes_usd": "USD a minute that each factor of the change accounts for.",
    "factor_words": "Each factor of the change in words.",
    "facts": "What else changed: failures, retries, unpriced calls.",
    "contributors": "Who changed most: dimension, value, change and spend in USD a minute, share of the change.",
    "excess_by_end_of_hour_usd": "USD above the usual by the end of the hour, if it continues like this.",
    "excess_by_end_of_month_usd": "USD above the usual by the end of the month, if it continues like this.",
    "budget_period_start": "Start of the budget's period (UTC).",
    "budget_period_end": "End of the budget's period (UTC).",
    "budget_amount_usd": "USD that the budget allows in its period.",
    "budget_spent_usd": "USD spent in the period so far: the sum of the ledger's priced calls.",
    "budget_forecast_usd": "USD spent at the end of the period, if it continues like this.",
    "budget_burn_rate": "Burn rate in the long window; 1 spends the budget evenly over its period.",
    "budget_burn_rate_short": "Burn rate in the short window.",
    "runbook": "Link of the watch to its runbook; empty if it has none.",
    # rate cards
    "source": "contract, custom, correction, genai-prices or prepaid.",
    "valid_from": "First instant of the rates (UTC); null if the source has no date.",
    "rate_valid_from": "First instant of the rates (UTC); null if the source has no date.",
    "reference": "Where the rates are published: a URL, or a contract and its clause.",
    "rates": "Every rate, by size of input: an amount is quantity * usd / per. See rates_v.",
    "record": "The record of llm.rate-card.v1, JSON.",
    "item": "What is charged: a token bucket, web_search, request, gpu or a billable unit.",
    "quantity": "How much of the item was used: tokens, searches, seconds and so on.",
    "usd": "USD for per units of the item.",
    "rate_usd": "USD for per units of the item; null if no rate is known.",
    "per": "Number of units that the rate is for, such as 1000000 tokens.",
    "minimum": "Quantity that is charged at least, once any is used; 0 if there is none.",
    "multiplier": "Product of the factors that the rate contains, such as a region's surcharge; 1 if none.",
    "unit": "What the quantity counts.",
    "priced_as": "The bucket whose rate was taken, if the item has none of its own.",
    "above_input_tokens": "Input tokens above which the rate applies.",
    "up_to_input_tokens": "Input tokens up to which the rate applies; null if there is no limit.",
    "rate_tier": "Service tier of the rate card.",
    # migrations
    "number": "Number of the migration.",
    "name": "Name of the migration.",
    "checksum": "SHA-256 of the migration's file, hexadecimal.",
    "is_applied": "Whether it is applied as of this row.",
    "at": "When this was written (UTC).",
}

_BY_TABLE: Final = {
    "alerts": {"unit": "Unit of observed, expected and limit_value.", "reason": "Why spend changed, in words."},
    "calls": {"context_step": "Input tokens above which the applied rates hold; 0 below every step."},
    "dead_letters": {
        "event_id": "Id of the event as far as it could be read; empty otherwise.",
        "service": "The service that made the call, if it could be read: whom to contact.",
        "source_log": "One life of the topic: offsets start over when a topic is recreated.",
    },
}
_MEANS: Final = {
    "alerts_v": "alerts", "alerts_current": "alerts", "calls_v": "calls", "charges_v": "calls",
    "dead_letters_v": "dead_letters",
}  # fmt: skip


def _described(model: type[BaseModel]) -> dict[str, str]:
    return {name: field.description for name, field in model.model_fields.items() if field.description}


def _counts() -> dict[str, str]:
    event = _described(UsageEvent)
    tokens = {
        tokens_field(bucket): f"Tokens: {(_COUNTED.get(bucket) or event[tokens_field(bucket)]).rstrip('.')}."
        for bucket in TOKEN_BUCKETS
    }
    parts = {f"prompt_{part}_tokens": f"Tokens: the {part} part of the input." for part in PROMPT_PARTS}
    costs = {
        cost_column(bucket): f"USD of {_FEES.get(bucket) or tokens_field(bucket)}; part of cost_usd."
        for bucket in COST_BUCKETS
    }
    return {**tokens, **parts, **costs}


_MEANINGS: Final = {
    **_described(CostRollup),
    **{measure.field: measure.doc for measure in MEASURES if measure.doc},
    **_described(DeadLetter),
    **_described(UsageEvent),
    **_counts(),
    **_COLUMNS,
}
_ALERT: Final = _described(Alert)


def column_comment(table: str, column: str) -> str:
    """Return what a column of a table or view means; empty where that is unknown."""
    base = _MEANS.get(table, table)
    own = _BY_TABLE.get(base, {}).get(column)
    return own or (_ALERT.get(column, "") if base == "alerts" else "") or _MEANINGS.get(column, "")
