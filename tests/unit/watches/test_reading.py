"""What a valid watches file means."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from spendstream.cli.demo import WATCHES as DEMO
from spendstream.cli.watches import to_yaml
from spendstream.core.detect.measures import is_ratio
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS, DIMENSIONS
from spendstream.schemas.watch import AnomalyRule, BudgetRule, Watches
from spendstream.watches import (
    DEFAULT_WATCHES,
    EnvironmentMissing,
    check_dimensions,
    check_environment,
    check_prudence,
    default_watches,
    load_watches,
    read_watches,
    require_environment,
)
from tests.unit.watches.documents import COST, write

FOLDER = Path(__file__).parents[3] / "infra" / "watches"

NOTIFIERS = """\
notifiers:
  - {name: pager, kind: webhook, url_env: PAGER_URL, secret_env: PAGER_KEY, headers_env: {X-Token: PAGER_TOKEN}}
"""


def test_amounts_are_exact(tmp_path: Path) -> None:
    """0.1 + 0.2 in floats is not 0.3; nor is 0.000000000001 of a large amount left in one."""
    text = COST.replace("kind: anomaly", "kind: budget, amount_usd: 123456789012.000000000001")
    rule = read_watches(write(tmp_path, text)).watches[0].rule
    assert isinstance(rule, BudgetRule)
    assert rule.amount_usd == Decimal("123456789012.000000000001")


def test_values_that_look_like_numbers_are_text(tmp_path: Path) -> None:
    watch = read_watches(write(tmp_path, COST + "    scope: {feature: 007, environment: [1e3, yes]}\n")).watches[0]
    assert watch.scope == {"feature": ("007",), "environment": ("1e3", "yes")}


def test_durations_have_units_and_a_bare_number_is_seconds(tmp_path: Path) -> None:
    text = COST.replace("kind: anomaly", "kind: anomaly, min_history: 2w, no_data_after: null, adopt_after: 90")
    watch = read_watches(write(tmp_path, text + "    renotify: 0\n")).watches[0]
    assert isinstance(watch.rule, AnomalyRule)
    assert (watch.rule.min_history, watch.rule.no_data_after, watch.rule.adopt_after) == (1_209_600, None, 90)
    assert watch.renotify == 0


def test_the_example_is_valid_and_shows_every_field() -> None:
    watches = read_watches(FOLDER / "example.yaml", DEFAULT_DIMENSIONS)
    text = (FOLDER / "example.yaml").read_text()
    schema = Watches.model_json_schema()
    parts = {name for part in schema["$defs"].values() for name in part.get("properties", {})}
    assert {name for name in parts | schema["properties"].keys() if f"{name}:" not in text} == {"below"}
    assert {watch.rule.kind for watch in watches.watches} == {"anomaly", "budget", "threshold"}
    assert check_prudence(watches) == []


def test_the_built_in_watches_are_valid_and_have_no_budget() -> None:
    assert Watches.model_validate(DEFAULT_WATCHES.model_dump(mode="json")) == DEFAULT_WATCHES
    assert check_dimensions(DEFAULT_WATCHES, DEFAULT_DIMENSIONS) == []
    assert {watch.rule.kind for watch in DEFAULT_WATCHES.watches} == {"anomaly", "threshold"}
    assert DEFAULT_WATCHES.notifiers == ()


def test_the_built_in_watches_read_back_the_same_from_a_file(tmp_path: Path) -> None:
    assert read_watches(write(tmp_path, to_yaml(DEFAULT_WATCHES)), DEFAULT_DIMENSIONS) == DEFAULT_WATCHES


def test_only_one_built_in_watch_reports_a_group_without_calls() -> None:
    reporting = [w.name for w in DEFAULT_WATCHES.watches if isinstance(w.rule, AnomalyRule) and w.rule.no_data_after]
    assert reporting == ["cost"]
    assert not is_ratio("cost")


def test_an_unpriced_model_is_one_alert_for_a_week() -> None:
    watch = next(watch for watch in DEFAULT_WATCHES.watches if watch.name == "unpriced-model")
    assert watch.renotify == 7 * 86_400
    assert watch.rule.model_dump(include={"above", "min_calls"}) == {"above": 0.0, "min_calls": 1}


def test_the_demo_has_the_built_in_watches_with_shorter_durations_and_a_budget() -> None:
    demo = read_watches(DEMO, DEFAULT_DIMENSIONS).model_dump()
    budget = demo["watches"][-1]
    demo["watches"] = demo["watches"][:-1]
    assert budget["name"] == "research-budget"
    built_in = DEFAULT_WATCHES.model_dump()
    for watch in built_in["watches"]:
        if watch["rule"]["kind"] == "anomaly":
            watch["rule"]["min_history"] = 120
        if watch["name"] == "provider-failures":
            watch["rule"]["window"] = 60
    assert demo == built_in


def test_without_a_file_the_built_in_watches_fit_the_dimensions_of_the_deployment() -> None:
    watches = load_watches(None, ("service", "feature"), {})
    assert [watch.group_by for watch in watches.watches] == [("feature",), (), (), (), (), ("feature",)]
    assert check_dimensions(watches, ("service", "feature")) == []
    assert default_watches(DIMENSIONS) == DEFAULT_WATCHES


def test_unset_variables_are_reported_by_name_and_place(tmp_path: Path) -> None:
    watches = read_watches(write(tmp_path, COST + NOTIFIERS))
    found = check_environment(watches, {"PAGER_URL": "https://pager", "PAGER_KEY": ""})
    assert [(fault.loc[2:], fault.message.split()[3]) for fault in found] == [
        (("secret_env",), "PAGER_KEY"),
        (("headers_env", "X-Token"), "PAGER_TOKEN"),
    ]


def test_a_worker_does_not_start_without_its_variables_and_no_value_is_shown(tmp_path: Path) -> None:
    file = write(tmp_path, COST + NOTIFIERS)
    environ = {"PAGER_URL": "hunter2", "PAGER_KEY": "k", "PAGER_TOKEN": "t"}
    with pytest.raises(EnvironmentMissing) as refused:
        load_watches(file, DEFAULT_DIMENSIONS, environ)
    assert "notifier pager: the environment variable PAGER_URL is not an http or https URL" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    require_environment(read_watches(file), {**environ, "PAGER_URL": "https://pager"})


@pytest.mark.parametrize("url", ["https://hooks.slack.com/services/T/B/x", "https://me:secret@host/x"])
def test_a_secret_in_the_file_is_a_warning(tmp_path: Path, url: str) -> None:
    watches = read_watches(write(tmp_path, COST + f"notifiers:\n  - {{name: n, kind: slack, url: '{url}'}}\n"))
    (fault,) = check_prudence(watches)
    assert fault.loc == ("notifiers", 0, "url")
    assert url not in fault.message


def test_a_watch_that_no_notifier_would_send_is_a_warning(tmp_path: Path) -> None:
    notifier = "notifiers:\n  - {name: n, kind: slack, url: 'https://x', min_severity: critical}\n"
    watches = read_watches(write(tmp_path, COST + notifier))
    assert [fault.loc for fault in check_prudence(watches)] == [("watches", 0, "severity")]
    assert check_prudence(read_watches(write(tmp_path, COST + "    severity: critical\n" + notifier))) == []
