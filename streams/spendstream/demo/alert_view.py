"""Alerts on the terminal: a panel of the live view, lines of the plain one, a table at the end."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.box import ROUNDED
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spendstream.demo.alerts import AlertLine, caught, is_of_preview, unexplained
from spendstream.demo.incidents import Incident
from spendstream.demo.snapshot import Snapshot

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
        grid.add_row("", Text(_nothing_yet(snapshot), "dim"), "")
    for _ in range(left):
        grid.add_row("", "", "")
    title = f"[bold]alerts[/bold]  {len(firing)} firing, {len(over)} resolved"
    return Panel(grid, box=ROUNDED, title=title, title_align="left", border_style=_border(firing))


def transition_lines(former: Snapshot, snapshot: Snapshot) -> list[str]:
    """Return a line for each alert that began or ended between two looks."""
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
    """Return a line for each incident that began or ended in the traffic between two looks."""
    lines = [f"  traffic: {one.kind} in {one.feature} begins" for one in incidents if one not in former]
    return lines + [f"  traffic: {one.kind} in {one.feature} ends" for one in incidents if was < one.ends_at <= now]


def incident_table(incidents: Sequence[Incident], alerts: Sequence[AlertLine]) -> Table:
    """Return the incidents that were played, each with the alerts that tell of it; then all other alerts."""
    table = Table(box=None, header_style="bold cyan", pad_edge=False)
    for name in ("incident", "caught after", "by", "alert and reason"):
        table.add_column(name, no_wrap=name != "alert and reason")
    for incident in incidents:
        found = caught(incident, alerts)
        if not found:
            table.add_row(_named(incident), Text("not caught", "red"), "", "")
        for alert in found:
            table.add_row(_named(incident), _delay(alert, incident), alert.watch, _told(alert))
    for alert in alerts:
        if is_of_preview(alert):
            table.add_row(Text("a model without a price", "dim"), "", alert.watch, _told(alert))
    for alert in unexplained(alerts, incidents):
        table.add_row(Text("none that was played", "yellow"), "", alert.watch, _told(alert))
    return table


def _named(incident: Incident) -> str:
    return f"{incident.kind} in {incident.feature}"


def _delay(alert: AlertLine, incident: Incident) -> str:
    return _span((alert.fired_at - incident.starts_at).total_seconds())


def _told(alert: AlertLine) -> Text:
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


def _nothing_yet(snapshot: Snapshot) -> str:
    if snapshot.history_s > 0:
        return f"none; the past is published first, {snapshot.history_s / 60:.0f} minutes are left"
    return "none"


def _border(firing: Sequence[AlertLine]) -> str:
    severities = {alert.severity for alert in firing}
    worst = next((name for name in ("critical", "warning", "info") if name in severities), None)
    return _COLOUR[worst] if worst else "green"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"
