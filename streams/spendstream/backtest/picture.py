"""Series, band and alerts as a PNG: a panel for each of a few groups."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spendstream.backtest.errors import BacktestError
from spendstream.backtest.record import Chart, key_of, measure_of
from spendstream.backtest.spans import Span, labels, spans, united
from spendstream.core.detect.budget.calendar import period_of
from spendstream.core.detect.describe import who
from spendstream.core.detect.measures import unit
from spendstream.core.money import PUSD, exact_dollars
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import AnomalyRule, BudgetRule, ThresholdRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS: Final = 6

_INK: Final = "#1b3a57"
_BAND: Final = "#9ec5e8"
_EXPECTED: Final = "#f0a030"
_BOUND: Final = "#b35900"
_FIRING: Final = "#d62728"
_WIDTH_IN: Final = 13.0
_PANEL_IN: Final = 2.9


def draw(path: Path, charts: Sequence[Chart], alerts: Sequence[Alert], title: str) -> None:
    """Write a picture of the charts, with the alerts of their groups shaded. Times are UTC.

    Raises: BacktestError, where matplotlib is missing, or the file's ending is no format of a picture.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BacktestError("--plot needs matplotlib: pip install 'spendstream[plot]'") from None
    # A long series is drawn in pieces: the drawing library refuses a path of too many points.
    style: Any = {"agg.path.chunksize": 10_000, "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        figure = Figure(figsize=(_WIDTH_IN, 1.3 + _PANEL_IN * len(charts)), facecolor="white")
        figure.set_layout_engine("constrained", h_pad=0.1)
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(len(charts), 1, squeeze=False)[:, 0]
        for panel, chart in zip(panels, charts, strict=True):
            mine = [alert for alert in alerts if key_of(alert) == (chart.watch.name, tuple(chart.group.values()))]
            _panel(panel, chart, mine)
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=12)
        _legend(figure, panels)
        try:
            canvas.print_figure(path, dpi=110)
        except ValueError as error:
            raise BacktestError(f"{path}: {error}") from None


def _panel(axes: "Axes", chart: Chart, alerts: Sequence[Alert]) -> None:
    from matplotlib.ticker import FuncFormatter, StrMethodFormatter

    times = np.array(chart.minutes_us, dtype="datetime64[us]")
    rule = chart.watch.rule
    if isinstance(rule, BudgetRule):
        _budget(axes, times, chart, rule)
    elif isinstance(rule, ThresholdRule):
        _threshold(axes, times, chart, rule)
    else:
        _anomaly(axes, times, chart, rule)
    measure = measure_of(chart.watch)
    label = "USD, in the period" if isinstance(rule, BudgetRule) else unit(measure)
    is_usd, is_share = label.startswith("USD"), label == "share"
    axes.set_ylabel(label)
    plain = StrMethodFormatter("{x:.0%}" if is_share else "{x:,.12g}")
    axes.yaxis.set_major_formatter(FuncFormatter(_tick) if is_usd else plain)
    axes.set_xlim(times[0], times[-1] + np.timedelta64(chart.step_us, "us"))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.04)
    _date(axes)
    axes.yaxis.set_label_coords(-0.055, 0.5)
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    _shade(axes, chart, spans(alerts, int(chart.minutes_us[-1]) + chart.step_us))


def _tick(usd: float, _: int | None) -> str:
    return exact_dollars(Decimal(f"{usd:.12g}"))


def _date(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator: Any = AutoDateLocator(minticks=5, maxticks=12)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _anomaly(axes: "Axes", times: Any, chart: Chart, rule: AnomalyRule) -> None:
    observed, upper = chart.observed(), np.array(chart.upper)
    lower = np.array(chart.lower) if rule.direction != "up" else np.zeros(len(upper))
    # A band that is wide while little is known must not flatten the series.
    top = 2.0 * float(np.nanmax(observed, initial=0.0)) or 1.0
    upper = np.minimum(upper, top) if rule.direction != "down" else np.full(len(upper), top)
    axes.fill_between(times, lower, upper, step="mid", color=_BAND, alpha=0.4, linewidth=0, label="expected band")
    axes.plot(times, observed, color=_INK, linewidth=0.9, label="observed")
    axes.plot(times, np.array(chart.expected), color=_EXPECTED, linewidth=1.3, label="expected")
    highest = max(float(np.nanmax(observed, initial=0.0)), float(np.nanpercentile(np.append(upper, 0), 95)))
    axes.set_ylim(0, highest * 1.05 or 1)


def _threshold(axes: "Axes", times: Any, chart: Chart, rule: ThresholdRule) -> None:
    bound = rule.above if rule.above is not None else rule.below
    width = max(rule.window * US // chart.step_us, 1)
    axes.plot(times, chart.observed(), color=_INK, alpha=0.3, linewidth=0.7, label="observed")
    axes.plot(times, chart.windowed(width), color=_INK, linewidth=1.2, label="over the rule's window")
    axes.axhline(bound or 0.0, color=_BOUND, linewidth=1.2, linestyle=":", label="bound")


def _budget(axes: "Axes", times: Any, chart: Chart, rule: BudgetRule) -> None:
    amount = float(_amount(chart, rule))
    opens = np.array([period_of(at, rule.period, rule.time_zone)[0] for at in chart.minutes_us])
    spent = np.array(chart.above, dtype=np.float64) / PUSD
    total = np.cumsum(spent)
    turns = np.flatnonzero(np.diff(opens)) + 1
    before = np.concatenate([[0.0], total[turns - 1]])
    total -= np.repeat(before, np.diff(np.concatenate([[0], turns, [len(opens)]])))
    total[turns - 1] = np.nan  # a new period: no line falls from one to the next
    axes.plot(times, total, color=_INK, linewidth=1.2, label="spent in the period")
    for at, part in enumerate(sorted(rule.thresholds)):
        axes.axhline(amount * part, color=_BOUND, linewidth=1.0, linestyle=":", label="" if at else "budget threshold")
        axes.annotate(
            f"{part:.0%}",
            (1, amount * part),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=_BOUND,
            annotation_clip=True,
        )


def _amount(chart: Chart, rule: BudgetRule) -> Any:
    for own in rule.amounts:
        if all(chart.group.get(str(name)) == value for name, value in own.group.items()):
            return own.amount_usd
    return rule.amount_usd


def _shade(axes: "Axes", chart: Chart, found: Sequence[Span]) -> None:
    first_us = chart.minutes_us[0]
    length_us = chart.minutes_us[-1] + chart.step_us - first_us
    # A short alert of a long series must still be seen; alerts at the same time are shaded once.
    for start_us, end_us in united(found, max(length_us // 400, MINUTE_US)):
        start, end = np.array([max(start_us, first_us), end_us], dtype="datetime64[us]")
        axes.axvspan(start, end, color=_FIRING, alpha=0.16, linewidth=0, label="alert")
    for at in np.array([max(span.start_us, first_us) for span in found], dtype="datetime64[us]"):
        axes.axvline(at, color=_FIRING, linewidth=0.8, alpha=0.8)
    written, rows, unnamed = labels(found, first_us, length_us)
    for label in written:
        axes.annotate(
            label.text,
            (label.at, 1),
            xycoords="axes fraction",
            xytext=(0, 3 + 12 * label.row),
            textcoords="offset points",
            color=_FIRING,
            fontsize=8.5,
            annotation_clip=False,
        )
    more = f"   ({unnamed} more not named)" if unnamed else ""
    name = f"{chart.watch.name}: {who(chart.group)}{more}"
    axes.set_title(name, loc="left", fontsize=10.5, fontweight="bold", pad=6 + 12 * rows)


def _legend(figure: Any, panels: Iterable["Axes"]) -> None:
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower left", ncols=len(found) or 1, frameon=False)
