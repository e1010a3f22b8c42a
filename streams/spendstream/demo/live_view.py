"""The demo on the terminal: a live picture, or a line every few seconds."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spendstream.core.money import dollars
from spendstream.demo.alert_view import alert_panel
from spendstream.demo.snapshot import Snapshot, Spend, by, total

_WIDE: Final = 124
_HEADLINE_LINES: Final = 4
_HEADER_LINES: Final = 1
_BORDER_LINES: Final = 2
_ALERT_LINES: Final = (3, 10)
_TROUBLE_LINES: Final = 4
_BAR_CELLS: Final = 8
_NAME_CELLS: Final = {"team": 20, "feature": 20, "model": 28}


def picture(snapshot: Snapshot) -> RenderableType:
    """Return the whole view: in two columns where the terminal is wide, with as many rows as it is tall."""
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
    if snapshot.history_s > 0:
        return (
            f"{snapshot.elapsed_s:5.0f} s  the past is published first: {snapshot.history_s / 60:.1f} min left  "
            f"total {dollars(whole.cost_usd, 2)}  calls {whole.calls:,}  dead letters {_dead(snapshot):,}"
        )
    return (
        f"{snapshot.elapsed_s:5.0f} s  "
        f"{dollars(snapshot.spend_per_minute, 2)}/min  total {dollars(whole.cost_usd, 2)}  "
        f"{snapshot.calls_per_s:,.0f} calls/s  lag {_lag(snapshot)}  unpriced {whole.unpriced:,}  "
        f"dead letters {_dead(snapshot):,}  dearest: {dearest or 'none yet'}"
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
    title = f"[bold]spendstream[/bold]  {snapshot.elapsed_s:.0f} s"
    return Panel(
        grid,
        box=ROUNDED,
        title=title,
        title_align="left",
        subtitle="Ctrl-C ends it",
        subtitle_align="right",
        border_style="green",
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


def _dead(snapshot: Snapshot) -> int:
    return sum(count for _, count in snapshot.dead_letters)
