"""``spendstream reconcile``: compares Kafka, ledger, rollups and dead letters."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import typer

from spendstream.cli.console import echo_json, err, out, table, utc_time
from spendstream.cli.environment import load_settings
from spendstream.reconcile import Report
from spendstream.reconcile import reconcile as run
from spendstream.reconcile.compare import Range

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
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per hour, then one verdict.")] = False,
) -> None:
    """Compare what Kafka holds, the meter counted and ClickHouse stores, in whole hours of event time.

    Run `spendstream drain` first: records still on their way show up as differences. Exit status: 0 if everything is
    equal, 1 if not.
    """
    if start is not None and end is not None and end <= start:
        raise typer.BadParameter("--to must be later than --from")
    report = asyncio.run(run(load_settings(), Range.of(start, end), repair=repair))
    if as_json:
        for hour in report.hours:
            echo_json(hour.record())
        echo_json(report.summary())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(NOT_OK_EXIT)


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
