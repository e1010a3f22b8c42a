"""``spendstream reconcile``: compares Kafka, ledger, rollups and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from spendstream.cli.console import echo_json, err, out, table, utc_time
from spendstream.cli.environment import load_settings
from spendstream.reconcile import Report
from spendstream.reconcile import reconcile as run
from spendstream.reconcile.compare import Range
from spendstream.reconcile.refill import refill as fill_ledger
from spendstream.reconcile.repair import Change
from spendstream.schemas.rollup import DIMENSIONS

NOT_OK_EXIT = 1


def reconcile(
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=utc_time, metavar="TIME", help="Start of event time, UTC."),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", parser=utc_time, metavar="TIME", help="End of event time, UTC, exclusive."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild rollups that differ from the ledger.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what --repair would do; write nothing.")] = False,
    trust_ledger: Annotated[
        bool, typer.Option("--trust-ledger", help="Lower rollups even where the ledger lacks calls that were counted.")
    ] = False,
    refill: Annotated[
        bool, typer.Option("--refill", help="First write the priced calls that Kafka holds into the ledger again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per hour, then one verdict.")] = False,
) -> None:
    """Compare what Kafka holds, the meter counted and ClickHouse stores, in whole hours of event time.

    Run `spendstream drain` first: records still on their way show up as differences. Exit status: 0 if everything is
    equal, 1 if not.

    A repair keeps the totals that it replaces in the table repairs. It lowers none while the ledger itself lacks calls
    that the meter counted: fill the ledger with --refill first.
    """
    if start is not None and end is not None and end <= start:
        raise typer.BadParameter("--to must be later than --from")
    if (dry_run or trust_ledger) and not repair:
        raise typer.BadParameter("--dry-run and --trust-ledger are for --repair: add it")
    settings, within = load_settings(), Range.of(start, end)
    if refill:
        count = asyncio.run(fill_ledger(settings, within, lambda calls: err.print(f"{calls:,} calls written")))
        err.print(f"The ledger was given {count:,} priced calls; those that it had are as they were.")
    report = asyncio.run(run(settings, within, repair=repair, trust_ledger=trust_ledger, dry_run=dry_run))
    if as_json:
        for hour in report.hours:
            echo_json(hour.record())
        echo_json(report.summary())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(NOT_OK_EXIT)


def _changes(changes: Sequence[Change]) -> Any:
    """Return a table of the totals that a repair replaced, or would replace."""
    return table(
        ("minute (UTC)", "dimensions", "calls", "calls after", "USD", "USD after"),
        [
            (
                f"{change.after['minute']:%Y-%m-%d %H:%M}",
                " ".join(f"{name}={change.after[name]}" for name in DIMENSIONS if change.after[name]),
                0 if change.before is None else change.before["calls"],
                change.after["calls"],
                0 if change.before is None else change.before["cost_usd"],
                change.after["cost_usd"],
            )
            for change in changes
        ],
    )


def _show(report: Report) -> None:
    out.print(
        table(
            ("hour (UTC)", "status", "ledger calls", "rollup calls", "ledger USD", "rollup USD", "dead letters"),
            [
                (
                    f"{hour.at:%Y-%m-%d %H:%M}",
                    hour.status if not hour.differing_minutes else f"{hour.status}: {hour.differing_minutes} min",
                    hour.ledger.calls,
                    hour.rollups.calls,
                    hour.ledger.cost_usd,
                    hour.rollups.cost_usd,
                    hour.dead_letters,
                )
                for hour in report.hours
            ],
        )
    )
    if report.changes:
        out.print(_changes(report.changes))
    for line in (*report.problems, *report.notes):
        err.print(line)
    if report.repaired_rows:
        out.print(f"Repaired {report.repaired_minutes} minutes with {report.repaired_rows} rows.")
    if not report.is_drained:
        err.print("Not drained: records are still on their way. Run `spendstream drain`, then compare again.")
    if report.ok:
        out.print("All equal.")
    elif report.differing_hours:
        out.print(f"{len(report.differing_hours)} hours differ.")
