"""``spendstream why``: explains what a call cost, from the usage that was reported to the cent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from spendstream.cli.console import echo_json, err, out, refuse, table
from spendstream.cli.environment import load_settings
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.core.money import exact_dollars
from spendstream.core.pricing import PriceBook
from spendstream.deadletters import Filter, Letter, find
from spendstream.schemas import topics
from spendstream.schemas.rate_card_record import Rate, RateCardRecord
from spendstream.settings import Settings
from spendstream.why import Charge, Explained, explain_event

NOT_EXPLAINED_EXIT: Final = 1

_CALL: Final = (
    "event_id", "occurred_at", "requested_at", "service", "team", "feature", "customer", "provider", "model_requested",
    "model_served", "status", "region", "inference_geo", "deployment", "capacity", "service_tier",
)  # fmt: skip
_COSTS: Final = ("cost_usd", "cost_without_cache_usd", "cost_at_standard_tier_usd", "cost_with_requested_model_usd")
_COLUMNS: Final = ("charged for", "quantity", "rate, USD", "per", "contains", "with input", "at the rate of", "USD")
_ADVICE: Final = "Add an alias or a card to a file in RATE_CARDS; calls from then on have the price."


def why(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's UUID.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object; amounts are strings.")] = False,
) -> None:
    """Explain what a call cost: what it used, at which rates, from which source; or why it has no price.

    The amount is computed again from the rate card that was published when the call was metered. Exit status: 1 if it
    isn't the ledger's, or if the ledger doesn't have the call.
    """
    settings = load_settings()
    try:
        uuid = UUID(event_id)
    except ValueError:
        uuid = None
    with open_client(clickhouse_settings(settings)) as client:
        found = [] if uuid is None else explain_event(client, settings.clickhouse_database, uuid)
        if not found:
            wanted = Filter(settings.topic(topics.USAGE), event_id=str(uuid or event_id))
            letters = find(client, settings.clickhouse_database, wanted)
    if not found:
        _show_missing(event_id, uuid, letters, settings, as_json)
        raise typer.Exit(NOT_EXPLAINED_EXIT)
    book = (
        PriceBook.load(settings.rate_card_paths, settings.rate_books)
        if any(_is_unknown(call) for call in found)
        else None
    )
    for call in found:
        reasons = _reasons(call, book)
        if as_json:
            echo_json(record(call, reasons, settings))
        else:
            _show(call, reasons, settings)
    if any(call.problems for call in found):
        raise typer.Exit(NOT_EXPLAINED_EXIT)


def _show_missing(event_id: str, uuid: UUID | None, letters: list[Letter], settings: Settings, as_json: bool) -> None:
    if uuid is None and not letters:
        refuse(f"{event_id} is not a UUID, and no dead letter has it as its event_id")
    where = f"{settings.clickhouse_database}.calls_v at {settings.clickhouse_url}"
    if as_json:
        known = [
            {
                name: getattr(letter, name)
                for name in ("reason", "field", "message", "partition", "offset", "recorded_at")
            }
            for letter in letters
        ]
        echo_json({"event_id": event_id, "found": False, "looked_in": where, "dead_letters": known})
        return
    for letter in letters:
        err.print(
            f"{event_id} was not metered: it is a dead letter, at {letter.partition}/{letter.offset}. "
            f"{letter.reason}: {letter.message}",
            markup=False,
        )
    if letters:
        err.print("Fix the producer, or see `spendstream deadletters --replay`.")
        return
    days = settings.retention_calls_days
    err.print(
        f"No call has the id {event_id} in {where}, and no dead letter has it. It may not be metered yet (`spendstream "
        f"drain` waits for it), or it went to another stack"
        + (f"; rows are deleted after {days} days." if days else ".")
    )


def _is_unknown(call: Explained) -> bool:
    return bool(call.row["unpriced_reason"] == "unknown_model")


def _reasons(call: Explained, book: PriceBook | None) -> list[str]:
    """Return why a call has no price and what to do, a sentence each; nothing if it has one."""
    row = call.row
    if not row["unpriced_reason"]:
        return []
    if row["unpriced_reason"] == "too_large":
        return ["The cost exceeds 9.2 million USD: a count must be wrong. Check what the producer counts."]
    if not _is_unknown(call) or book is None:
        missing = ", ".join(call.missing_buckets) or "a bucket that it used"
        if call.card is not None and not row["units"] and not any(step.usd_per_mtok for step in call.card.steps):
            names = ", ".join(call.card.usd_per_unit)
            return [f"The model is billed by units alone ({names}), and the event states none. Report its units."]
        if "gpu" in call.missing_buckets:
            return ["The deployment is billed by the GPU-hour, and the event has no gpu_seconds. Report them."]
        return [f"Its card has no rate for {missing}. {_ADVICE}"]
    model, at = row["model_served"] or row["model_requested"], row["requested_at"] or row["occurred_at"]
    now = book.explain(
        row["provider"],
        model,
        at=at,
        service_tier=row["service_tier"],
        region=row["region"],
        inference_geo=row["inference_geo"],
        capacity=row["capacity"],
        deployment=row["deployment"],
    )
    if now.card is not None:
        return [
            f"When it was metered, no card priced {row['provider']} {model}. The price book here has one now, card "
            f"{now.card.id} from {now.card.source}; a call keeps the price that it was metered with."
        ]
    reasons = [f"No card prices it: {book.why_unpriced(row['provider'], model)}."]
    if nearest := book.nearest(row["provider"], model):
        reasons.append(f"Nearest listed names: {', '.join(nearest)}.")
    return [*reasons, _ADVICE]


def record(call: Explained, reasons: list[str], settings: Settings) -> dict[str, Any]:
    """Return an explanation as JSON values."""
    row = call.row
    return {
        **{name: row[name] for name in _CALL},
        **{name: row[name] for name in _COSTS},
        "charges": [_charge(charge) for charge in call.charges],
        "context_step": row["context_step"],
        "recomputed_usd": call.recomputed_usd,
        "agrees": not call.problems,
        "problems": call.problems,
        "price_quality": row["price_quality"] or None,
        "price_notes": _notes(row["price_notes"]),
        "unpriced_reason": row["unpriced_reason"] or None,
        "missing_buckets": call.missing_buckets,
        "why_unpriced": reasons,
        "rate_source": row["rate_source"] or None,
        "rate_card": None if call.card is None else call.card.model_dump(mode="json"),
        "usage_quality": row["usage_quality"],
        "usage_notes": _notes(row["usage_notes"]),
        "provider_usage": call.provider_usage,
        "provider_cost": row["provider_cost"],
        "currency": row["currency"] or None,
        "lateness": row["lateness"],
        "position": {
            "topic": settings.topic(topics.USAGE),
            "source_log": row["source_log"],
            "partition": row["source_partition"],
            "offset": row["source_offset"],
        },
        "recorded_at": row["recorded_at"],
        "priced_at": row["priced_at"],
    }


def _charge(charge: Charge) -> dict[str, Any]:
    rate = charge.rate
    return {
        "item": charge.item,
        "quantity": _plain(charge.quantity),
        "rate_usd": None if rate is None else rate.usd,
        "per": None if rate is None else rate.per,
        "unit": None if rate is None else rate.unit,
        "above_input_tokens": None if rate is None else rate.above_input_tokens,
        "minimum": None if rate is None else rate.minimum,
        "priced_as": None if rate is None else rate.priced_as,
        "multiplier": None if rate is None else rate.multiplier,
        "cost_usd": charge.cost_usd,
    }


def _notes(text: str) -> list[str]:
    return [note for note in text.split("; ") if note]


def _plain(number: Decimal) -> Decimal:
    """Return a number without trailing zeros."""
    return number.normalize() + Decimal(0)


def _show(call: Explained, reasons: list[str], settings: Settings) -> None:
    row = call.row
    cost = "no price" if row["cost_usd"] is None else exact_dollars(row["cost_usd"])
    model = row["model_served"] or row["model_requested"]
    out.print(f"{cost}: {row['provider']} {model}, {_at(row['occurred_at'])}", markup=False)
    for line in _about(row):
        out.print(line, markup=False)
    if call.charges:
        out.print()
        total = ("total", "", "", "", "", "", "", None if row["cost_usd"] is None else _plain(row["cost_usd"]))
        rows = [*(_cells(charge, call.card) for charge in call.charges), total]
        used = [at for at in range(len(_COLUMNS)) if any(cells[at] != "" for cells in rows)]
        out.print(table([_COLUMNS[at] for at in used], [[cells[at] for at in used] for cells in rows]))
        out.print()
    for line in (*reasons, *_sources(call), *_accuracy(call), *_counterfactuals(row)):
        out.print(line, markup=False)
    position = f"{settings.topic(topics.USAGE)}, partition {row['source_partition']}, offset {row['source_offset']}"
    out.print(
        f"metered from {position} ({row['source_log']}), {row['lateness']}, {_at(row['priced_at'])}", markup=False
    )
    for problem in call.problems:
        err.print(f"DIFFERS: {problem}", style="bold red", markup=False)


def _cells(charge: Charge, card: RateCardRecord | None) -> tuple[Any, ...]:
    """Return a charge as the table shows it, in the order of ``_COLUMNS``."""
    rate = charge.rate
    cost = None if charge.cost_usd is None else _plain(charge.cost_usd)
    quantity = f"{_plain(charge.quantity):,f}"
    if rate is None:  # where a GPU's time is billed, it pays for everything else
        known = "–" if card is None or card.usd_per_gpu_hour is not None else "no rate"
        return charge.item, quantity, known, "", "", "", "", cost
    if charge.quantity < rate.minimum:
        quantity += f" (billed as {rate.minimum:,})"
    factor = "" if rate.multiplier == 1 else f"× {_plain(rate.multiplier):f}"
    priced_as = "" if rate.priced_as == charge.item else rate.priced_as
    per = "each" if rate.per == 1 else f"{rate.per:,} {rate.unit}"
    return charge.item, quantity, _plain(rate.usd), per, factor, _step(rate), priced_as, cost


def _step(rate: Rate) -> str:
    """Return for which sizes of input a rate is; "" if for all."""
    above = f"above {rate.above_input_tokens:,}" if rate.above_input_tokens else ""
    up_to = "" if rate.up_to_input_tokens is None else f"up to {rate.up_to_input_tokens:,}"
    return " ".join(filter(None, (above, up_to)))


def _about(row: Any) -> Iterator[str]:
    """Yield whose call it was, and what else decided on its price."""
    whose = [f"{name} {row[name]}" for name in ("service", "team", "feature", "customer") if row[name]]
    yield f"event {row['event_id']}: {', '.join(whose)}"
    asked = row["model_requested"] if row["model_requested"] not in ("", row["model_served"]) else ""
    facts = {"model asked for": asked, "tier": row["service_tier"]}
    facts |= {name: row[name] for name in ("region", "inference_geo", "deployment")}
    facts |= {"capacity": row["capacity"] if row["capacity"] != "on_demand" else ""}
    facts |= {"status": row["status"] if row["status"] != "ok" else ""}
    yield ", ".join(f"{name} {value}" for name, value in facts.items() if value)


def _sources(call: Explained) -> Iterator[str]:
    """Yield where the rates are from."""
    card, row = call.card, call.row
    if card is None:
        if row["rate_source"]:
            yield f"rates from {row['rate_source']}"
        return
    whose = f"{card.provider} {card.model}" + (f" on {card.deployment}" if card.deployment else "")
    since = "without a date" if card.valid_from is None else f"valid from {card.valid_from:%Y-%m-%d}"
    yield f"rates from {card.source}, card {card.rate_card_id}: {whose}, {card.service_tier} tier, {since}"
    if card.reference:
        yield f"source: {card.reference}"
    for multiplier in card.multipliers:
        source = f" ({multiplier.reference})" if multiplier.reference else ""
        yield f"the rates contain × {multiplier.factor:f}: {multiplier.reason}{source}"
    if call.recomputed_usd is not None and not call.problems:
        yield "computed again from the card: the same, to the last digit"


def _accuracy(call: Explained) -> Iterator[str]:
    """Yield how far the amount can be trusted, and what the provider itself says."""
    row = call.row
    if row["price_quality"]:
        yield "price: " + ", ".join(filter(None, (row["price_quality"], row["price_notes"])))
    yield "usage: " + ", ".join(filter(None, (row["usage_quality"], row["usage_notes"])))
    if call.provider_usage:
        yield "the provider counted " + ", ".join(f"{name} {count}" for name, count in call.provider_usage.items())
    if row["provider_cost"] is not None:
        currency = row["currency"] or "USD"
        difference = ""
        if row["cost_usd"] is not None and currency == "USD":
            difference = f", ours less theirs: {exact_dollars(row['cost_usd'] - row['provider_cost'])}"
        yield f"the provider states {_plain(row['provider_cost']):f} {currency}{difference}"


def _counterfactuals(row: Any) -> Iterator[str]:
    """Yield what the call would have cost otherwise, where that differs."""
    other = {"without a cache": _COSTS[1], "at the standard tier": _COSTS[2], "with the model asked for": _COSTS[3]}
    found = [f"{exact_dollars(row[name])} {what}" for what, name in other.items() if row[name] != row["cost_usd"]]
    if found:
        yield "it would have cost " + ", ".join(found)


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
