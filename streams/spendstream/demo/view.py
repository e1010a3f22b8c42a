"""The demo on the terminal: a live view, or a line every few seconds.

    spendstream demo --plain --state-dir D        until an alert fires
    python -m spendstream.demo.view --of D        saves the view as docs/demo.svg

Every number in the picture is that demo's own.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spendstream.cli.environment import read_env_file
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.core.money import dollars
from spendstream.demo.publisher import read_status
from spendstream.demo.scenario import Incident
from spendstream.demo.snapshot import (
    AlertLine,
    Snapshot,
    Spend,
    by,
    caught,
    read_snapshot,
    total,
    unexplained,
    usual_cause,
)
from spendstream.settings import Settings

_WIDE: Final = 124
_HEADLINE_LINES: Final = 4
_HEADER_LINES: Final = 1
_BORDER_LINES: Final = 2
_ALERT_LINES: Final = (3, 10)
_TROUBLE_LINES: Final = 4
_BAR_CELLS: Final = 8
_NAME_CELLS: Final = {"team": 20, "feature": 20, "model": 28}


def picture(snapshot: Snapshot) -> RenderableType:
    """Return the whole view: two columns on a wide terminal, as many rows as fit."""
    return _View(snapshot)


@dataclass(frozen=True)
class _View:
    snapshot: Snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least, most = _ALERT_LINES
        alerts = max(least, min(most, console.height // 4 - _BORDER_LINES))
        lines = console.height - _HEADLINE_LINES - alerts - _BORDER_LINES
        yield _headline(self.snapshot)
        yield alert_panel(self.snapshot, alerts)
        if options.max_width < _WIDE:
            rows = max(3, (lines - 3 * _HEADER_LINES - _TROUBLE_LINES) // 3)
            yield Group(*(_spend_table(name, self.snapshot, rows) for name in ("team", "feature", "model")))
            yield _troubles(self.snapshot)
            return
        teams = max(3, min(8, (lines - 2 * _HEADER_LINES) // 3))
        left = Group(
            _spend_table("team", self.snapshot, teams),
            Text(),
            _spend_table("feature", self.snapshot, max(3, lines - teams - 2 * _HEADER_LINES - 1)),
        )
        right = Group(
            _spend_table("model", self.snapshot, max(3, lines - _HEADER_LINES - 1 - _TROUBLE_LINES)),
            Text(),
            _troubles(self.snapshot),
        )
        columns = Table.grid(expand=True, padding=(0, 2))
        columns.add_column()
        columns.add_column(ratio=1)
        columns.add_row(left, right)
        yield columns


def line(snapshot: Snapshot) -> str:
    """Return the view in one line, for logs and pipes."""
    whole = total(snapshot.since_start)
    dearest = ", ".join(
        f"{team} {dollars(spend.cost_usd, 2)}" for team, spend in list(by("team", snapshot.since_start).items())[:3]
    )
    return (
        f"{snapshot.elapsed_s:5.0f} s  {_progress(snapshot)}"
        f"{dollars(snapshot.spend_per_minute, 2)}/min  total {dollars(whole.cost_usd, 2)}  "
        f"{snapshot.calls_per_s:,.0f} calls/s  lag {_lag(snapshot)}  unpriced {whole.unpriced:,}  "
        f"dead letters {sum(count for _, count in snapshot.dead_letters):,}  dearest: {dearest or 'none yet'}"
    )


def spend_table(dimension: str, snapshot: Snapshot) -> Table:
    """Return the spend by a dimension since the start, every row."""
    spends = by(dimension, snapshot.since_start)
    digits = _digits(spends.values())
    table = _table(dimension, "spend", "calls")
    for name, spend in spends.items():
        table.add_row(name or "(none)", _amount(spend, digits), f"{spend.calls:,}")
    return table


def _headline(snapshot: Snapshot) -> Panel:
    whole = total(snapshot.since_start)
    shown = (
        ("spend a minute", dollars(snapshot.spend_per_minute, 2), "bold green"),
        ("total", dollars(whole.cost_usd, 2), "bold"),
        ("calls a second", f"{snapshot.calls_per_s:,.0f}", "bold"),
        ("published", f"{snapshot.published:,}", ""),
        ("metered", f"{whole.calls:,}", ""),
        ("event to row", _lag(snapshot), ""),
    )
    grid = Table.grid(expand=True)
    for _ in shown:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(label, "dim") for label, _, _ in shown))
    grid.add_row(*(Text(value, style) for _, value, style in shown))
    title = f"[bold]spendstream[/bold]  {snapshot.elapsed_s:.0f} s  {_progress(snapshot)}".rstrip()
    return Panel(
        grid,
        box=ROUNDED,
        title=title,
        title_align="left",
        subtitle="Ctrl-C ends it",
        subtitle_align="right",
        border_style="green",
    )


def _progress(snapshot: Snapshot) -> str:
    """Return how much of the past is loaded and when live traffic follows; nothing once it does."""
    if not snapshot.history_s:
        return ""
    loaded_s = max(1.0, snapshot.loaded_s)
    return (
        f"loading the past: {loaded_s / 60:.0f} of {(loaded_s + snapshot.history_s) / 60:.0f} min, "
        f"live in {_span(snapshot.history_s / loaded_s * snapshot.elapsed_s)}  "
    )


def _spend_table(dimension: str, snapshot: Snapshot, rows: int) -> Table:
    recent = by(dimension, snapshot.last_minute)
    whole = by(dimension, snapshot.since_start)
    most = max((spend.cost_usd for spend in recent.values()), default=Decimal(0))
    digits_recent, digits_whole = _digits(recent.values()), _digits(whole.values())
    table = _table(dimension, "last min", "", "total", "calls")
    # Sorted by the total: it changes slowly, so that the rows can be read.
    for name in list(whole)[:rows]:
        now, ever = recent.get(name, Spend()), whole[name]
        table.add_row(
            name or "(none)", _amount(now, digits_recent), _bar(now, most), _amount(ever, digits_whole),
            f"{ever.calls:,}",
        )  # fmt: skip
    return table


def _bar(spend: Spend, most: Decimal) -> Text:
    cells = round(_BAR_CELLS * float(spend.cost_usd / most)) if most else 0
    return Text.assemble(("━" * cells, "green"), ("━" * (_BAR_CELLS - cells), "grey23"))


def _troubles(snapshot: Snapshot) -> RenderableType:
    unpriced = [
        f"{model or '(none)'} {spend.unpriced:,}"
        for model, spend in by("model", snapshot.since_start).items()
        if spend.unpriced
    ]
    dead = [f"{reason} {count:,}" for reason, count in snapshot.dead_letters]
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("unpriced calls", "bold yellow"), ", ".join(unpriced) or "none")
    grid.add_row(Text("dead letters", "bold red"), ", ".join(dead) or "none")
    return grid


def _table(dimension: str, *numbers: str) -> Table:
    table = Table(box=None, header_style="bold cyan", pad_edge=False, collapse_padding=True)
    table.add_column(dimension, no_wrap=True, min_width=12, max_width=_NAME_CELLS[dimension], overflow="ellipsis")
    for name in numbers:  # as wide as usual amounts are, so that tables below each other are aligned
        table.add_column(name, justify="right", no_wrap=True, min_width=7 if name == "calls" else 8)
    return table


def _digits(spends: Iterable[Spend]) -> int:
    """Return the decimals that a column's amounts are shown with: cents, and finer only where all is small."""
    return 2 if max((spend.cost_usd for spend in spends), default=Decimal(0)) >= 1 else 4


def _amount(spend: Spend, digits: int) -> Text:
    if spend.calls and spend.unpriced == spend.calls:
        return Text("unpriced", "yellow")
    return Text(dollars(spend.cost_usd, digits))


def _lag(snapshot: Snapshot) -> str:
    if snapshot.lag_s is None:
        return "–"
    median, p99 = snapshot.lag_s
    return f"{median:.1f} s (p99 {p99:.1f} s)"


_COLOUR: Final = {"info": "cyan", "warning": "yellow", "critical": "red"}


def alert_panel(snapshot: Snapshot, rows: int) -> Panel:
    """Return the alerts that fire and those that are over, the newest first, in so many rows."""
    firing = [alert for alert in reversed(snapshot.alerts) if alert.is_firing]
    over = [alert for alert in reversed(snapshot.alerts) if not alert.is_firing]
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    left = rows
    for alert in firing + over:
        needed = 2 if _why(alert) else 1
        if needed > left:
            break
        left -= needed
        _add(grid, alert, snapshot.at)
    if not snapshot.alerts:
        left -= 1
        grid.add_row("", Text("none", "dim"), "")
    for _ in range(left):
        grid.add_row("", "", "")
    title = f"[bold]alerts[/bold]  {len(firing)} firing, {len(over)} resolved"
    severities = {alert.severity for alert in firing}
    colour = next((_COLOUR[name] for name in ("critical", "warning", "info") if name in severities), "green")
    return Panel(grid, box=ROUNDED, title=title, title_align="left", border_style=colour)


def transition_lines(former: Snapshot, snapshot: Snapshot) -> list[str]:
    """Return a line for each alert that fired or resolved between two snapshots."""
    known = {alert.alert_id: alert.is_firing for alert in former.alerts}
    lines = []
    for alert in snapshot.alerts:
        if alert.alert_id not in known:
            lines.append(f"  FIRING    [{alert.severity}] {alert.title}{_because(alert.first_reason or alert.reason)}")
        if not alert.is_firing and known.get(alert.alert_id, True):
            lasted = f"after {_span(alert.lasted_s(alert.fired_at))}"
            lines.append(f"  RESOLVED  [{alert.severity}] {alert.last_title} {lasted}{_because(alert.reason)}")
    return lines


def incident_lines(
    former: Sequence[Incident], incidents: Sequence[Incident], was: datetime, now: datetime
) -> list[str]:
    """Return a line for each incident that began or ended between two snapshots."""
    lines = [f"  traffic: {one.kind} in {one.feature} begins" for one in incidents if one not in former]
    return lines + [f"  traffic: {one.kind} in {one.feature} ends" for one in incidents if was < one.ends_at <= now]


def incident_table(incidents: Sequence[Incident], alerts: Sequence[AlertLine]) -> Table:
    """Return the incidents, each with the alerts about it; then all other alerts."""
    table = Table(box=None, header_style="bold cyan", pad_edge=False)
    for name in ("incident", "caught after", "by", "alert and reason"):
        table.add_column(name, no_wrap=name != "alert and reason")
    for incident in incidents:
        found = caught(incident, alerts)
        if not found:
            table.add_row(_named(incident), Text("not caught", "red"), "", "")
        for alert in found:
            delay_s = (alert.fired_at - incident.starts_at).total_seconds()
            table.add_row(_named(incident), _span(delay_s), alert.watch, _worst(alert))
    for alert in alerts:
        if cause := usual_cause(alert):
            table.add_row(Text(cause, "dim"), "", alert.watch, _worst(alert))
    for alert in unexplained(alerts, incidents):
        table.add_row(Text("no incident", "yellow"), "", alert.watch, _worst(alert))
    return table


def _named(incident: Incident) -> str:
    return f"{incident.kind} in {incident.feature}"


def _worst(alert: AlertLine) -> Text:
    return Text(f"{alert.worst_title}{_because(alert.worst_reason)}")


def _add(grid: Table, alert: AlertLine, now: datetime | None) -> None:
    style = _COLOUR.get(alert.severity, "red") if alert.is_firing else "dim"
    mark = "●" if alert.is_firing else "✓"
    lasted = _span(alert.lasted_s(now or alert.fired_at))
    title = Text(alert.last_title, f"bold {style}" if alert.is_firing else style, no_wrap=True, overflow="ellipsis")
    grid.add_row(Text(mark, style), title, Text(f"for {lasted}" if alert.is_firing else f"over, {lasted}", style))
    if _why(alert):
        grid.add_row("", Text(_why(alert), "" if alert.is_firing else "dim", no_wrap=True, overflow="ellipsis"), "")


def _why(alert: AlertLine) -> str:
    return "; ".join(filter(None, (alert.reason, alert.contributor and f"most by {alert.contributor}")))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"


TARGET: Final = Path(__file__).parents[3] / "docs" / "demo.svg"
_COLUMNS: Final = 130
_LINES: Final = 44


def look_at(state_dir: Path) -> Snapshot:
    """Return the current snapshot of a running demo. Raises: OSError if none runs there; the client's errors."""
    env = read_env_file(state_dir / "env")
    settings = Settings.model_validate({name.lower(): value for name, value in env.items()})
    began_at = datetime.fromtimestamp((state_dir / "env").stat().st_mtime, UTC)
    status = read_status(state_dir / "publisher.json")
    with open_client(clickhouse_settings(settings), database=settings.clickhouse_database) as client:
        return read_snapshot(client, time.time() - began_at.timestamp(), status, began_at)


def save(snapshot: Snapshot, path: Path) -> None:
    """Write the live view of a snapshot as SVG."""
    console = Console(record=True, width=_COLUMNS, height=_LINES, file=io.StringIO(), color_system="truecolor")
    console.print(picture(snapshot))
    path.parent.mkdir(exist_ok=True)
    drawn = console.export_svg(title="make demo", unique_id="spendstream-demo")
    # Some viewers drop the spaces that align the numbers.
    path.write_text(drawn.replace("<svg ", '<svg xml:space="preserve" ', 1))


def main() -> None:
    """Parse the arguments, save the picture."""
    parser = argparse.ArgumentParser(prog="python -m spendstream.demo.view", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--of", type=Path, required=True, help="the running demo's state folder")
    parser.add_argument("--to", type=Path, default=TARGET, help="the picture")
    options = parser.parse_args()
    try:
        snapshot = look_at(options.of)
    except OSError as error:
        sys.exit(f"no demo runs in {options.of}: {error}")
    save(snapshot, options.to)


if __name__ == "__main__":
    main()
