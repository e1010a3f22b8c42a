"""Priced calls on the wire: the exact Arrow schema, nulls where unpriced, ids as bytes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from spendstream.core.lateness import CORRECTION_CODE, LATE_CODE, ON_TIME_CODE
from spendstream.core.ledger import ledger_records, ledger_table
from spendstream.core.meter import MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook, Unpriced
from spendstream.schemas.buckets import COST_BUCKETS
from spendstream.schemas.measures import COLUMN
from spendstream.schemas.priced import DEFAULTS, LATENESS, PRICED_SCHEMA, REQUIRED, UNPRICED_REASONS
from spendstream.schemas.rate_card import MAX_RATE_USD_PER_MTOK
from spendstream.schemas.usage import MAX_TOKENS
from tests.unit.conftest import Cards
from tests.unit.log import NOON, Log, event_id, make_usage_event


def table_of(book: PriceBook, *events: dict[str, Any], recorded_s: float = 0) -> pa.Table:
    log = Log()
    for event in events:
        log.append(event, at_s=recorded_s)
    one = PartitionMeter(new_marker(3, "life-1", -1), MeterRules(), book)
    one.absorb(log.batch(), NOON)
    calls = one.take().calls
    assert calls is not None
    return ledger_table(calls, partition=3, source_log="life-1")


def row_of(book: PriceBook, **fields: Any) -> dict[str, Any]:
    (row,) = rows_of(table_of(book, make_usage_event(**fields)))
    return row


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as the ledger has them."""
    return [DEFAULTS | row for row in table.to_pylist()]


STATED: dict[str, Any] = {
    "agent": "planner", "turn": 0, "parent_event_id": event_id(5), "inference_geo": "us", "capacity": "provisioned",
    "account": "org-1", "project": "p-1", "credential": "key-7", "cache_read_image_tokens": 3,
    "input_video_tokens": 4, "output_video_tokens": 5,
}  # fmt: skip
OTHERS: tuple[dict[str, Any], ...] = (
    {}, STATED, {"model_served": "nobody-knows"}, {"web_searches": 1}, {"units": {"pages": 2}}, {"tags": {"a": "b"}},
    {"provider_cost": "0"}, {"latency_ms": 0}, {"usage_notes": ["odd"]}, {"requested_at": "2026-03-04T11:59:58Z"},
    {"gpu_seconds": 1.5}, {"trace_id": "t"}, {"attempt": 3}, {"user": ""}, {"cached": 600}, {"currency": "EUR"},
)  # fmt: skip


def test_the_schema_is_the_contracts_to_the_type_and_the_null(acme_book: PriceBook) -> None:
    table = table_of(acme_book, *(make_usage_event(number, **fields) for number, fields in enumerate(OTHERS, 1)))
    assert table.schema.equals(pa.schema([field for field in PRICED_SCHEMA if field.name in table.schema.names]))
    assert set(table.schema.names) >= REQUIRED
    table.validate(full=True)
    assert [f.name for f in table.schema if not f.nullable and table[f.name].null_count] == []


@pytest.mark.parametrize("first", range(len(OTHERS)))
def test_a_column_is_left_out_exactly_where_every_call_has_its_default(acme_book: PriceBook, first: int) -> None:
    pair = (OTHERS[first], OTHERS[first - 1])
    events = [make_usage_event(number, **fields) for number, fields in enumerate(pair, 1)]
    together = table_of(acme_book, *events)
    alone = [rows_of(table_of(acme_book, event))[0] for event in events]
    assert [row | {"source_offset": 0} for row in rows_of(together)] == alone
    for name, default in DEFAULTS.items():
        assert (name in together.schema.names) == any(row[name] != default for row in alone), name


def test_an_event_id_is_its_sixteen_bytes(acme_book: PriceBook) -> None:
    assert row_of(acme_book, number=77)["event_id"] == uuid.UUID(event_id(77)).bytes
    high = "ffffffff-ffff-4fff-8fff-fffffffffffe"
    assert row_of(acme_book, event_id=high)["event_id"] == uuid.UUID(high).bytes


def test_what_a_call_has_beside_tokens_reaches_the_ledger(acme_book: PriceBook) -> None:
    row = row_of(acme_book, **STATED, units={"pages_processed": 2.5, "x": "1e3"}, usage_notes=["a", "b"])
    assert {name: row[name] for name in STATED} == {**STATED, "parent_event_id": uuid.UUID(event_id(5)).bytes}
    assert row["units"] == [("pages", Decimal("2.5")), ("x", Decimal(1000))]
    assert row["usage_notes"] == "a; b"


def test_a_call_without_any_of_that_has_empty_values(acme_book: PriceBook) -> None:
    row = row_of(acme_book)
    names = ("agent", "inference_geo", "account", "project", "credential", "usage_notes", "price_notes")
    assert {row[name] for name in names} == {""}
    assert (row["turn"], row["parent_event_id"], row["units"], row["cost_by_unit"]) == (None, None, [], [])
    assert (row["capacity"], row["price_quality"], row["context_step"]) == ("on_demand", "exact", 0)


def test_an_unpriced_call_has_null_in_every_amount_and_a_reason(acme_book: PriceBook) -> None:
    row = row_of(acme_book, model_served="nobody-knows")
    amounts = [name for name in row if name.startswith("cost_") and name != "cost_by_unit"]
    assert len(amounts) == len(COST_BUCKETS) + 4
    assert [row[name] for name in amounts] == [None] * len(amounts)
    assert (row["unpriced_reason"], row["price_quality"], row["cost_by_unit"]) == ("unknown_model", "", [])
    assert row["rate_card_id"] == ""
    assert row["input_tokens"] == 600


def test_a_call_with_a_bucket_that_has_no_rate_names_its_card_and_no_price(book_of_cards: Cards) -> None:
    book = book_of_cards(
        "cards: [{provider: acme, model: acme-1, rates: [{from: 2026-01-01, source: test, usd_per_mtok: {input: 1}}]}]"
    )
    row = row_of(book)
    assert (row["cost_usd"], row["unpriced_reason"]) == (None, "no_rate_for_bucket")
    assert row["rate_card_id"] != ""


def test_a_call_with_a_fee_that_has_no_rate_is_partly_priced_and_says_so(acme_book: PriceBook) -> None:
    row = row_of(acme_book, web_searches=1)
    assert (row["price_quality"], row["price_notes"]) == ("partial", "no rate for web_searches")
    assert row["cost_usd"] == row_of(acme_book)["cost_usd"] > 0


def test_a_call_with_a_unit_that_has_no_rate_is_partly_priced_from_ledger_to_rollup(acme_book: PriceBook) -> None:
    log = Log()
    for event in (make_usage_event(1, units={"pages": 2, "parsecs": "0.5"}), make_usage_event(2)):
        log.append(event)
    meter = PartitionMeter(new_marker(3, "life-1", -1), MeterRules(), acme_book)
    meter.absorb(log.batch(), NOON)
    taken = meter.take()
    assert taken.calls is not None
    partial, whole = rows_of(ledger_table(taken.calls, partition=3, source_log="life-1"))
    assert (partial["price_quality"], partial["price_notes"]) == ("partial", "no rate for pages, parsecs")
    assert (whole["price_quality"], whole["price_notes"]) == ("exact", "")
    assert partial["cost_usd"] == whole["cost_usd"] > 0
    assert partial["cost_by_unit"] == []
    assert meter.counters.partly_priced == 1
    assert sum(int(totals[COLUMN["partly_priced_calls"]]) for _, totals in taken.rollups) == 1


def test_the_usage_of_a_whole_batch_is_priced_exactly(acme_book: PriceBook) -> None:
    row = row_of(acme_book, input_tokens=MAX_TOKENS - 1, output_tokens=0)
    assert row["cost_usd"] == (MAX_TOKENS - 1) * Decimal(6).scaleb(-6)  # $6 per million above 200,000 tokens


def test_a_cost_that_64_bits_do_not_hold_is_unpriced_and_named(book_of_cards: Cards) -> None:
    rate = MAX_RATE_USD_PER_MTOK
    book = book_of_cards(
        "cards: [{provider: acme, model: dear, rates: [{from: 2026-01-01, source: test, "
        f"usd_per_mtok: {{input: {rate}, output: {rate}}}}}]}}]"
    )
    buckets = [f.name for f in PRICED_SCHEMA if f.name.endswith("_tokens") and not f.name.startswith("prompt_")]
    row = row_of(book, model_served="dear", **dict.fromkeys(buckets, MAX_TOKENS))
    assert (row["cost_usd"], row["unpriced_reason"]) == (None, "too_large")


def test_a_priced_call_is_exact_and_its_buckets_sum_to_it(acme_book: PriceBook) -> None:
    row = row_of(acme_book, cached=400)
    assert row["cost_usd"] == Decimal("0.002670000000")  # 600*3 + 400*0.3 + 50*15 µUSD
    assert sum(row[f"cost_{bucket}_usd"] for bucket in COST_BUCKETS) == row["cost_usd"]
    assert row["cost_without_cache_usd"] == Decimal("0.003750000000")
    assert row["rate_source"] == "custom"


def test_absent_text_is_empty_and_absent_numbers_are_null(acme_book: PriceBook) -> None:
    row = row_of(acme_book)
    assert (row["trace_id"], row["tags"], row["customer"], row["model_requested"]) == ("", "", "", "")
    assert (row["latency_ms"], row["requested_at"], row["provider_cost"]) == (None, None, None)


def test_what_the_provider_said_is_kept_beside_ours(acme_book: PriceBook) -> None:
    row = row_of(acme_book, provider_cost="0.123456789012", currency="EUR", tags={"b": "1", "a": "é"})
    assert row["provider_cost"] == Decimal("0.123456789012")
    assert (row["currency"], row["tags"]) == ("EUR", '{"a":"é","b":"1"}')


def test_times_are_utc_microseconds(acme_book: PriceBook) -> None:
    row = row_of(acme_book, occurred_at="2026-03-04T13:59:59.000001+02:00", requested_at="2026-03-04T11:59:58Z")
    assert row["occurred_at"] == datetime(2026, 3, 4, 11, 59, 59, 1, tzinfo=UTC)
    assert row["requested_at"] == datetime(2026, 3, 4, 11, 59, 58, tzinfo=UTC)
    assert row["recorded_at"] == row["priced_at"] == NOON


def test_a_row_says_where_it_came_from(acme_book: PriceBook) -> None:
    rows = rows_of(table_of(acme_book, make_usage_event(1), make_usage_event(2)))
    assert [(r["source_log"], r["source_partition"], r["source_offset"]) for r in rows] == [
        ("life-1", 3, 0),
        ("life-1", 3, 1),
    ]


def test_every_code_of_the_meter_has_a_name() -> None:
    assert [LATENESS[code] for code in (ON_TIME_CODE, LATE_CODE, CORRECTION_CODE)] == ["on_time", "late", "correction"]
    assert len(UNPRICED_REASONS) == len(Unpriced)


@pytest.mark.parametrize(("max_rows", "max_bytes"), [(1, 10**6), (3, 10**6), (10**6, 10**6), (10**6, 8000), (4, 1)])
def test_a_table_cut_into_records_is_whole_and_in_order(acme_book: PriceBook, max_rows: int, max_bytes: int) -> None:
    table = table_of(acme_book, *(make_usage_event(i, trace_id=f"{i:032}") for i in range(10)))
    read = [pa.ipc.open_stream(payload).read_all() for payload in ledger_records(table, max_rows, max_bytes)]
    assert all(part.schema.equals(table.schema) for part in read)
    assert all(part.num_rows <= max_rows for part in read)
    assert [row for part in read for row in part.to_pylist()] == table.to_pylist()
