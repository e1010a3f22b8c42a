"""`spendstream backtest`: what the watches would have told, over a CSV series or over history."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from spendstream.backtest import Backtest, BacktestError, Feed, Summary
from spendstream.backtest.series import Meaning
from spendstream.cli.console import echo_json, err, out, refuse, table
from spendstream.cli.intake_options import INVALID_EXIT, RowErrors, TimeFormatOption
from spendstream.core.detect.describe import amount
from spendstream.core.timestamps import MINUTE_US, US, epoch_us, from_epoch_us
from spendstream.schemas.alert import Alert
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.watch import AnomalyRule, Watches, duration_s
from spendstream.watches import default_watches, explain_duration, read_watches


class Quantity(StrEnum):
    """What the value column counts."""

    COST = "cost"
    CALLS = "calls"
    TOKENS = "tokens"


class RowMeaning(StrEnum):
    """What a row of the CSV stands for."""

    CALLS = "calls"
    TOTALS = "totals"


_CSV: Final = "A CSV series"
_HISTORY: Final = "History in ClickHouse"

WatchesOption = Annotated[Path | None, typer.Option("--watches", help="A watches file. Default: the built-in watches.")]
WatchOption = Annotated[list[str] | None, typer.Option("--watch", metavar="NAME", help="This watch alone; repeat it.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="A table with a header line.", rich_help_panel=_CSV)]
TimeOption = Annotated[str | None, typer.Option("--time", metavar="COLUMN", rich_help_panel=_CSV)]
ValueOption = Annotated[
    str | None, typer.Option("--value", metavar="COLUMN", help="USD, or see --measure.", rich_help_panel=_CSV)
]
GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="[DIMENSION=]COLUMN", help="A column that group_by and scope see.", rich_help_panel=_CSV
    ),
]
CallsOption = Annotated[
    str | None, typer.Option("--calls", metavar="COLUMN", help="How many calls a total is of.", rich_help_panel=_CSV)
]
MeasureOption = Annotated[Quantity, typer.Option("--measure", help="What the values count.", rich_help_panel=_CSV)]
RowsOption = Annotated[
    RowMeaning | None,
    typer.Option("--rows", help="Each row is a call, or a step's total. Default: found out.", rich_help_panel=_CSV),
]
StepOption = Annotated[
    str | None,
    typer.Option(
        "--step", metavar="DURATION", help="From one total to the next. Default: found out.", rich_help_panel=_CSV
    ),
]
TzOption = Annotated[str, typer.Option("--tz", metavar="ZONE", help="Of times that are written without one.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="As 2026-01-31T12:00Z.", rich_help_panel=_HISTORY)
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Exclusive.", rich_help_panel=_HISTORY)]
DelimiterOption = Annotated[str, typer.Option("--delimiter", help="Of the CSV.", rich_help_panel=_CSV)]
JsonOption = Annotated[bool, typer.Option("--json", help="Every transition as a JSON object in a line.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="A picture of series, band and alerts.")
]
ProgressOption = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Default: where stderr is a terminal.")
]


def backtest(
    watches: WatchesOption = None,
    watch: WatchOption = None,
    csv: CsvOption = None,
    time: TimeOption = None,
    value: ValueOption = None,
    group: GroupOption = None,
    calls: CallsOption = None,
    measure: MeasureOption = Quantity.COST,
    rows: RowsOption = None,
    step: StepOption = None,
    time_format: TimeFormatOption = "iso",
    delimiter: DelimiterOption = ",",
    since: FromOption = None,
    until: ToOption = None,
    tz: TzOption = "UTC",
    as_json: JsonOption = False,
    plot: PlotOption = None,
    progress: ProgressOption = None,
) -> None:
    """What your watches would have told: the detector's own code, over a CSV series or over history.

    A step of a CSV that is coarser than a minute passes as a minute for anomaly rules; budgets and thresholds stay in
    real time. Exit status: 0 done; 1 rows could not be read, or the input can't be used; 2 wrong usage.
    """
    errors = RowErrors()
    zone = _zone(tz)
    with ExitStack() as opened:
        if csv is not None:
            if time is None or value is None or since is not None or until is not None:
                refuse("--csv wants --time and --value, and neither --from nor --to")
            groups = _groups(group or [])
            chosen = _chosen(_load(watches, None, tuple(groups)), watch)
            feed = _csv_feed(csv, time, value, groups, calls, measure, rows, step, time_format, zone, delimiter, errors)
            origin = csv.name
        else:
            if since is None or until is None:
                refuse("give a series, --csv FILE --time COLUMN --value COLUMN, or a span of history, --from and --to")
            feed, chosen = _history(opened, watches, watch, _moment(since, zone), _moment(until, zone))
            origin = "history"
        errors.close()
        run = Backtest(feed, chosen)
        _remark(run)
        _run(run, origin, as_json=as_json, plot=plot, progress=progress)
    if errors.count:
        err.print(f"{errors.count:,} rows could not be read and are left out")
        raise typer.Exit(INVALID_EXIT)


def _csv_feed(
    path: Path,
    time: str,
    value: str,
    groups: dict[str, str],
    calls: str | None,
    measure: Quantity,
    rows: RowMeaning | None,
    step: str | None,
    time_format: str,
    zone: Any,
    delimiter: str,
    errors: RowErrors,
) -> Feed:
    from spendstream.backtest.rows import Columns, read_rows
    from spendstream.backtest.series import SeriesFeed

    if len(delimiter) != 1:
        refuse(f"A delimiter is one character, not {delimiter!r}")
    columns = Columns(time, value, groups, calls, measure.value, time_format, zone, delimiter)
    meaning: Meaning | None = None if rows is None else rows.value
    step_s = None if step is None else _duration(step)
    read = read_rows(path, columns, errors)
    return SeriesFeed(read, tuple(groups), quantity=measure.value, step_s=step_s, meaning=meaning)


def _history(
    opened: ExitStack, path: Path | None, names: list[str] | None, start_us: int, end_us: int
) -> tuple[Feed, Watches]:
    from spendstream.backtest.history import HistoryFeed
    from spendstream.cli.environment import load_settings
    from spendstream.clickhouse.client import clickhouse_settings, open_client

    settings = load_settings()
    dimensions = settings.meter_dimensions
    chosen = _chosen(_load(path, dimensions, dimensions), names)
    client = opened.enter_context(open_client(clickhouse_settings(settings)))
    return HistoryFeed(client, settings.clickhouse_database, dimensions, start_us, end_us), chosen


def _load(path: Path | None, checked: tuple[str, ...] | None, dimensions: tuple[str, ...]) -> Watches:
    return default_watches(dimensions) if path is None else read_watches(path, checked)


def _chosen(watches: Watches, names: list[str] | None) -> Watches:
    if not names:
        return watches
    known = [watch.name for watch in watches.watches]
    for name in names:
        if name not in known:
            raise BacktestError(f"no watch is called {name}; there are {', '.join(known)}")
    return watches.model_copy(update={"watches": tuple(w for w in watches.watches if w.name in names)})


def _groups(pairs: list[str]) -> dict[str, str]:
    """Return dimension to column."""
    groups = {}
    for pair in pairs:
        dimension, _, column = pair.rpartition("=")
        dimension = dimension or column
        if dimension not in DIMENSIONS:
            refuse(f"{dimension} is no dimension: name one, as --group feature={column}; {', '.join(DIMENSIONS)}")
        groups[dimension] = column
    return groups


def _zone(name: str) -> Any:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        refuse(f"{name} is no time zone: write a name such as Europe/Berlin")


def _moment(text: str, zone: Any) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{text} is no time such as 2026-01-31T12:00Z")
    return epoch_us(at if at.tzinfo is not None else at.replace(tzinfo=zone))


def _duration(text: str) -> int:
    try:
        return duration_s(text)
    except ValueError as error:
        refuse(f"--step {text}: {error}")


def _remark(run: Backtest) -> None:
    """Say on stderr what the result must be read with."""
    for watch in run.skipped:
        err.print(f"not judged: {watch.name}, the series doesn't tell its measure", markup=False, soft_wrap=True)
    for watch in run.watches.watches:
        missing = [name for name in {**dict.fromkeys(watch.group_by), **watch.scope} if name not in run.feed.dimensions]
        if missing:
            err.print(
                f"{watch.name}: the series has no {', '.join(missing)}; empty in every row",
                markup=False,
                soft_wrap=True,
            )
    anomalies = any(isinstance(watch.rule, AnomalyRule) for watch in run.watches.watches)
    if run.feed.step_us != MINUTE_US and anomalies:
        step = explain_duration(run.feed.step_us // US)
        err.print(
            f"steps of {step}: anomaly rules take one for a minute, in durations too; values are per minute",
            soft_wrap=True,
        )


def _run(run: Backtest, origin: str, *, as_json: bool, plot: Path | None, progress: bool | None) -> None:
    from spendstream.backtest.record import Sizes

    sizes = Sizes(run.watches, run.feed.dimensions)
    kept: list[Alert] = []
    with _progress(run.feed, progress, "judging") as on_progress:
        for alert in run.run([sizes] if plot is not None else [], on_progress):
            if as_json:
                echo_json(record(alert))
            if alert.transition != "updated":
                kept.append(alert)
    if not as_json:
        _show(kept)
    (err if as_json else out).print(_words(run.summary), markup=False, soft_wrap=True)
    if plot is not None:
        _plot(run, sizes.largest, kept, plot, origin, progress)


def _plot(run: Backtest, largest: Any, kept: list[Alert], path: Path, origin: str, progress: bool | None) -> None:
    """Draw the chosen groups: a second run records them, so that memory doesn't grow with all the others."""
    from spendstream.backtest.picture import MOST_PANELS, draw
    from spendstream.backtest.record import Recorder

    recorder = Recorder(largest(kept, MOST_PANELS), run.watches, run.feed.dimensions)
    with _progress(run.feed, progress, "drawing") as on_progress:
        for _ in run.run([recorder], on_progress, explains=False):
            pass
    first, last = from_epoch_us(run.feed.start_us), from_epoch_us(run.feed.end_us)
    shown = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    draw(path, list(recorder.charts.values()), kept, f"Backtest of {origin}, {shown}")
    err.print(f"drawn: {path}", markup=False, soft_wrap=True)


def record(alert: Alert) -> dict[str, Any]:
    """Return a transition as ``--json`` prints it. Figures are in ``unit``."""
    return {
        "timestamp": alert.at,
        "watch": alert.watch,
        "group": alert.group,
        "facet": alert.facet,
        "state": alert.state,
        "transition": alert.transition,
        "severity": alert.severity,
        "observed": _finite(alert.observed),
        "expected": _finite(alert.expected),
        "limit": _finite(alert.limit),
        "score": _finite(alert.score),
        "unit": alert.unit,
        "started_at": alert.started_at,
        "ends_at": alert.ends_at,
        "title": alert.title,
        "reason": _reason(alert),
        "alert_id": str(alert.alert_id),
    }


def _show(alerts: list[Alert]) -> None:
    """Print the alerts that fired, and their ends."""
    fired = {alert.alert_id for alert in alerts if alert.transition == "firing"}
    columns = ("time (UTC)", "state", "watch", "facet", "observed", "expected", "score", "what", "why")
    rows = [
        (
            f"{alert.at:%Y-%m-%d %H:%M:%S}",
            alert.state,
            alert.watch,
            alert.facet,
            amount(alert.observed, alert.unit),
            None if alert.expected is None else amount(alert.expected, "USD/min" if alert.unit == "" else alert.unit),
            None if _finite(alert.score) is None else round(alert.score or 0.0, 1),
            alert.title,
            _reason(alert),
        )
        for alert in alerts
        if alert.alert_id in fired and alert.transition != "pending"
    ]
    if rows:
        out.print(table(columns, rows))


def _words(summary: Summary) -> str:
    watches = ", ".join(
        f"{name} {summary.alerts[name]} in {groups:,} groups" for name, groups in sorted(summary.groups.items())
    )
    fired = sum(summary.alerts.values())
    still = f", {summary.still_firing} of them still firing" if summary.still_firing else ""
    return f"{fired:,} alerts in {summary.minutes:,} minutes{still}: {watches}"


def _reason(alert: Alert) -> str:
    return "" if alert.attribution is None else alert.attribution.reason


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def _progress(feed: Feed, wanted: bool | None, verb: str) -> Iterator[Callable[[int], None]]:
    """Show how far it is, on stderr."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn(verb), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=feed.end_us - feed.start_us)
        yield lambda at_us: bar.update(task, completed=at_us - feed.start_us)
