"""The demo's account at its end: what was published against what was metered, the ledger against the rollups."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from spendstream.core.money import exact_dollars
from spendstream.demo.publisher import PublisherStatus
from spendstream.reconcile.positions import read_markers
from spendstream.schemas.progress import Counters
from spendstream.settings import Settings


@dataclass(frozen=True)
class Totals:
    """What ClickHouse holds. Amounts are USD."""

    ledger_calls: int = 0
    ledger_usd: Decimal = Decimal(0)
    rollup_calls: int = 0
    rollup_usd: Decimal = Decimal(0)
    dead_letters: int = 0


@dataclass(frozen=True)
class Equation:
    """One line of the account: its text, and whether it holds."""

    text: str
    holds: bool


def read_totals(client: Any) -> Totals:
    """Ask ClickHouse. ``client``: one whose default database is the meter's. Raises the client's errors."""
    ledger_calls, ledger_usd = client.query("SELECT count(), sum(cost_usd) FROM calls_v").result_rows[0]
    rollup_calls, rollup_usd = client.query("SELECT sum(calls), sum(cost_usd) FROM spend_1m").result_rows[0]
    dead_letters = client.query("SELECT count() FROM dead_letters_v").result_rows[0][0]
    return Totals(
        int(ledger_calls), ledger_usd or Decimal(0), int(rollup_calls), rollup_usd or Decimal(0), int(dead_letters)
    )


async def read_counters(settings: Settings) -> Counters:
    """Return what became of every record, from the newest marker of each partition.

    Raises: TimeoutError, when the broker does not send what it has.
    """
    markers = (await read_markers(settings)).values()
    return Counters(**{name: sum(getattr(each.counters, name) for each in markers) for name in Counters.model_fields})


def account(published: PublisherStatus, counters: Counters, before: Totals, after: Totals) -> list[Equation]:
    """Return the equations that hold if nothing was lost and nothing was counted twice.

    ``before``: what ClickHouse held when the demo began: rows of earlier runs.
    """
    metered, duplicates, dead = counters.metered, counters.duplicates, counters.dead_letters
    rolled_up = after.rollup_calls - before.rollup_calls
    rows, letters = after.ledger_calls - before.ledger_calls, after.dead_letters - before.dead_letters
    return [
        Equation(
            f"published {published.published:,} = metered {metered:,} + duplicates {duplicates:,} "
            f"+ dead letters {dead:,}",
            published.published == metered + duplicates + dead,
        ),
        Equation(
            f"as the services sent them: {published.events:,} events, {published.duplicates:,} duplicates, "
            f"{published.malformed:,} malformed",
            (published.events, published.duplicates, published.malformed) == (metered, duplicates, dead),
        ),
        Equation(
            f"ledger {exact_dollars(after.ledger_usd)} = rollups {exact_dollars(after.rollup_usd)}",
            after.ledger_usd == after.rollup_usd,
        ),
        Equation(
            f"in ClickHouse: {rows:,} calls in the ledger, {rolled_up:,} in the rollups, {letters:,} dead letters",
            rows == metered == rolled_up and letters == dead,
        ),
    ]
