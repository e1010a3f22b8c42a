"""Measures the quality and the cost of anomaly detection and writes docs/alert-quality.md."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.watch import AnomalyRule
from tests.bench.alerts import cost, rival, tables
from tests.bench.alerts.drive import Drive, Raised
from tests.bench.alerts.incidents import Incident, play_incidents
from tests.bench.alerts.rival import Rival
from tests.bench.alerts.score import Quality, score
from tests.bench.alerts.traffic import MONDAY_US, WEEK, Rates, Series, calm, play, services

OUT = Path(__file__).parents[3] / "docs" / "alert-quality.md"
GROUPS = 100
SEEDS = (401, 402, 403)
DAYS = 2
SLICES = 4
HISTORY = 2
WORKERS = 2
RULE = AnomalyRule(kind="anomaly")
_CALM_DAY = 1440

Alerts = list[Raised]


def main() -> None:
    """Run everything, in processes of their own, and write the page."""
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        known = [pool.submit(history, seed) for seed in SEEDS]
        fresh = [pool.submit(cold_incidents, seed) for seed in SEEDS]
        spent = pool.submit(cost.measure)
        calm_z = [calm_rivals(seed) for seed in SEEDS]
        after_z = [Rival.of(incidents(seed, HISTORY * WEEK)[0]) for seed in SEEDS]
        cold_z = [Rival.of(incidents(seed, 0)[0]) for seed in SEEDS]
        weeks = [one.result() for one in known]
        allowed = max(sum(len(last) for _, last, _ in weeks), 1)
        bounds = tables.Bounds(*(rival.tuned([z for _, z in calm_z], allowed, fair=fair) for fair in (False, True)))
        rows = [(f"from a cold start, seed {s}", w[0], z[0]) for s, w, z in zip(SEEDS, weeks, calm_z, strict=True)]
        rows += [(f"after 2 weeks, seed {s}", w[1], z[1]) for s, w, z in zip(SEEDS, weeks, calm_z, strict=True)]
        sections = [
            tables.head(GROUPS, DAYS, SLICES, SEEDS),
            tables.calm_section(rows, bounds),
            _section(
                f"Incidents after {HISTORY} weeks of history", HISTORY * WEEK, [w[2] for w in weeks], after_z, bounds
            ),
            _section(
                "Incidents from a cold start, after one calm day", 0, [one.result() for one in fresh], cold_z, bounds
            ),
            tables.cost_section(spent.result()),
        ]
    OUT.write_text("\n".join(sections))


def history(seed: int) -> tuple[Alerts, Alerts, Alerts]:
    """Return the alerts of a calm first week, of a calm third, and of incidents in its stead."""
    series = _weeks(seed)
    drive = Drive.of(RULE, GROUPS)
    cold = list(drive.run(_part(series, 0, 1)))
    drive.run(_part(series, 1, HISTORY))
    learned = {name: array.copy() for name, array in drive.evaluator.snapshot().items()}
    before = len(drive.alerts)
    last = drive.run(_part(series, HISTORY, HISTORY + 1))[before:]
    then = Drive.of(RULE, GROUPS)
    then.evaluator.restore(learned)
    return cold, last, then.run(incidents(seed, HISTORY * WEEK)[0])


def cold_incidents(seed: int) -> Alerts:
    """Return the alerts of a calm day, from a cold start, and days with incidents after it."""
    return Drive.of(RULE, GROUPS).run(incidents(seed, 0)[0])


def calm_rivals(seed: int) -> tuple[Rival, Rival]:
    """Return the z-scores of the first and of the last week."""
    series = _weeks(seed)
    return Rival.of(_part(series, 0, 1)), Rival.of(_part(series, HISTORY, HISTORY + 1))


def incidents(seed: int, first: int) -> tuple[Series, list[Incident]]:
    """Return series and labels, from minute ``first`` of the calm rates on; from 0 with a calm day before."""
    groups = services(GROUPS, seed)
    days = DAYS if first else DAYS + 1
    whole = calm(groups, (HISTORY + 1) * WEEK, seed)
    part = slice(first, first + days * 1440)
    rates = Rates(whole.calls[:, part].copy(), whole.call_factor[:, part].copy())
    rates, labels = play_incidents(groups, rates, 0 if first else _CALM_DAY, seed + 1)
    return play(groups, rates, seed + 1, SLICES, MONDAY_US + first * MINUTE_US), labels


def _weeks(seed: int) -> Series:
    groups = services(GROUPS, seed)
    return play(groups, calm(groups, (HISTORY + 1) * WEEK, seed), seed)


def _part(series: Series, first: int, last: int) -> Series:
    part = slice(first * WEEK, last * WEEK)
    return Series(series.calls[:, part], series.cost[:, part], 1, MONDAY_US + first * WEEK * MINUTE_US)


def _section(title: str, first: int, alerts: Sequence[Alerts], rivals: Sequence[Rival], bounds: "tables.Bounds") -> str:
    labels = [incidents(seed, first)[1] for seed in SEEDS]
    others = [
        [one.alerts(bound, fair=fair) for one in rivals]
        for bound, fair in ((3.0, False), (3.0, True), (bounds.plain, False), (bounds.fair, True))
    ]
    start_us = MONDAY_US + first * MINUTE_US
    return tables.incident_section(title, [_scored(one, labels, start_us) for one in (alerts, *others)], bounds)


def _scored(alerts: Sequence[Alerts], labels: Sequence[list[Incident]], start_us: int) -> Quality:
    """Score the series of all seeds as one, each with groups of its own."""
    shifted = [replace(one, group=one.group + at * GROUPS) for at, some in enumerate(alerts) for one in some]
    named = [replace(one, group=one.group + at * GROUPS) for at, some in enumerate(labels) for one in some]
    return score(shifted, named, start_us)
