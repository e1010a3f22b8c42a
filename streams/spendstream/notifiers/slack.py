"""Slack's incoming webhooks: a message of blocks, readable in the notification's plain text too.

Slack's limits: 50 blocks a message, 150 characters in a header, 3,000 in a section's text. A bundle shows its first
alerts in full and names the others. Slack has no idempotency: a message whose answer was lost comes twice.
Source: docs.slack.dev/reference/block-kit/blocks
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from spendstream.notifiers import words
from spendstream.notifiers.endpoint import Endpoint
from spendstream.notifiers.http import Http
from spendstream.schemas.alert import Alert

_HEADER: Final = 150
_SECTION: Final = 3000
_TEXT: Final = 3000
_IN_FULL: Final = 8
_NAMED: Final = 30
_ICONS: Final = {"info": "ℹ️", "warning": "⚠️", "critical": "🚨"}
_RESOLVED_ICON: Final = "✅"

Block = dict[str, Any]


class Slack:
    """Posts messages to one incoming webhook."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http = Http(endpoint)

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Post one message. Raises: Unreachable, Refused."""
        await self._http.post(json.dumps(payload(alerts)).encode(), {})

    async def close(self) -> None:
        await self._http.close()


def payload(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return the message of some transitions of one watch."""
    fallback = "\n\n".join(_escaped(f"{_icon(alert)} {words.text(alert)}") for alert in alerts)
    return {"text": _cut(fallback, _TEXT), "blocks": list(_blocks(alerts))}


def _blocks(alerts: Sequence[Alert]) -> Iterator[Block]:
    if len(alerts) > 1:
        yield _header(f"{len(alerts)} alerts of {alerts[0].watch}")
    for alert in alerts[:_IN_FULL]:
        if len(alerts) > 1:
            yield {"type": "divider"}
        yield from _alert(alert)
    if rest := alerts[_IN_FULL:]:
        yield {"type": "divider"}
        named = [f"{_icon(alert)} {_escaped(words.title(alert))}" for alert in rest[:_NAMED]]
        if len(rest) > _NAMED:
            named.append(f"… and {len(rest) - _NAMED} more")
        yield _section("\n".join(named))


def _alert(alert: Alert) -> Iterator[Block]:
    """The title; what is known of the alert; where it belongs. What is over is told quietly: no icons of danger."""
    yield _header(f"{_icon(alert)} {words.title(alert)}")
    told = [line for line in words.lines(alert) if not line.startswith("runbook: ")]
    if told:
        yield _section("\n".join(map(_line, told)))
    yield {"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(_footer(alert), _SECTION)}]}


def _line(line: str) -> str:
    label, colon, rest = line.partition(": ")
    return f"*{_escaped(label)}:* {_escaped(rest)}" if colon else _escaped(line)


def _footer(alert: Alert) -> str:
    moment = f"{alert.started_at:%Y-%m-%d %H:%M} UTC"
    since = f"<!date^{int(alert.started_at.timestamp())}^{{date_short_pretty}} {{time}}|{moment}>"
    parts = [alert.severity, _escaped(f"{alert.watch} · {alert.facet}"), f"since {since}"]
    if alert.runbook:
        is_link = alert.runbook.startswith(("https://", "http://")) and not set(alert.runbook) & set("<>|")
        parts.append(f"<{_escaped(alert.runbook)}|runbook>" if is_link else f"runbook: {_escaped(alert.runbook)}")
    return " · ".join(parts)


def _header(content: str) -> Block:
    return {"type": "header", "text": {"type": "plain_text", "text": _cut(content, _HEADER), "emoji": True}}


def _section(content: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(content, _SECTION)}}


def _icon(alert: Alert) -> str:
    return _RESOLVED_ICON if alert.state == "resolved" else _ICONS[alert.severity]


def _escaped(content: str) -> str:
    """Names come from events: unescaped, one of them could call the whole channel."""
    return content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(content: str, longest: int) -> str:
    return content if len(content) <= longest else content[: longest - 1] + "…"
