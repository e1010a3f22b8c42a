"""An invalid watches file is refused with line, column, and how to fix it: every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from spendstream.watches import WatchesInvalid, WatchesUnreadable, read_watches
from tests.unit.watches.documents import COST, found_in, write

BUDGET = "kind: budget, amount_usd: 1"
DAYS = "starts_at: 2026-01-01T00:00:00Z, ends_at: 2026-01-02T00:00:00Z"
DAY = "starts_at: 2026-01-02T00:00:00Z"

# In each, ▸ marks the position that the message names.

RULES = [
    ("kind: anomaly, sensitivty: ▸high", "w.rule.sensitivty: unknown field: did you mean sensitivity?"),
    ("kind: threshold, measure: cost, abov: ▸1, below: 1", "did you mean above?"),
    ("kind: anomaly, amount_usd: ▸3", "unknown field: check its spelling, or remove it"),
    ("kind: ▸anomoly", "unknown kind anomoly: did you mean anomaly?"),
    ("kind: anomaly, measure: ▸costs", "did you mean cost?"),
    ("kind: anomaly, measure: ▸null", "unknown value null: one of cost, calls"),
    ("kind: anomaly, direction: ▸sideways", "unknown value sideways: one of up, down, both"),
    ("kind: anomaly, min_change: ▸half", "expected a number"),
    ("kind: anomaly, min_change: ▸nan", "expected a number"),
    ("kind: anomaly, min_change: ▸-1", "must be at least 0"),
    ("kind: anomaly, min_calls: ▸1.5", "expected a whole number"),
    ("kind: anomaly, min_history: ▸1h30m", "not a duration: write a number and s, m, h, d or w"),
    ("kind: threshold, measure: cost, above: 1, window: ▸90s", "must be whole minutes"),
    ("kind: threshold, measure: cost, above: 1, window: ▸5", "must be at least 60"),
    ("kind: budget, amount_usd: ▸1e", "expected an amount in plain digits"),
    ("kind: budget, amount_usd: ▸0", "must be more than 0"),
    ("kind: budget, amount_usd: ▸0.0000000000001", "too fine: at most 12 decimals"),
    (f"{BUDGET}, time_zone: ▸Berlin", "write a name such as Europe/Berlin"),
    (f"{BUDGET}, period: ▸year", "unknown value year: one of day, week, month"),
    (f"{BUDGET}, thresholds: [0.5, ▸0]", "must be more than 0"),
    (f"{BUDGET}, thresholds: [0.5, ▸0.50]", "duplicate: remove one"),
    (f"{BUDGET}, forecast: ▸perhaps", "expected true or false"),
    (f"{BUDGET}, burn_rates: [{{long: 1h, short: ▸2h, factor: 1}}]", "short less than long"),
    (
        f"{BUDGET}, burn_rates: [{{long: 1h, short: 5m, factor: 1}}, ▸{{long: 60m, short: 5m, factor: 2}}]",
        "duplicate: remove one",
    ),
    (f"{BUDGET}, amounts: [{{group: ▸{{feature: x}}, amount_usd: 1}}]", "give a value for exactly team"),
    (f"{BUDGET}, amounts: [{{group: ▸{{team: a, feature: x}}, amount_usd: 1}}]", "give a value for exactly team"),
    (
        f"{BUDGET}, amounts: [{{group: {{team: a}}, amount_usd: 1}}, {{group: ▸{{team: a}}, amount_usd: 2}}]",
        "this group already has an amount",
    ),
]

WHOLE_RULES = [
    ("measure: cost", "missing field kind: add it, one of anomaly, budget, threshold"),
    ("kind: budget", "w.rule.amount_usd: missing field: add it"),
    ("kind: threshold, measure: cost", "give either above or below"),
    ("kind: threshold, measure: cost, above: 1, below: 1", "give either above or below"),
]

AFTER_COST = [
    ("    renotfy: ▸1h", "watches.cost.renotfy: unknown field: did you mean renotify?"),
    ("    severity: ▸urgent", "unknown value urgent: one of info, warning, critical"),
    ("    ▸rule: {kind: anomaly}", "rule: already set on line 4: remove one"),
    ("    scope: {▸tema: x}", "unknown value tema: did you mean team?"),
    ("    scope: {team: ▸[]}", "empty: add at least one"),
    (
        "    scope: {▸user: ada}",
        "user is not a dimension of this deployment: add it to METER_DIMENSIONS (service, team",
    ),
    ("    notify: ▸pager", "expected a list"),
    ("    notify: [▸pager]", "unknown notifier pager: there is no notifier in this file"),
    ("    <<: ▸{}", "merge keys aren't supported: write the fields out"),
    ("  - name: ▸cost\n    rule: {kind: anomaly}", "duplicate name cost"),
    ("  - ▸just text", "expected a mapping"),
    ("wathces: ▸[]", "wathces: unknown field"),
    ("notifiers:\n  - {name: n, kind: ▸slak, url: 'http://x'}", "did you mean slack?"),
    ("notifiers:\n  - ▸{name: n, kind: slack}", "notifiers.n: give either url or url_env"),
    ("notifiers:\n  - ▸{name: n, kind: slack, url: 'http://x', url_env: X}", "give either url or url_env"),
    ("notifiers:\n  - {name: n, kind: webhook, url: ▸'ftp://x'}", "write it as https://host/path"),
    ("notifiers:\n  - {name: n, kind: webhook, url: ▸'https:///x'}", "write it as https://host/path"),
    ("notifiers:\n  - {name: n, kind: apprise, url: ▸'mailto'}", "write it as scheme://"),
    ("notifiers:\n  - {name: n, kind: slack, url: 'https://x', secret_env: ▸X}", "only webhooks are signed"),
    ("notifiers:\n  - {name: n, kind: apprise, url: 'x://y', headers_env: ▸{A: B}}", "everything from its URL"),
    ("notifiers:\n  - {name: n, kind: slack, url: 'https://x', timeout: ▸3m}", "must be at most 120"),
    (
        "notifiers:\n  - &n {name: n, kind: slack, url_env: X}\n  - {name: ▸n, kind: slack, url_env: Y}",
        "duplicate name n",
    ),
    ("maintenance:\n  - ▸{name: m, starts_at: 2026-01-01, ends_at: 2026-01-02T00:00:00Z}", "times with their zone"),
    (f"maintenance:\n  - {{name: m, {DAY}, ends_at: ▸2026-01-02T00:00:00Z}}", "must be later than starts_at"),
    (f"maintenance:\n  - {{name: m, {DAY}, ends_at: ▸tomorrow}}", "not a valid time: write it with its zone"),
    (f"maintenance:\n  - {{name: m, {DAYS}, watches: [▸cots]}}", "unknown watch cots: did you mean cost?"),
    (f"maintenance:\n  - {{name: m, {DAYS}, scope: {{▸user: ada}}}}", "user is not a dimension of this deployment"),
]

WHOLE_FILES = [
    (COST.replace("name: cost", "name: ▸Cost Of"), "must match"),
    (COST.replace("[team]", "[team, feature, ▸team]"), "duplicate: remove one"),
    (COST.replace("[team]", "[▸feture]"), "did you mean feature?"),
    (COST.replace("[team]", "[team, ▸customer]"), "customer is not a dimension of this deployment"),
    (
        "watches:\n  - name: w\n    rule:\n      kind: budget\n      amount_usd: 1\n      amounts:\n"
        "        - group: ▸{team: a}\n          amount_usd: 2\n",
        "it has no group_by, so give only amount_usd",
    ),
    ("version: ▸2\n" + COST, "unknown value 2: one of 1"),
    ("▸notifiers: []\n", "watches: missing field: add it"),
    ("watches: ▸[]\n", "empty: add at least one"),
    ("▸- a\n", "expected a mapping"),
    ("▸# nothing yet\n", "the file is empty: add watches"),
    ("▸watches: &a [*a]\n", "an alias contains itself"),
]


def rule(fields: str) -> str:
    return f"watches:\n  - name: w\n    group_by: [team]\n    rule: {fields}\n"


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        *((rule(f"{{{fields}}}"), says) for fields, says in RULES),
        *((rule(f"▸{{{fields}}}"), says) for fields, says in WHOLE_RULES),
        *((f"{COST}{more}\n", says) for more, says in AFTER_COST),
        *WHOLE_FILES,
    ],
)
def test_a_mistake_is_reported_where_it_is(tmp_path: Path, marked: str, says: str) -> None:
    before, _, after = marked.partition("▸")
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    found = found_in(tmp_path, before + after)
    assert [at[:2] for at in found] == [(line, column)], found
    assert says in found[0][2]


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    """An invalid rule hides neither the duplicate name of its watch nor its unknown notifier."""
    text = (
        COST + "    notify: [pager]\n  - name: cost\n    notify: [pgaer]\n    rule: {kind: anomaly, min_calls: few}\n"
    )
    text += "notifiers:\n  - {name: pager, kind: webhook, url: 'https://x', timeout: long}\n"
    found = found_in(tmp_path, text)
    assert [line for line, *_ in found] == [6, 7, 8, 10]
    assert "did you mean pager?" in found[1][2]


def test_a_list_whose_only_item_is_invalid_is_not_called_empty(tmp_path: Path) -> None:
    assert len(found_in(tmp_path, rule("{kind: anomaly, min_calls: few}"))) == 1


def test_dimensions_are_checked_only_against_those_that_are_given(tmp_path: Path) -> None:
    text = COST.replace("[team]", "[team, customer]")
    read_watches(write(tmp_path, text), ("team", "customer"))
    read_watches(write(tmp_path, text))


def test_a_file_that_is_not_yaml_is_reported_where_it_breaks(tmp_path: Path) -> None:
    with pytest.raises(WatchesUnreadable) as refused:
        read_watches(write(tmp_path, "watches: [1, 2\nmore: 3"))
    assert [(issue.line, issue.column) for issue in refused.value.issues] == [(2, 5)]


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WatchesUnreadable, match="can't be read"):
        read_watches(tmp_path / "none.yaml")


def test_the_error_has_one_line_for_each_mistake(tmp_path: Path) -> None:
    file = write(tmp_path, COST + "    severity: urgent\n    renotify: soon\n")
    with pytest.raises(WatchesInvalid) as refused:
        read_watches(file)
    assert [line.split(": ")[0] for line in str(refused.value).splitlines()] == [f"{file}:5:15", f"{file}:6:15"]
