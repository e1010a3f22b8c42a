"""Alert rules and dashboards name only metrics that a worker exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from spendstream.metrics import Metrics

INFRA = Path(__file__).parents[2] / "infra"
RULES: list[dict[str, Any]] = [
    rule
    for group in YAML(typ="safe").load((INFRA / "prometheus/alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARDS = sorted((INFRA / "grafana/dashboards").glob("*.json"))
SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def panels() -> Iterator[dict[str, Any]]:
    for path in DASHBOARDS:
        yield from json.loads(path.read_text("utf-8"))["panels"]


def expressions() -> list[str]:
    targets = [target for panel in panels() for target in panel.get("targets", [])]
    return [rule["expr"] for rule in RULES] + [target["expr"] for target in targets if "expr" in target]


def exposed_series() -> set[str]:
    metrics = list(Metrics().registry.collect())
    return {metric.name + suffix for metric in metrics for suffix in SUFFIXES.get(metric.type, ("",))}


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_series_that_a_worker_exposes(expression: str) -> None:
    named = set(re.findall(r"\bspendstream_\w+", expression))
    assert named or re.search(r"\bup\b", expression)
    assert named <= exposed_series()


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_alerts_cover_worker_lag_sink_dead_letters_and_unpriced_calls() -> None:
    together = " ".join(rule["expr"] for rule in RULES)
    for series in (
        "up",
        "spendstream_lag_records",
        "spendstream_clickhouse_up",
        'outcome="dead_letters"',
        '"unpriced"',
    ):
        assert series in together


def test_panels_use_provisioned_datasources() -> None:
    provisioned = YAML(typ="safe").load(
        (INFRA / "grafana/provisioning/datasources/spendstream.yaml").read_text("utf-8")
    )
    known = {(source["type"], source["uid"]) for source in provisioned["datasources"]}
    used = {
        (target["datasource"]["type"], target["datasource"]["uid"])
        for panel in panels()
        for target in panel.get("targets", [])
    }
    assert used == known


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    for path in DASHBOARDS:
        board = json.loads(path.read_text("utf-8"))["panels"]
        assert len({panel["id"] for panel in board}) == len(board)
        cells = [
            (x, y)
            for panel in board
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) < 24
