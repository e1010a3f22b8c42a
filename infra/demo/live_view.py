"""The demo on the terminal: a live picture, or a line every few seconds."""

from decimal import Decimal
from typing import Final

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.demo.snapshot import Snapshot, Spend, by, total

_ROWS: Final = {"team": 8, "feature": 14, "model": 12}
_BAR_CELLS: Final = 10


def picture(snapshot: Snapshot) -> RenderableType:
    """Return the whole view."""
    tables = [_spend_table(dimension, snapshot) for dimension in _ROWS]
    return Group(_headline(snapshot), Columns(tables, padding=(0, 3)), _troubles(snapshot))


def line(snapshot: Snapshot) -> str:
    """Return the view in one line, for logs and pipes."""
    whole = total(snapshot.since_start)
    dearest = ", ".join(
        f"{team} {_usd(spend.cost_usd, 2)}" for team, spend in list(by("team", snapshot.since_start).items())[:3]
    )
    return (
        f"{snapshot.elapsed_s:5.0f} s  {_usd(snapshot.spend_per_minute, 2)}/min  total {_usd(whole.cost_usd, 4)}  "
        f"{snapshot.calls_per_s:,.0f} calls/s  lag {_lag(snapshot)}  unpriced {whole.unpriced:,}  "
        f"dead letters {_dead(snapshot):,}  dearest: {dearest or 'none yet'}"
    )


def spend_table(dimension: str, snapshot: Snapshot) -> Table:
    """Return the spend by a dimension since the start, every row."""
    table = _table(dimension, "spend", "calls")
    for name, spend in by(dimension, snapshot.since_start).items():
        table.add_row(name or "(none)", _amount(spend, 4), f"{spend.calls:,}")
    return table


def _headline(snapshot: Snapshot) -> Panel:
    whole = total(snapshot.since_start)
    text = Text.assemble(
        (f"{_usd(snapshot.spend_per_minute, 2)} a minute", "bold green"),
        "    total ",
        (_usd(whole.cost_usd, 4), "bold"),
        f"    {snapshot.calls_per_s:,.0f} calls/s    published {snapshot.published:,}  metered {whole.calls:,}",
        f"    event to row {_lag(snapshot)}",
    )
    return Panel(text, title="spendstream", title_align="left", subtitle="Ctrl-C ends it", subtitle_align="right")


def _spend_table(dimension: str, snapshot: Snapshot) -> Table:
    recent = by(dimension, snapshot.last_minute)
    whole = by(dimension, snapshot.since_start)
    table = _table(dimension, "last minute", "", "total", "calls")
    most = max((spend.cost_usd for spend in recent.values()), default=Decimal(0))
    # Sorted by the total: it changes slowly, so that the rows can be read.
    for name in list(whole)[: _ROWS[dimension]]:
        now = recent.get(name, Spend())
        cells = round(_BAR_CELLS * float(now.cost_usd / most)) if most else 0
        bar = Text("█" * cells + " " * (_BAR_CELLS - cells), style="green")
        table.add_row(name or "(none)", _amount(now, 4), bar, _amount(whole[name], 4), f"{whole[name].calls:,}")
    return table


def _troubles(snapshot: Snapshot) -> RenderableType:
    unpriced = [
        f"{model or '(none)'} {spend.unpriced:,}"
        for model, spend in by("model", snapshot.since_start).items()
        if spend.unpriced
    ]
    dead = [f"{reason} {count:,}" for reason, count in snapshot.dead_letters]
    return Text.assemble(
        ("\nunpriced calls  ", "bold yellow"),
        ", ".join(unpriced) or "none",
        ("\ndead letters    ", "bold red"),
        ", ".join(dead) or "none",
    )


def _table(dimension: str, *numbers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(dimension, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _amount(spend: Spend, digits: int) -> str:
    if spend.calls and spend.unpriced == spend.calls:
        return "unpriced"
    return _usd(spend.cost_usd, digits)


def _usd(amount: Decimal, digits: int) -> str:
    return f"${amount:,.{digits}f}"


def _lag(snapshot: Snapshot) -> str:
    if snapshot.lag_s is None:
        return "–"
    median, p99 = snapshot.lag_s
    return f"{median:.1f} s (p99 {p99:.1f} s)"


def _dead(snapshot: Snapshot) -> int:
    return sum(count for _, count in snapshot.dead_letters)
