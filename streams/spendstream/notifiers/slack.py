"""Slack's incoming webhooks: a message of blocks, with a plain text for the notification.

Slack's limits: 50 blocks a message, 150 characters in a header, 3,000 in a section's text. A notification of several
alerts shows the first ones in full and lists the titles of the others. Slack has no idempotency: a message whose answer
was lost arrives twice. Source: docs.slack.dev/reference/block-kit/blocks
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from spendstream.notifiers import render
from spendstream.notifiers.base import Endpoint, HttpClient, Messenger
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier

_MAX_HEADER: Final = 150
_MAX_SECTION: Final = 3000
_MAX_TEXT: Final = 3000
_MAX_IN_FULL: Final = 8
_MAX_LISTED: Final = 30
_ICONS: Final = {"info": "ℹ️", "warning": "⚠️", "critical": "🚨"}
_RESOLVED_ICON: Final = "✅"

Block = dict[str, Any]


class Slack(Messenger):
    """Posts messages to one incoming webhook."""

    def __init__(self, notifier: Notifier, endpoint: Endpoint) -> None:
        super().__init__(notifier)
        self._http = HttpClient(endpoint)

    async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
        """Post one message. Raises: Unreachable, Refused."""
        await self._http.post(json.dumps(payload(alerts)).encode(), {})

    async def close(self) -> None:
        await self._http.close()


def payload(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return the message for some transitions of one watch."""
    fallback = "\n\n".join(_escaped(f"{_icon(alert)} {render.text(alert)}") for alert in alerts)
    return {"text": _cut(fallback, _MAX_TEXT), "blocks": list(_blocks(alerts))}


def _blocks(alerts: Sequence[Alert]) -> Iterator[Block]:
    if len(alerts) > 1:
        yield _header(render.subject(alerts))
    for alert in alerts[:_MAX_IN_FULL]:
        if len(alerts) > 1:
            yield {"type": "divider"}
        yield from _alert(alert)
    if rest := alerts[_MAX_IN_FULL:]:
        yield {"type": "divider"}
        listed = [f"{_icon(alert)} {_escaped(render.title(alert))}" for alert in rest[:_MAX_LISTED]]
        if len(rest) > _MAX_LISTED:
            listed.append(f"… and {len(rest) - _MAX_LISTED} more")
        yield _section("\n".join(listed))


def _alert(alert: Alert) -> Iterator[Block]:
    """Yield the title, the facts, and a footer. A resolved alert has no warning icon."""
    yield _header(f"{_icon(alert)} {render.title(alert)}")
    shown = [line for line in render.lines(alert) if not line.startswith("runbook: ")]
    if shown:
        yield _section("\n".join(map(_line, shown)))
    moment = f"{alert.started_at:%Y-%m-%d %H:%M} UTC"
    since = f"<!date^{int(alert.started_at.timestamp())}^{{date_short_pretty}} {{time}}|{moment}>"
    footer = [alert.severity, _escaped(f"{alert.watch} · {alert.facet}"), f"since {since}"]
    if alert.runbook:
        is_link = alert.runbook.startswith(("https://", "http://")) and not set(alert.runbook) & set("<>|")
        footer.append(f"<{_escaped(alert.runbook)}|runbook>" if is_link else f"runbook: {_escaped(alert.runbook)}")
    yield {"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(" · ".join(footer), _MAX_SECTION)}]}


def _line(line: str) -> str:
    label, colon, rest = line.partition(": ")
    return f"*{_escaped(label)}:* {_escaped(rest)}" if colon else _escaped(line)


def _header(content: str) -> Block:
    return {"type": "header", "text": {"type": "plain_text", "text": _cut(content, _MAX_HEADER), "emoji": True}}


def _section(content: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(content, _MAX_SECTION)}}


def _icon(alert: Alert) -> str:
    return _RESOLVED_ICON if alert.state == "resolved" else _ICONS[alert.severity]


def _escaped(content: str) -> str:
    """Escape text: names come from events, and one such as ``<!channel>`` would notify everybody."""
    return content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(content: str, max_chars: int) -> str:
    return content if len(content) <= max_chars else content[: max_chars - 1] + "…"
