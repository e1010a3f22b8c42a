"""Measures the quality and the cost of anomaly detection and writes docs/alert-quality.md."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
DAYS = 2
SLICES = 4
HISTORY = 2
WORKERS = 4
RULE = AnomalyRule(kind="anomaly")


def main() -> None:
    """Run everything, in processes of their own, and write the page."""
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        taught = pool.submit(teach)
        fresh = pool.submit(incidents, None)
        others = [pool.submit(calm_week, seed) for seed in CALM_SEEDS]
        spent = pool.submit(cost.measure)
        state, first_alerts = taught.result()
        last = pool.submit(last_week, state)
        after = pool.submit(incidents, state)
        rows = [("from a cold start", HISTORY_SEED, first_alerts, _z(_weeks(0, 1)))]
        rows += [
            ("from a cold start", seed, one.result(), _z(_calm(seed)))
            for seed, one in zip(CALM_SEEDS, others, strict=True)
        ]
        z_last = _z(_weeks(0, HISTORY + 1))[:, HISTORY * WEEK :]
        rows.append((f"after {HISTORY} weeks", HISTORY_SEED, last.result(), z_last))
        bound = rival.tuned(z_last, 1, MONDAY_US)
        sections = [
            _HEAD,
            _calm_section(rows, bound),
            _incident_section(f"Incidents after {HISTORY} weeks of history", HISTORY * WEEK, after.result(), bound),
            _incident_section("Incidents from a cold start, after one calm day", 0, fresh.result(), bound),
            _cost_section(spent.result()),
        ]
    OUT.write_text("\n".join(sections))


def teach() -> tuple[dict[str, np.ndarray], list[Raised]]:
    """Play the calm history; return what was learned, and the alerts of its first week."""
    drive = Drive.of(RULE, GROUPS)
    drive.run(_weeks(0, HISTORY))
    early = [alert for alert in drive.alerts if alert.fired_us < MONDAY_US + WEEK * MINUTE_US]
    return dict(drive.evaluator.snapshot()), early


def calm_week(seed: int) -> list[Raised]:
    """Play one calm week of other services from a cold start."""
    return Drive.of(RULE, GROUPS).run(_calm(seed))


def last_week(state: dict[str, np.ndarray]) -> list[Raised]:
    """Play the calm week after the history."""
    return _known(state).run(_weeks(HISTORY, HISTORY + 1))


def incidents(state: dict[str, np.ndarray] | None) -> list[Raised]:
    """Play the series with incidents, after the history or from a cold start."""
    series, _ = _incidents(HISTORY * WEEK if state else 0)
    return _known(state).run(series)


def _known(state: dict[str, np.ndarray] | None) -> Drive:
    drive = Drive.of(RULE, GROUPS)
    if state is not None:
        drive.evaluator.restore(state)
    return drive


def _calm(seed: int) -> Series:
    groups = services(GROUPS, seed)
    return play(groups, calm(groups, WEEK, seed), seed)


def _weeks(first: int, last: int) -> Series:
    groups = services(GROUPS, SERVICES_SEED)
    series = play(groups, calm(groups, (HISTORY + 1) * WEEK, HISTORY_SEED), HISTORY_SEED)
    part = slice(first * WEEK, last * WEEK)
    return Series(series.calls[:, part], series.cost[:, part], 1, MONDAY_US + first * WEEK * MINUTE_US)


def _incidents(first: int) -> tuple[Series, list[Incident]]:
    """Return the series from minute ``first`` of the week's profile on, and its labels."""
    groups = services(GROUPS, SERVICES_SEED)
    rates = calm(groups, DAYS * 1440, INCIDENT_SEED, first)
    rates, labels = play_incidents(groups, rates, 0 if first else 1440, INCIDENT_SEED)
    return play(groups, rates, INCIDENT_SEED, SLICES, MONDAY_US + first * MINUTE_US), labels


def _z(series: Series) -> np.ndarray:
    return rival.scores(series.usd_per_minute())


def _calm_section(rows: Sequence[tuple[str, int, list[Raised], np.ndarray]], bound: float) -> str:
    lines = ["## False alerts\n", "| a calm week, 100 groups: alerts | spendstream | z-score, 3 | z-score, tuned |"]
    lines.append("| --- | --- | --- | --- |")
    for what, seed, alerts, z in rows:
        three, tuned = (len(rival.alerts(z, at, MONDAY_US)) for at in (3.0, bound))
        lines.append(f"| {what} (seed {seed}) | **{len(alerts)}** | {three:,} | {tuned:,} |")
    return "\n".join(lines) + "\n"


def _incident_section(title: str, first: int, alerts: list[Raised], bound: float) -> str:
    series, labels = _incidents(first)
    ours = score(alerts, labels, series.start_us)
    rivals = [score(rival.alerts(_z(series), at, series.start_us), labels, series.start_us) for at in (3.0, bound)]
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


def _cost_section(ours: cost.Cost) -> str:
    bytes_, us = cost.rival()
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
sensitivity), {GROUPS} groups of half a call to 300 calls a minute, Poisson calls with lognormal costs (cv 1 to 2),
nights at 10-20%, weekends at 10-30%, morning slopes, 10% slow wander, deployments that step level and price by 12%.
The incident series run {DAYS} days in slices of {60 // SLICES} s; incidents that move less than $0.10 a minute are
not played. Seeds: services {SERVICES_SEED}, history {HISTORY_SEED}, calm {CALM_SEEDS}, incidents {INCIDENT_SEED};
the calm weeks of other seeds have services of their own.

"z-score": spend of a minute against mean and standard deviation of the 60 before, alert above 3; "tuned": the bound
with at most one alert on the calm week after the history. Neither knows a least change or spend. An alert is right
when it fires between an incident's start and 10 minutes after its end; delay is from the first anomalous second.
"""
