"""Series, band and alerts as a PNG: one panel for each of a few groups."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.backtest.run import SimulatedDetector
from spendstream.backtest.series import BacktestError, Increment
from spendstream.core.detect.anomaly import AnomalyEvaluator
from spendstream.core.detect.budget.calendar import period_of
from spendstream.core.detect.describe import who
from spendstream.core.detect.finding import Groups, Values
from spendstream.core.detect.measures import denominators, is_ratio, numerators, unit
from spendstream.core.money import PUSD, exact_dollars
from spendstream.core.timestamps import MINUTE_US, US, epoch_us
from spendstream.schemas.alert import Alert
from spendstream.schemas.measures import SUMS, WATCHED
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Measure, ThresholdRule, Watch, Watches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS: Final = 6

_INK: Final = "#1b3a57"
_BAND: Final = "#9ec5e8"
_EXPECTED: Final = "#f0a030"
_BOUND: Final = "#b35900"
_FIRING: Final = "#d62728"
_WIDTH_IN: Final = 13.0
_PANEL_IN: Final = 2.9

LABEL_ROWS: Final = 3
_LETTER: Final = 0.0062
"""Width of a letter, as a fraction of the picture's width."""

GroupKey = tuple[str, Values]
"""A watch by its name, and the values of its ``group_by``."""


def measure_of(watch: Watch) -> Measure:
    """Return what a watch measures; a budget measures the cost."""
    return "cost" if isinstance(watch.rule, BudgetRule) else watch.rule.measure


def key_of(alert: Alert) -> GroupKey:
    """Return the watch and group of an alert."""
    return alert.watch, tuple(alert.group.values())


class GroupLookup:
    """The group of each watch that a combination belongs to."""

    def __init__(self, watches: Watches, dimensions: Sequence[str]) -> None:
        self._groups = {watch.name: Groups(watch, dimensions) for watch in watches.watches}
        self._known: dict[tuple[str, Values], Values | None] = {}

    def group(self, watch: str, members: Values) -> Values | None:
        """Return the values of the group; None if the combination is out of scope."""
        key = watch, members
        if key not in self._known:
            groups = self._groups[watch]
            number = groups.find(members)
            self._known[key] = None if number is None else groups.values[number]
        return self._known[key]


class GroupTotals:
    """An observer that adds up each group's spend, or whatever its watch measures, to find the largest."""

    def __init__(self, watches: Watches, dimensions: Sequence[str]) -> None:
        self._members = GroupLookup(watches, dimensions)
        self.totals: dict[GroupKey, float] = defaultdict(float)

    def minute(self, simulated: SimulatedDetector, minute_us: int, increments: Sequence[Increment]) -> None:
        """Add a minute."""
        for watch in simulated.watches.watches:
            for increment in increments:
                values = numerators(measure_of(watch), increment.sums)
                for members, value in zip(increment.members, values.tolist(), strict=True):
                    group = self._members.group(watch.name, members)
                    if group is not None:
                        self.totals[watch.name, group] += value

    def largest(self, alerts: Iterable[Alert], max_groups: int) -> list[GroupKey]:
        """Return the groups with most alerts; without any alerts, the largest groups."""
        fired = Counter(key_of(alert) for alert in alerts if alert.transition == "firing")
        ranked = sorted(fired or self.totals, key=lambda key: (-fired[key], -self.totals.get(key, 0.0), key))
        return ranked[:max_groups]


@dataclass
class Chart:
    """One group's series, one point a step. ``minutes_us``: real time. Band in the measure's unit; NaN: unknown."""

    watch: Watch
    group: dict[str, str]
    step_us: int
    minutes_us: list[int] = field(default_factory=list)
    numerators: list[int] = field(default_factory=list)
    denominators: list[int] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def observed(self) -> NDArray[np.float64]:
        """Return the measure's values; NaN where a ratio's denominator is 0."""
        return self.windowed(1)

    def windowed(self, minutes: int) -> NDArray[np.float64]:
        """Return the measure over windows of ``minutes`` points that end at each point."""
        measure = measure_of(self.watch)
        above = _windows(np.array(self.numerators, dtype=np.float64), minutes) / WATCHED[measure].scale
        if not is_ratio(measure):
            return above / minutes
        below = _windows(np.array(self.denominators, dtype=np.float64), minutes)
        ratio: NDArray[np.float64] = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
        return ratio


class ChartRecorder:
    """An observer that keeps the series of chosen groups. Memory: about 200 bytes for each group and step."""

    def __init__(self, wanted: Iterable[GroupKey], watches: Watches, dimensions: Sequence[str]) -> None:
        named = {watch.name: watch for watch in watches.watches}
        self._members = GroupLookup(watches, dimensions)
        self.charts = {
            (name, values): Chart(named[name], dict(zip(named[name].group_by, values, strict=True)), 0)
            for name, values in wanted
        }

    def minute(self, simulated: SimulatedDetector, minute_us: int, increments: Sequence[Increment]) -> None:
        """Record a minute before it closes, with the band that is expected of it."""
        mine = {watch.name for watch in simulated.watches.watches}
        for (name, values), chart in self.charts.items():
            if name in mine:
                self._add(chart, (name, values), simulated, minute_us, increments)

    def _add(
        self, chart: Chart, key: GroupKey, simulated: SimulatedDetector, minute_us: int, increments: Sequence[Increment]
    ) -> None:
        name, values = key
        sums = np.zeros((1, len(SUMS)), dtype=np.int64)
        for increment in increments:
            rows = [at for at, members in enumerate(increment.members) if self._members.group(name, members) == values]
            sums[0] += increment.sums[rows].sum(axis=0)
        measure = measure_of(chart.watch)
        chart.step_us = simulated.clock.step_us
        chart.minutes_us.append(simulated.clock.real(minute_us))
        chart.numerators.append(int(numerators(measure, sums)[0]))
        chart.denominators.append(int(denominators(measure, sums)[0]))
        groups, evaluator = simulated.detector.evaluator(name)
        if isinstance(evaluator, AnomalyEvaluator):
            expected, lower, upper = evaluator.band(groups.number(values), minute_us)
            chart.expected.append(expected)
            chart.lower.append(lower)
            chart.upper.append(upper)


def _windows(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    total = np.concatenate([np.zeros(width), np.cumsum(values)])
    sums: NDArray[np.float64] = total[width:] - total[:-width]
    return sums


@dataclass(frozen=True)
class Span:
    """An alert that fired, from the first minute of its evidence to its end. ``text``: its label."""

    start_us: int
    end_us: int
    text: str


@dataclass(frozen=True)
class Label:
    """A label's place: ``at`` is a fraction of the width, ``row`` counts upwards from 0."""

    at: float
    row: int
    text: str


def spans(alerts: Iterable[Alert], end_us: int) -> list[Span]:
    """Return the span of each alert that fired, in order. One that has not ended lasts until ``end_us``.

    The span of a budget's alert begins when it fired, not with its period.
    """
    fired: dict[object, Alert] = {}
    ends: dict[object, int] = {}
    for alert in alerts:
        if alert.transition == "firing":
            fired[alert.alert_id, alert.seq] = alert
            ends[alert.alert_id, alert.seq] = end_us
        elif alert.transition == "resolved":
            opened = [key for key in fired if key[0] == alert.alert_id and ends[key] == end_us]  # type: ignore[index]
            for key in opened:
                ends[key] = epoch_us(alert.at)
    found = [
        Span(epoch_us(alert.started_at if alert.budget is None else alert.at), ends[key], _text(alert))
        for key, alert in fired.items()
    ]
    return sorted(found, key=lambda span: span.start_us)


def merge_spans(found: Sequence[Span], min_us: int) -> list[tuple[int, int]]:
    """Return the union of the spans as pairs that don't overlap. Each span counts as at least ``min_us`` long."""
    whole: list[tuple[int, int]] = []
    for span in found:
        end_us = max(span.end_us, span.start_us + min_us)
        if whole and span.start_us <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], end_us)
        else:
            whole.append((span.start_us, end_us))
    return whole


def place_labels(found: Sequence[Span], first_us: int, length_us: int) -> tuple[list[Label], int, int]:
    """Return labels that don't overlap, how many rows they take, and how many spans have no label."""
    ends = [0.0] * LABEL_ROWS
    placed: list[Label] = []
    for span in found:
        width = _LETTER * (len(span.text) + 1)
        at = min(max((span.start_us - first_us) / length_us, 0.0), 1.0 - width)
        row = next((row for row, end in enumerate(ends) if at >= end), None)
        if row is not None:
            ends[row] = at + width
            placed.append(Label(at, row, span.text))
    rows = max((label.row + 1 for label in placed), default=0)
    return placed, rows, len(found) - len(placed)


def _text(alert: Alert) -> str:
    """Return ``up 3.2x``: the facet, and observed by expected when it fired."""
    if alert.budget is None and alert.expected and alert.facet in ("up", "down"):
        return f"{alert.facet} {alert.observed / alert.expected:.3g}x"
    return alert.facet


def draw(path: Path, charts: Sequence[Chart], alerts: Sequence[Alert], title: str) -> None:
    """Write a picture of the charts, with the alerts of their groups shaded. Times are UTC.

    Raises: BacktestError, if matplotlib is missing, or the file extension is not an image format.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BacktestError("--plot needs matplotlib: pip install 'spendstream[plot]'") from None
    # A long series is drawn in pieces: the drawing library rejects a path with too many points.
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
        legend: dict[str, Any] = {}
        for panel in panels:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                legend.setdefault(label, handle)
        figure.legend(legend.values(), legend.keys(), loc="outside lower left", ncols=len(legend) or 1, frameon=False)
        try:
            canvas.print_figure(path, dpi=110)
        except ValueError as error:
            raise BacktestError(f"{path}: {error}") from None


def _panel(axes: "Axes", chart: Chart, alerts: Sequence[Alert]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
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
    label = "USD in the period" if isinstance(rule, BudgetRule) else unit(measure)
    is_usd, is_share = label.startswith("USD"), label == "share"
    axes.set_ylabel(label)
    plain = StrMethodFormatter("{x:.0%}" if is_share else "{x:,.12g}")
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda usd, _: exact_dollars(Decimal(f"{usd:.12g}"))) if is_usd else plain
    )
    axes.set_xlim(times[0], times[-1] + np.timedelta64(chart.step_us, "us"))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.04)
    locator: Any = AutoDateLocator(minticks=5, maxticks=12)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_label_coords(-0.055, 0.5)
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    _shade(axes, chart, spans(alerts, int(chart.minutes_us[-1]) + chart.step_us))


def _anomaly(axes: "Axes", times: Any, chart: Chart, rule: AnomalyRule) -> None:
    observed, upper = chart.observed(), np.array(chart.upper)
    lower = np.array(chart.lower) if rule.direction != "up" else np.zeros(len(upper))
    # The band is wide while little is known; it must not flatten the series.
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
    amounts = (
        own.amount_usd
        for own in rule.amounts
        if all(chart.group.get(str(name)) == value for name, value in own.group.items())
    )
    amount = float(next(amounts, rule.amount_usd))
    opens = np.array([period_of(at, rule.period, rule.time_zone)[0] for at in chart.minutes_us])
    spent = np.array(chart.numerators, dtype=np.float64) / PUSD
    total = np.cumsum(spent)
    turns = np.flatnonzero(np.diff(opens)) + 1
    before = np.concatenate([[0.0], total[turns - 1]])
    total -= np.repeat(before, np.diff(np.concatenate([[0], turns, [len(opens)]])))
    total[turns - 1] = np.nan  # no line from the end of one period to the start of the next
    axes.plot(times, total, color=_INK, linewidth=1.2, label="spent in the period")
    for at, share in enumerate(sorted(rule.thresholds)):
        axes.axhline(amount * share, color=_BOUND, linewidth=1.0, linestyle=":", label="" if at else "budget threshold")
        axes.annotate(
            f"{share:.0%}",
            (1, amount * share),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=_BOUND,
            annotation_clip=True,
        )


def _shade(axes: "Axes", chart: Chart, found: Sequence[Span]) -> None:
    first_us = chart.minutes_us[0]
    length_us = chart.minutes_us[-1] + chart.step_us - first_us
    # A short alert in a long series must stay visible; alerts at the same time are shaded once.
    for start_us, end_us in merge_spans(found, max(length_us // 400, MINUTE_US)):
        start, end = np.array([max(start_us, first_us), end_us], dtype="datetime64[us]")
        axes.axvspan(start, end, color=_FIRING, alpha=0.16, linewidth=0, label="alert")
    for at in np.array([max(span.start_us, first_us) for span in found], dtype="datetime64[us]"):
        axes.axvline(at, color=_FIRING, linewidth=0.8, alpha=0.8)
    written, rows, unnamed = place_labels(found, first_us, length_us)
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
    more = f"   ({unnamed} more without a label)" if unnamed else ""
    name = f"{chart.watch.name}: {who(chart.group)}{more}"
    axes.set_title(name, loc="left", fontsize=10.5, fontweight="bold", pad=6 + 12 * rows)
