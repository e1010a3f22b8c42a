"""Measures the quality and the cost of anomaly detection and writes docs/alert-quality.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from schemas.watch import AnomalyRule
from streams.core.clock import MINUTE_US
from tests.bench.alerts import cost, rival
from tests.bench.alerts.drive import Drive, Raised
from tests.bench.alerts.incidents import KINDS, Incident, play_incidents
from tests.bench.alerts.score import Quality, score
from tests.bench.alerts.traffic import MONDAY_US, WEEK, Series, calm, play, services

OUT = Path(__file__).parents[3] / "docs" / "alert-quality.md"
GROUPS = 100
SERVICES_SEED, HISTORY_SEED, CALM_SEEDS, INCIDENT_SEED = 1, 2, (3, 4), 5
DAYS = 3
SLICES = 6
RULE = AnomalyRule(kind="anomaly")


def main() -> None:
    """Run everything and write the page."""
    groups = services(GROUPS, SERVICES_SEED)
    lines, bound = [], 0.0
    history = Drive.of(RULE, GROUPS)
    weeks = play(groups, calm(groups, 4 * WEEK, HISTORY_SEED), HISTORY_SEED)
    past, last = _cut(weeks, 0, 3 * WEEK), _cut(weeks, 3 * WEEK, 4 * WEEK)
    history.run(past)
    state = history.evaluator.snapshot()
    first_week = [a for a in history.alerts if a.fired_us < MONDAY_US + WEEK * MINUTE_US]
    z_last = _z(weeks)[:, 3 * WEEK :]
    bound = rival.tuned(z_last, 1, last.start_us)
    lines.append(_calm_row("from a cold start", HISTORY_SEED, first_week, _z(_cut(weeks, 0, WEEK)), bound))
    for seed in CALM_SEEDS:
        series = play(services(GROUPS, seed), calm(services(GROUPS, seed), WEEK, seed), seed)
        lines.append(_calm_row("from a cold start", seed, Drive.of(RULE, GROUPS).run(series), _z(series), bound))
    known = _known(state)
    lines.append(_calm_row("after three weeks", HISTORY_SEED, known.run(last), z_last, bound))
    sections = [_calm_section(lines)]
    for title, drive, first in (
        ("With three weeks of history", _known(state), 3 * WEEK),
        ("From a cold start, after one calm day", Drive.of(RULE, GROUPS), 0),
    ):
        sections.append(_incident_section(title, drive, first, bound))
    sections.append(_cost_section())
    OUT.write_text("\n".join([_HEAD, *sections]))


def _known(state: object) -> Drive:
    drive = Drive.of(RULE, GROUPS)
    drive.evaluator.restore(state)  # type: ignore[arg-type]
    return drive


def _cut(series: Series, first: int, last: int) -> Series:
    return Series(series.calls[:, first:last], series.cost[:, first:last], 1, series.start_us + first * MINUTE_US)


def _z(series: Series) -> np.ndarray:
    return rival.scores(series.usd_per_minute())


def _calm_row(what: str, seed: int, alerts: Sequence[Raised], z: np.ndarray, bound: float) -> str:
    three, tuned = (len(rival.alerts(z, at, MONDAY_US)) for at in (3.0, bound))
    return f"| {what} (seed {seed}) | **{len(alerts)}** | {three:,} | {tuned:,} |"


def _calm_section(lines: Sequence[str]) -> str:
    head = "| a calm week, 100 groups: alerts | spendstream | z-score, 3 | z-score, tuned |\n| --- | --- | --- | --- |"
    return f"## False alerts\n\n{head}\n" + "\n".join(lines) + "\n"


def _incident_section(title: str, drive: Drive, first: int, bound: float) -> str:
    groups = services(GROUPS, SERVICES_SEED)
    rates = calm(groups, DAYS * 1440, INCIDENT_SEED, first)
    rates, labels = play_incidents(groups, rates, 0 if first else 1440, INCIDENT_SEED)
    start_us = MONDAY_US + first * MINUTE_US
    series = play(groups, rates, INCIDENT_SEED, SLICES, start_us)
    ours = score(drive.run(series), labels, start_us)
    z = _z(series)
    rivals = [score(rival.alerts(z, at, start_us), labels, start_us) for at in (3.0, bound)]
    return f"## {title}\n\n{_quality_table([ours, *rivals], bound)}\n{_strength(ours, labels)}"


def _quality_table(all_: Sequence[Quality], bound: float) -> str:
    ours, three, tuned = all_
    lines = [
        f"| | spendstream | delay p50, p90 | z-score, 3 | delay p50 | z-score, {bound:.1f} | delay p50 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| alerts | {ours.alerts} | | {three.alerts:,} | | {tuned.alerts:,} | |",
        f"| precision | **{ours.precision:.0%}** | | {three.precision:.0%} | | {tuned.precision:.0%} | |",
        f"| recall | **{ours.recall:.0%}** | | {three.recall:.0%} | | {tuned.recall:.0%} | |",
    ]
    for kind in (kind.name for kind in KINDS):
        played = max(ours.played[kind], 1)
        cells = [f"{kind} ({ours.played[kind]})", f"{ours.caught[kind] / played:.0%}"]
        cells.append(f"{ours.delay(kind, 50)}, {ours.delay(kind, 90)}")
        for other in (three, tuned):
            cells += [f"{other.caught[kind] / played:.0%}", other.delay(kind, 50)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _strength(ours: Quality, labels: Sequence[Incident]) -> str:
    weak = sum(0.5 < label.factor < 2 for label in labels)
    return f"{weak} of the {sum(ours.played.values())} incidents change the spend by less than a factor of 2.\n"


def _cost_section() -> str:
    ours, (bytes_, us) = cost.measure(), cost.rival()
    return f"""## Cost at {cost.GROUPS:,} groups, all busy every minute

| | spendstream | z-score, 60 minutes |
| --- | --- | --- |
| memory per group, slack and open minutes included | {ours.bytes_per_group:,.0f} B | {bytes_:,.0f} B |
| CPU per update (a row of `Updates`) | {ours.us_per_update:.2f} µs | |
| CPU per group looked at while its minute runs | {ours.us_per_look_row:.2f} µs | |
| CPU per closed minute and group | {ours.us_per_minute:.2f} µs | {us:.2f} µs |
| CPU of a look when nothing changed, all groups together | {ours.us_idle_look:.0f} µs | |
"""


_HEAD = f"""# Quality of the anomaly alerts

Written by `make bench-alerts` (`python -m tests.bench.alerts`). Default rule (`cost`, both directions, normal
sensitivity), {GROUPS} groups of half a call to 300 calls a minute, Poisson calls with lognormal costs (cv 1 to 2), nights
at 10-20%, weekends at 10-30%, morning slopes, 10% slow wander, deployments that step level and price by 12%. The
incident series run {DAYS} days in slices of {60 // SLICES} s; incidents that move less than $0.10 a minute are not played.
Seeds: services {SERVICES_SEED}, history {HISTORY_SEED}, calm {CALM_SEEDS}, incidents {INCIDENT_SEED}.

"z-score": spend of a minute against mean and standard deviation of the 60 before, alert above 3; "tuned": the bound
with at most one alert on the calm week after three weeks. Neither knows a least change or spend. An alert is right
when it fires between an incident's start and 10 minutes after its end; delay is from the first anomalous second.
"""

if __name__ == "__main__":
    main()
