"""Why a call cost what it did: its row of the ledger, the rate card that priced it, and the amount computed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import polars as pl
from pydantic import ValidationError

from spendstream.adapters.event import TAG_PREFIX
from spendstream.core.decode import decode
from spendstream.core.money import usd_text
from spendstream.core.pricing import PricedColumns, price_by, rates_of_record
from spendstream.core.pricing.price import COLUMN_OF_COUNT, KEYS
from spendstream.core.pricing.rates import Inexact
from spendstream.intake import MAX_LINE_BYTES
from spendstream.schemas.buckets import COST_BUCKETS, cost_column
from spendstream.schemas.priced import UNPRICED_REASONS
from spendstream.schemas.rate_card_record import Rate, RateCardRecord

_IDENTITY: Final = ("event_id", "occurred_at", "requested_at", "service")


@dataclass(frozen=True, slots=True)
class Charge:
    """One part of a call's cost. Amounts are exact USD."""

    item: str
    """A token bucket, ``web_search``, ``request``, ``gpu``, or the name of a unit."""
    quantity: Decimal
    """Tokens, searches, requests, seconds of the deployment's time, or units."""
    rate: Rate | None
    """None if the card has no rate for it, or the card isn't known."""
    cost_usd: Decimal | None
    """As the ledger has it; None if the call is unpriced, or this unit has no rate."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One call of the ledger. ``row``: the columns of ``calls_v``."""

    row: Mapping[str, Any]
    card: RateCardRecord | None
    """None if no card prices the call, or ClickHouse doesn't have it: see ``problems``."""
    charges: tuple[Charge, ...]
    recomputed_usd: Decimal | None
    """The amount by the card, computed again; None without a card, and for a call that the card doesn't price."""
    missing_buckets: tuple[str, ...]
    """What the call used and its card has no rate for: an unpriced call, or one whose price is partial."""
    problems: tuple[str, ...]
    """Where ledger and card don't agree, a sentence each. Empty if the explanation is complete and exact."""

    @property
    def provider_usage(self) -> dict[str, str]:
        """The provider's own counts, if the event kept them: by their path in the provider's response."""
        tags = json.loads(self.row["tags"] or "{}")
        return {name.removeprefix(TAG_PREFIX): tags[name] for name in tags if name.startswith(TAG_PREFIX)}


def explain_event(client: Any, database: str, event_id: UUID) -> list[Explained]:
    """Explain a call; none if the ledger doesn't have it.

    Two, if the id was repeated beyond the dedupe horizon with another team, feature, model or hour. Raises:
    clickhouse-connect's errors.
    """
    found = client.query(
        f"SELECT * FROM {database}.calls_v WHERE event_id = {{id:UUID}} ORDER BY occurred_at",
        parameters={"id": str(event_id)},
    ).named_results()
    return [_explain(_aware(row), client, database) for row in found]


def _explain(row: dict[str, Any], client: Any, database: str) -> Explained:
    problems: list[str] = []
    card = _card(client, database, row["rate_card_id"], problems) if row["rate_card_id"] else None
    priced = None if card is None else price_by(card, _call(row))
    if priced is not None:
        problems += _differences(row, priced)
    step = row["context_step"] if priced is None else int(priced.context_step[0])
    return Explained(
        row=row,
        card=card,
        charges=tuple(_charges(row, card, step)),
        recomputed_usd=Decimal(usd_text(int(priced.total_pusd[0])))
        if priced is not None and priced.priced[0]
        else None,
        missing_buckets=() if priced is None else priced.missing_buckets(0),
        problems=tuple(problems),
    )


def _card(client: Any, database: str, card_id: str, problems: list[str]) -> RateCardRecord | None:
    """Return a published card; None, with the problem, if it isn't there or isn't what its id says."""
    found = client.query(
        f"SELECT record FROM {database}.rate_cards_v WHERE rate_card_id = {{id:String}}", parameters={"id": card_id}
    ).result_rows
    if not found:
        problems.append(
            f"rate_cards has no card {card_id}: its sink may be behind, and `spendstream drain` waits for it"
        )
        return None
    try:
        card = RateCardRecord.model_validate_json(found[0][0])
        is_genuine = rates_of_record(card).ref.id == card_id
    except (ValidationError, Inexact):
        is_genuine = False
    if not is_genuine:
        problems.append(
            f"the row of card {card_id} in rate_cards isn't what its id says: "
            "it was altered, or a newer release wrote it"
        )
        return None
    return card


def _call(row: Mapping[str, Any]) -> pl.DataFrame:
    """Return the call of a ledger row as the meter decoded it, as far as its price depends on it."""
    stated = (*_IDENTITY, *KEYS, *COLUMN_OF_COUNT.values(), "units", "context_step")
    event = {name: row[name] for name in stated if row[name] not in (None, "", {})}
    if row["gpu_us"]:
        event["gpu_seconds"] = row["gpu_us"] / 1e6
    calls = decode([json.dumps(event, default=_text).encode()], MAX_LINE_BYTES).calls
    return calls.with_columns(priced_at_us=pl.coalesce("requested_at_us", "occurred_at_us"))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _charges(row: Mapping[str, Any], card: RateCardRecord | None, step: int) -> Iterator[Charge]:
    """Yield what a call used, with its rate at a step and its cost, in the order of the buckets."""
    rates = {} if card is None else {rate.item: rate for rate in card.rates() if rate.above_input_tokens == step}
    used: dict[str, Decimal] = {bucket: Decimal(row[column]) for bucket, column in COLUMN_OF_COUNT.items()}
    used["request"] = Decimal(1 if "request" in rates else 0)
    used["gpu"] = Decimal(row["gpu_us"]) / 1_000_000 if "gpu" in rates else Decimal(0)
    for bucket, quantity in used.items():
        if quantity:
            yield Charge(bucket, quantity, rates.get(bucket), row[cost_column(bucket)])
    for unit, quantity in row["units"].items():
        yield Charge(unit, quantity, rates.get(unit), row["cost_by_unit"].get(unit))


def _differences(row: Mapping[str, Any], priced: PricedColumns) -> Iterator[str]:
    """Yield where the ledger's amounts are not those of the card, in a sentence each."""
    again = UNPRICED_REASONS[priced.unpriced_reason[0]]
    if again != row["unpriced_reason"]:
        stated, now = (f"unpriced ({reason})" if reason else "priced" for reason in (row["unpriced_reason"], again))
        yield f"the ledger says that the call is {stated}; by its card it is {now}"
        return
    if again:
        return
    amounts = {"cost_usd": int(priced.total_pusd[0])}
    for bucket in COST_BUCKETS:
        amounts[cost_column(bucket)] = int(priced.by_bucket[bucket][0]) if bucket in priced.by_bucket else 0
    for unit in row["units"]:
        stated, known = row["cost_by_unit"].get(unit), priced.unit_costs.get(0, {}).get(unit)
        if stated != (None if known is None else Decimal(usd_text(known))):
            yield f"cost_by_unit of {unit} is {stated} in the ledger, and {known and usd_text(known)} by the card"
    for column, pusd in amounts.items():
        if row[column] != Decimal(usd_text(pusd)):
            yield f"{column} is {row[column].normalize():f} in the ledger, and {usd_text(pusd)} by the card"


def _aware(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with ClickHouse's times in their zone, which is UTC."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
        for name, value in row.items()
    }
