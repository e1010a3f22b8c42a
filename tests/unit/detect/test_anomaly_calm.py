"""A calm week of a hundred groups: nights, weekends, mornings, heavy-tailed calls, deployments; no incidents."""

from spendstream.schemas.watch import AnomalyRule
from tests.bench.alerts.drive import Drive
from tests.bench.alerts.incidents import play_incidents
from tests.bench.alerts.traffic import WEEK, calm, play, services


def test_a_calm_week_from_a_cold_start_raises_at_most_one_alert_in_a_hundred_groups() -> None:
    groups = services(100, seed=11)
    series = play(groups, calm(groups, WEEK, seed=11), seed=11)
    alerts = Drive.of(AnomalyRule(kind="anomaly"), 100).run(series)
    assert len(alerts) <= 1, alerts


def test_the_same_groups_alert_in_a_week_that_is_not_calm() -> None:
    groups = services(100, seed=11)
    rates, labels = play_incidents(groups, calm(groups, 1440, seed=11), first=400, seed=11)
    alerts = Drive.of(AnomalyRule(kind="anomaly"), 100).run(play(groups, rates, seed=11))
    assert len({alert.group for alert in alerts}) > 0.4 * len({label.group for label in labels})
