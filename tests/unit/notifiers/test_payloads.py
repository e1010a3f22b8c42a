"""What Slack, Alertmanager and plain-text receivers are sent."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from spendstream.notifiers import messenger_of, render, slack
from spendstream.notifiers.alertmanager import EXPIRES_AFTER_S, postable
from spendstream.schemas.alert import Alert
from tests.unit.notifiers.make import BUDGET, NOON, make_alert, make_notifier, receiver

NOW = NOON + timedelta(minutes=20)

PLAIN = """\
code_agent (team developer-platform): spend at $41.20/min, expected $5.10/min
why: more calls: 412 a minute instead of 51 (+$31.00/min); longer prompts (+$5.10/min)
also: 12% of the calls fail
who: customer-007 71%
if this continues: +$1,240 by the end of the hour, +$26,000 by the end of the month
runbook: https://runbooks.example/spend?a=1&b=2"""


def test_an_alert_as_text() -> None:
    assert render.text(make_alert()) == PLAIN


def test_a_resolved_alert_says_so_first_and_has_no_projection() -> None:
    said = render.text(make_alert(3, "resolved"))
    assert said.startswith("Resolved: ")
    assert "from 2026-03-04 12:00 UTC to 2026-03-04 12:09 UTC" in said
    assert "if this continues" not in said


def test_a_budget_alert_says_how_much_is_spent() -> None:
    assert render.lines(make_alert(budget=BUDGET, attribution=None, projection=None, runbook=None)) == [
        "budget: $801.00 of $1,000 spent, forecast $6,200; the period ends 2026-04-01 00:00 UTC"
    ]


# https://docs.slack.dev/reference/block-kit/blocks
def check_slack(message: dict[str, Any]) -> None:
    assert set(message) == {"text", "blocks"}
    assert 0 < len(message["text"]) <= 3000
    assert 0 < len(message["blocks"]) <= 50
    for block in message["blocks"]:
        match block["type"]:
            case "header":
                assert set(block) == {"type", "text"}
                assert block["text"]["type"] == "plain_text"
                assert 0 < len(block["text"]["text"]) <= 150
            case "section":
                assert set(block) == {"type", "text"}
                assert block["text"]["type"] == "mrkdwn"
                assert 0 < len(block["text"]["text"]) <= 3000
            case "context":
                assert set(block) == {"type", "elements"}
                assert 0 < len(block["elements"]) <= 10
                assert all(one["type"] == "mrkdwn" and 0 < len(one["text"]) <= 3000 for one in block["elements"])
            case "divider":
                assert set(block) == {"type"}
            case other:
                pytest.fail(other)
    json.dumps(message)


def all_text(message: dict[str, Any]) -> str:
    return json.dumps(message["blocks"], ensure_ascii=False)


def test_slack_shows_what_why_who_projection_and_runbook() -> None:
    message = slack.payload([make_alert()])
    check_slack(message)
    for content in (all_text(message), message["text"]):
        for shown in ("code_agent", "$41.20/min", "412 a minute", "customer-007 71%", "$1,240", "runbooks.example"):
            assert shown in content
    assert "<https://runbooks.example/spend?a=1&amp;b=2|runbook>" in all_text(message)


def test_slack_shows_a_resolved_alert_differently() -> None:
    firing, resolved = (slack.payload([alert]) for alert in (make_alert(), make_alert(2, "resolved")))
    check_slack(resolved)
    assert firing["blocks"][0]["text"]["text"].startswith("🚨")
    assert resolved["blocks"][0]["text"]["text"].startswith("✅ Resolved: ")
    assert resolved["text"].startswith("✅ Resolved: ")


@pytest.mark.parametrize("count", [1, 2, 8, 9, 38, 39, 100])
def test_slack_accepts_a_notification_of_any_size(count: int) -> None:
    long = "x" * 400
    alerts = [make_alert(title=f"{number} {long}", runbook=long * 20) for number in range(count)]
    message = slack.payload(alerts)
    check_slack(message)
    assert (f"{count} alerts from spend" in all_text(message)) == (count > 1)


def test_a_name_from_an_event_can_mention_nobody_in_slack() -> None:
    hostile = "<!channel> & <https://evil.example|click>"
    message = slack.payload([make_alert(title=hostile, watch="w", runbook=hostile)])
    check_slack(message)
    mrkdwn = message["text"] + "".join(
        text for block in message["blocks"] for text in re.findall(r'"mrkdwn", "text": "(.*?)"[,}]', json.dumps(block))
    )
    assert "<!channel>" not in mrkdwn
    assert "<https://evil" not in mrkdwn
    assert "&lt;!channel&gt; &amp; " in mrkdwn


# definitions/postableAlert of Alertmanager's api/v2/openapi.yaml
def check_postable(alert: dict[str, Any]) -> None:
    assert set(alert) <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert alert["labels"]["alertname"]
    for name, value in {**alert["labels"], **alert["annotations"]}.items():
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)
        assert isinstance(value, str)
        assert value
    times = [datetime.fromisoformat(alert[name]) for name in ("startsAt", "endsAt")]
    assert all(alert[name].endswith("Z") for name in ("startsAt", "endsAt"))
    assert times[0] <= times[1]


def test_alertmanager_gets_constant_labels_and_an_end_that_moves_on() -> None:
    first, later = (postable(make_alert(seq, "updated"), NOW + timedelta(minutes=seq)) for seq in (1, 2))
    for one in (first, later):
        check_postable(one)
    assert first["labels"] == later["labels"]
    assert first["labels"] == {
        "alertname": "spend",
        "severity": "critical",
        "rule": "anomaly",
        "facet": "up",
        "team": "developer-platform",
        "feature": "code_agent",
    }
    assert first["startsAt"] == later["startsAt"] == "2026-03-04T12:00:00.000Z"
    assert datetime.fromisoformat(later["endsAt"]) == NOW + timedelta(minutes=2, seconds=EXPIRES_AFTER_S)
    assert first["annotations"]["summary"] == make_alert().title
    assert "customer-007" in first["annotations"]["description"]
    assert first["annotations"]["runbook_url"] == make_alert().runbook


@pytest.mark.parametrize(
    ("ends_at", "expected"),
    [
        (NOON + timedelta(minutes=9), NOON + timedelta(minutes=9)),
        (NOW + timedelta(hours=1), NOW),
        (NOON - timedelta(hours=1), NOON),
        (None, NOW),
    ],
)
def test_a_resolved_alert_ends_neither_in_the_future_nor_before_its_start(
    ends_at: datetime | None, expected: datetime
) -> None:
    over = postable(make_alert(3, "resolved", ends_at=ends_at, group={"team": ""}, runbook=None), NOW)
    check_postable(over)
    assert datetime.fromisoformat(over["endsAt"]) == expected
    assert "team" not in over["labels"]


async def posted(kind: str, path: str, alerts: list[Alert]) -> Any:
    async with receiver() as hook:
        url = hook.url.replace("http://", "json://") if kind == "apprise" else hook.url
        sender = messenger_of(make_notifier(url + path, kind=kind), {})
        await sender.send(alerts, NOW)
        await sender.close()
    (request,) = hook.requests
    return request


@pytest.mark.parametrize("path", ["", "/", "/api/v2/alerts"])
async def test_alertmanager_is_posted_the_last_transition_of_each_alert(path: str) -> None:
    alerts = [make_alert(1), make_alert(2, "updated"), make_alert(1, group={"team": "b"}), make_alert(3, "resolved")]
    request = await posted("alertmanager", path, alerts)
    assert request.path == "/api/v2/alerts"
    sent = json.loads(request.body)
    for alert in sent:
        check_postable(alert)
    assert [alert["labels"]["team"] for alert in sent] == ["developer-platform", "b"]
    assert datetime.fromisoformat(sent[0]["endsAt"]) == NOON + timedelta(minutes=9)


async def test_active_alerts_are_sent_to_alertmanager_again_until_they_are_resolved() -> None:
    async with receiver() as hook:
        sender = messenger_of(make_notifier(hook.url + "/prefix", kind="alertmanager"), {})
        assert sender.accepts(0, make_alert(1))
        assert sender.accepts(1, make_alert(1, group={"team": "b"}))
        await sender.refresh(NOW)
        # whether a transition notifies or not: an active alert stays up to date
        assert sender.accepts(0, make_alert(2, "updated", notify=False, notifiers=()))
        assert sender.accepts(0, make_alert(3, "resolved", notify=False, notifiers=()))
        assert not sender.accepts(0, make_alert(3, "resolved", notify=False))
        await sender.refresh(NOW)
        sender.forget(1)
        await sender.refresh(NOW)
        await sender.close()
    assert [len(json.loads(request.body)) for request in hook.requests] == [2, 1]
    assert {request.path for request in hook.requests} == {"/prefix/api/v2/alerts"}


async def test_alertmanager_is_sent_an_update_of_an_alert_that_was_notified_before_this_process_started() -> None:
    sender = messenger_of(make_notifier(kind="alertmanager"), {})
    assert sender.accepts(0, make_alert(7, "updated", notify=False, notified_at=NOON))
    assert sender.accepts(0, make_alert(8, "resolved", notify=False, notified_at=NOON))


@pytest.mark.parametrize(
    "alert",
    [
        make_alert(notify=False),
        make_alert(notify=False, silenced_by="night"),
        make_alert(transition="pending"),
        make_alert(notifiers=("other",)),
        make_alert(severity="info"),
    ],
)
async def test_alertmanager_is_sent_no_alert_before_somebody_is_notified(alert: Alert) -> None:
    async with receiver() as hook:
        sender = messenger_of(make_notifier(hook.url, kind="alertmanager", min_severity="warning"), {})
        assert not sender.accepts(0, alert)
        await sender.refresh(NOW)
        await sender.close()
    assert hook.requests == []


async def test_apprise_sends_plain_text() -> None:
    request = await posted("apprise", "", [make_alert()])
    content = json.loads(request.body)
    assert content["title"] == make_alert().title
    assert content["message"] == PLAIN
    assert content["type"] == "failure"
