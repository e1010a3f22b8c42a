"""``spendstream price``: prints what a file of usage costs, without a broker."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from spendstream.cli.console import out, refuse
from spendstream.cli.environment import load_settings
from spendstream.cli.intake_options import (
    INVALID_EXIT,
    AssumeUtcOption,
    DelimiterOption,
    EachOption,
    FilesArgument,
    FormatOption,
    Intake,
    MapOption,
    NamespaceOption,
    RowErrors,
    SetOption,
    SkipOption,
    TimeBaseOption,
    TimeFormatOption,
    ValueOption,
)
from spendstream.core.money import exact_dollars, usd_text
from spendstream.core.pricing import BookUnreadable, PriceBook, RateCardError
from spendstream.intake import RowError
from spendstream.quote import Totals, quote_rows
from spendstream.schemas.buckets import COST_BUCKETS

RatesOption = Annotated[
    list[Path] | None, typer.Option("--rates", metavar="FILE", help="Rate cards to use besides those of RATE_CARDS.")
]


def price(
    files: FilesArgument,
    file_format: FormatOption = None,
    maps: MapOption = None,
    sets: SetOption = None,
    values: ValueOption = None,
    skips: SkipOption = None,
    each: EachOption = "",
    id_namespace: NamespaceOption = None,
    time_format: TimeFormatOption = "iso",
    time_base: TimeBaseOption = None,
    delimiter: DelimiterOption = None,
    assume_utc: AssumeUtcOption = True,
    rates: RatesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per call, one per line.")] = False,
) -> None:
    """Price usage events: a summary table, or each call with its file and line with --json. Needs no broker.

    Exit status: 0 if every row is valid, with a price or without (`rates coverage` has 1 for calls without); 1 if some
    rows are not valid (the others are priced); 2 for wrong usage.
    """
    intake = Intake(
        files,
        file_format,
        maps,
        sets,
        values,
        skips,
        each,
        id_namespace,
        time_format,
        time_base,
        delimiter,
        assume_utc,
    )
    book = load_book(rates)
    errors, totals = RowErrors(), Totals()
    for quote in quote_rows(intake.rows(), book):
        if isinstance(quote, RowError):
            errors(quote)
        elif as_json:
            sys.stdout.write(json.dumps(quote.record(), ensure_ascii=False) + "\n")
        else:
            totals.add(quote)
    errors.close()
    intake.report_left()
    if not as_json:
        _show(totals)
    if errors.count:
        raise typer.Exit(INVALID_EXIT)


def load_book(rates: list[Path] | None) -> PriceBook:
    """Return the price book with the cards of RATE_CARDS and these. Exits with status 2 if one is invalid."""
    settings = load_settings()
    try:
        return PriceBook.load((*settings.rate_card_paths, *(rates or ())), settings.rate_books)
    except (RateCardError, BookUnreadable) as error:
        refuse(str(error))


def _show(totals: Totals) -> None:
    table = Table(show_footer=True)
    table.add_column("provider", "total", overflow="fold")
    table.add_column("model", overflow="fold")
    table.add_column("rates", overflow="fold")
    table.add_column("calls", f"{totals.calls:,}", justify="right", overflow="fold")
    table.add_column("unpriced", f"{totals.unpriced_calls:,}", justify="right", overflow="fold")
    table.add_column("tokens", f"{sum(totals.tokens_by_bucket.values()):,}", justify="right", overflow="fold")
    table.add_column("cost", _usd(totals.cost_pusd), justify="right", overflow="fold")
    for (provider, model), total in sorted(totals.models.items(), key=lambda item: -item[1].cost_pusd):
        shown = _usd(total.cost_pusd) if total.calls > total.unpriced_calls else "no price"
        unpriced = f"{total.unpriced_calls:,}" if total.unpriced_calls else ""
        sources = ", ".join(sorted(total.sources))
        table.add_row(provider, model, sources, f"{total.calls:,}", unpriced, f"{total.tokens:,}", shown)
    out.print(table)
    if totals.pusd_by_bucket:
        buckets = Table("bucket")
        buckets.add_column("tokens", justify="right", overflow="fold")
        buckets.add_column("cost", justify="right", overflow="fold")
        for bucket in COST_BUCKETS:
            tokens, cost = totals.tokens_by_bucket[bucket], totals.pusd_by_bucket[bucket]
            if tokens or cost:
                buckets.add_row(bucket, f"{tokens:,}" if tokens else "", _usd(cost))
        for unit, cost in sorted(totals.pusd_by_unit.items()):
            buckets.add_row(f"  {unit}", "", _usd(cost))
        out.print(buckets)
    if totals.inexact_calls:
        inexact = Table("quality", "calls", "why", title="Priced, but not exactly")
        for (quality, notes), calls in totals.inexact_calls.most_common():
            inexact.add_row(quality, f"{calls:,}", "; ".join(notes))
        out.print(inexact)
    if totals.saved_by_cache_pusd:
        out.print(f"Without a cache: {_usd(totals.cost_pusd + totals.saved_by_cache_pusd)}")
    if totals.unpriced_calls:
        out.print(
            f"{totals.unpriced_calls:,} calls have no price and are not in the total: see `spendstream rates coverage`"
        )


def _usd(pusd: int) -> str:
    return exact_dollars(Decimal(usd_text(pusd)))
