"""``spendstream publish``: publishes a file of usage to Kafka."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
from spendstream.intake import Line, RowError
from spendstream.publish import PublishSettings, Summary, validate_all
from spendstream.publish import publish as publish_rows
from spendstream.schemas import topics


def publish(
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the rows without publishing any.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as a JSON object.")] = False,
) -> None:
    """Publish usage events from JSON lines, or from JSON or CSV of any shape with a mapping.

    Exit status: 0 if every row is published; 1 if some are invalid (the others are published); 2 for wrong usage.
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
    errors = RowErrors()
    rows = intake.lines()
    with _progress(intake) as on_progress:
        if dry_run:
            summary = _check(rows, errors, on_progress)
        else:
            settings = load_settings()
            target = PublishSettings(settings.topic(topics.USAGE), settings.kafka_client())
            summary = asyncio.run(publish_rows(rows, target, on_error=errors, on_progress=on_progress))
    errors.close()
    intake.report_left()
    _report(summary, intake.left.skipped, dry_run=dry_run, as_json=as_json)
    if summary.invalid:
        raise typer.Exit(INVALID_EXIT)


def _check(rows: Iterator[Line | RowError], errors: RowErrors, on_progress: Callable[[int], None]) -> Summary:
    started = time.monotonic()
    valid = 0
    for number, row in enumerate(validate_all(rows), start=1):
        if isinstance(row, RowError):
            errors(row)
        else:
            valid += 1
        if number % 1000 == 0:
            on_progress(number)
    return Summary(valid, errors.count, time.monotonic() - started)


@contextmanager
def _progress(intake: Intake) -> Iterator[Callable[[int], None]]:
    """Show progress on a terminal. For standard input the size is unknown, and only rows are counted."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns: list[Any] = [TextColumn("{task.fields[rows]:,} rows"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=intake.size_bytes, rows=0)
        yield lambda rows: bar.update(task, completed=intake.bytes_read, rows=rows)


def _report(summary: Summary, skipped: int, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        count = {"valid": summary.published, "published": 0} if dry_run else {"published": summary.published}
        typer.echo(
            json.dumps(
                {
                    **count,
                    "invalid": summary.invalid,
                    "skipped": skipped,
                    "seconds": round(summary.seconds, 3),
                    "dry_run": dry_run,
                }
            )
        )
        return
    done = "valid, none published (dry run)" if dry_run else "published"
    speed = f", {summary.published / summary.seconds:,.0f}/s" if summary.seconds >= 0.1 and not dry_run else ""
    typer.echo(f"{summary.published:,} {done}, {summary.invalid:,} invalid, {summary.seconds:.1f} s{speed}")
