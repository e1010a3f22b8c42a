"""`spendstream backtest`: the alerts that watches would have sent, over a CSV or over history."""

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

from spendstream.backtest import Backtest, BacktestError, Series
from spendstream.backtest.series import RowKind
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


class Rows(StrEnum):
    """What a row of the CSV stands for."""

    CALLS = "calls"
    TOTALS = "totals"


_CSV: Final = "A CSV file"
_HISTORY: Final = "History in ClickHouse"

WatchesOption = Annotated[Path | None, typer.Option("--watches", help="A watches file. Default: the built-in watches.")]
WatchOption = Annotated[list[str] | None, typer.Option("--watch", metavar="NAME", help="Only this watch; repeatable.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="A CSV file with a header line.", rich_help_panel=_CSV)]
TimeOption = Annotated[
    str | None, typer.Option("--time", metavar="COLUMN", help="The time of a row.", rich_help_panel=_CSV)
]
ValueOption = Annotated[
    str | None,
    typer.Option("--value", metavar="COLUMN", help="The amount in USD; see --measure.", rich_help_panel=_CSV),
]
GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="[DIMENSION=]COLUMN",
        help="A dimension for group_by and scope; repeatable.",
        rich_help_panel=_CSV,
    ),
]
CallsOption = Annotated[
    str | None, typer.Option("--calls", metavar="COLUMN", help="The number of calls in a total.", rich_help_panel=_CSV)
]
MeasureOption = Annotated[Quantity, typer.Option("--measure", help="What the amounts are.", rich_help_panel=_CSV)]
RowsOption = Annotated[
    Rows | None,
    typer.Option("--rows", help="What a row is. Default: detected.", rich_help_panel=_CSV),
]
StepOption = Annotated[
    str | None,
    typer.Option("--step", metavar="DURATION", help="Time between totals. Default: detected.", rich_help_panel=_CSV),
]
TzOption = Annotated[str, typer.Option("--tz", metavar="ZONE", help="The time zone of times that have none.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Start, e.g. 2026-01-31T12:00Z.", rich_help_panel=_HISTORY)
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End, exclusive.", rich_help_panel=_HISTORY)]
DelimiterOption = Annotated[str, typer.Option("--delimiter", help="The CSV's delimiter.", rich_help_panel=_CSV)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print every transition as JSON, one object a line.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw series, band and alerts.")]
ProgressOption = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Default: only if stderr is a terminal.")
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
    """Alerts your watches would have sent, over a CSV or over history, found by the detector's own code.

    If the CSV has steps of more than a minute, anomaly rules treat a step as a minute; budgets and thresholds stay in
    real time. Exit status: 0 done; 1 some rows could not be read, or the input is invalid; 2 wrong usage.
    """
    errors = RowErrors()
    zone = _zone(tz)
    with ExitStack() as opened:
        if csv is not None:
            if time is None or value is None or since is not None or until is not None:
                refuse("--csv needs --time and --value, and excludes --from and --to")
            groups = _groups(group or [])
            chosen = _chosen(_load(watches, None, tuple(groups)), watch)
            series = _csv_series(
                csv, time, value, groups, calls, measure, rows, step, time_format, zone, delimiter, errors
            )
            origin = csv.name
        else:
            if since is None or until is None:
                refuse("give --csv FILE --time COLUMN --value COLUMN, or a span of history with --from and --to")
            series, chosen = _history(opened, watches, watch, _moment(since, zone), _moment(until, zone))
            origin = "history"
        errors.close()
        run = Backtest(series, chosen)
        _print_limits(run)
        _run(run, origin, as_json=as_json, plot=plot, progress=progress)
    if errors.count:
        err.print(f"skipped {errors.count:,} rows that could not be read")
        raise typer.Exit(INVALID_EXIT)


def _csv_series(
    path: Path,
    time: str,
    value: str,
    groups: dict[str, str],
    calls: str | None,
    measure: Quantity,
    rows: Rows | None,
    step: str | None,
    time_format: str,
    zone: Any,
    delimiter: str,
    errors: RowErrors,
) -> Series:
    from spendstream.backtest.series import Columns, CsvSeries, read_rows

    if len(delimiter) != 1:
        refuse(f"--delimiter {delimiter!r}: expected one character")
    columns = Columns(time, value, groups, calls, measure.value, time_format, zone, delimiter)
    row_kind: RowKind | None = None if rows is None else rows.value
    try:
        step_s = None if step is None else duration_s(step)
    except ValueError as error:
        refuse(f"--step {step}: {error}")
    read = read_rows(path, columns, errors)
    return CsvSeries(read, tuple(groups), quantity=measure.value, step_s=step_s, row_kind=row_kind)


def _history(
    opened: ExitStack, path: Path | None, names: list[str] | None, start_us: int, end_us: int
) -> tuple[Series, Watches]:
    from spendstream.backtest.history import HistorySeries
    from spendstream.cli.environment import load_settings
    from spendstream.clickhouse.client import clickhouse_settings, open_client

    settings = load_settings()
    dimensions = settings.meter_dimensions
    chosen = _chosen(_load(path, dimensions, dimensions), names)
    client = opened.enter_context(open_client(clickhouse_settings(settings)))
    return HistorySeries(client, settings.clickhouse_database, dimensions, start_us, end_us), chosen


def _load(path: Path | None, checked: tuple[str, ...] | None, dimensions: tuple[str, ...]) -> Watches:
    return default_watches(dimensions) if path is None else read_watches(path, checked)


def _chosen(watches: Watches, names: list[str] | None) -> Watches:
    if not names:
        return watches
    known = [watch.name for watch in watches.watches]
    for name in names:
        if name not in known:
            raise BacktestError(f"no watch {name}: expected one of {', '.join(known)}")
    return watches.model_copy(update={"watches": tuple(w for w in watches.watches if w.name in names)})


def _groups(pairs: list[str]) -> dict[str, str]:
    """Return dimension to column."""
    groups = {}
    for pair in pairs:
        dimension, _, column = pair.rpartition("=")
        dimension = dimension or column
        if dimension not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            refuse(f"--group {pair}: {dimension} is not a dimension; write e.g. feature={column}, with one of {known}")
        groups[dimension] = column
    return groups


def _zone(name: str) -> Any:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        refuse(f"--tz {name}: unknown time zone; expected e.g. Europe/Berlin")


def _moment(text: str, zone: Any) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{text} is not a valid time; expected e.g. 2026-01-31T12:00Z")
    return epoch_us(at if at.tzinfo is not None else at.replace(tzinfo=zone))


def _print_limits(run: Backtest) -> None:
    """Print on stderr what limits the result."""
    for watch in run.skipped:
        err.print(f"{watch.name}: skipped, the series does not have its measure", markup=False, soft_wrap=True)
    for watch in run.watches.watches:
        missing = [
            name for name in {**dict.fromkeys(watch.group_by), **watch.scope} if name not in run.series.dimensions
        ]
        if missing:
            err.print(
                f"{watch.name}: the series has no {', '.join(missing)}; taken as empty in every row",
                markup=False,
                soft_wrap=True,
            )
    anomalies = any(isinstance(watch.rule, AnomalyRule) for watch in run.watches.watches)
    if run.series.step_us != MINUTE_US and anomalies:
        step = explain_duration(run.series.step_us // US)
        err.print(
            f"steps of {step}: anomaly rules treat a step as a minute, also in durations; values are per minute",
            soft_wrap=True,
        )


def _run(run: Backtest, origin: str, *, as_json: bool, plot: Path | None, progress: bool | None) -> None:
    from spendstream.backtest.picture import GroupTotals

    totals = GroupTotals(run.watches, run.series.dimensions)
    kept: list[Alert] = []
    with _progress(run.series, progress, "judging") as on_progress:
        for alert in run.run([totals] if plot is not None else [], on_progress):
            if as_json:
                echo_json(record(alert))
            if alert.transition != "updated":
                kept.append(alert)
    if not as_json:
        _print_alerts(kept)
    summary = run.summary
    watches = ", ".join(
        f"{name} {summary.alerts[name]} in {groups:,} groups" for name, groups in sorted(summary.groups.items())
    )
    still = f", {summary.still_firing} of them still firing" if summary.still_firing else ""
    result = f"{sum(summary.alerts.values()):,} alerts in {summary.minutes:,} minutes{still}: {watches}"
    (err if as_json else out).print(result, markup=False, soft_wrap=True)
    if plot is not None:
        _plot(run, totals.largest, kept, plot, origin, progress)


def _plot(run: Backtest, largest: Any, kept: list[Alert], path: Path, origin: str, progress: bool | None) -> None:
    """Draw the largest groups. A second run records them, so that memory does not grow with the other groups."""
    from spendstream.backtest.picture import MAX_PANELS, ChartRecorder, draw

    recorder = ChartRecorder(largest(kept, MAX_PANELS), run.watches, run.series.dimensions)
    with _progress(run.series, progress, "drawing") as on_progress:
        for _ in run.run([recorder], on_progress, explains=False):
            pass
    first, last = from_epoch_us(run.series.start_us), from_epoch_us(run.series.end_us)
    shown = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    draw(path, list(recorder.charts.values()), kept, f"Backtest of {origin}, {shown}")
    err.print(f"saved {path}", markup=False, soft_wrap=True)


def record(alert: Alert) -> dict[str, Any]:
    """Return a transition as ``--json`` prints it. Amounts are in ``unit``."""
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


def _print_alerts(alerts: list[Alert]) -> None:
    """Print the alerts that fired, and when they were resolved."""
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


def _reason(alert: Alert) -> str:
    return "" if alert.attribution is None else alert.attribution.reason


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def _progress(series: Series, wanted: bool | None, verb: str) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn(verb), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=series.end_us - series.start_us)
        yield lambda at_us: bar.update(task, completed=at_us - series.start_us)
