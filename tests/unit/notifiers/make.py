"""Alerts, and receivers on loopback that record what they are sent and answer as configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from aiohttp import web

from spendstream.schemas.alert import (
    Alert,
    Attribution,
    BudgetStatus,
    Contributor,
    Part,
    Projection,
    alert_id,
    transition_id,
)
from spendstream.schemas.watch import Notifier

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

ATTRIBUTION = Attribution(
    observed_usd_per_minute=Decimal("41.2"),
    expected_usd_per_minute=Decimal("5.1"),
    parts=(
        Part(factor="volume", change_usd_per_minute=Decimal(31), words="more calls: 412 a minute instead of 51"),
        Part(factor="tokens_per_call", change_usd_per_minute=Decimal("5.1"), words="longer prompts"),
        Part(factor="cache", change_usd_per_minute=Decimal(0), words=""),
    ),
    contributors=(
        Contributor(
            dimension="customer",
            value="customer-007",
            change_usd_per_minute=Decimal(26),
            observed_usd_per_minute=Decimal(29),
            share=0.71,
        ),
    ),
    facts=("12% of the calls fail",),
)
PROJECTION = Projection(
    excess_by_end_of_hour_usd=Decimal("1240.4"), excess_by_end_of_month_usd=Decimal("26000.123456789012")
)
BUDGET = BudgetStatus(
    period_start=datetime(2026, 3, 1, tzinfo=UTC),
    period_end=datetime(2026, 4, 1, tzinfo=UTC),
    amount_usd=Decimal(1000),
    spent_usd=Decimal("801.000000000001"),
    forecast_usd=Decimal(6200),
    burn_rate=14.9,
)


def make_alert(seq: int = 1, transition: str = "firing", *, watch: str = "spend", **fields: Any) -> Alert:
    """A transition of an alert that began at noon; `fields` replace those of the default."""
    group = fields.pop("group", {"team": "developer-platform", "feature": "code_agent"})
    identity = alert_id(watch, "up", group, NOON)
    is_over = transition == "resolved"
    known: dict[str, Any] = {
        "alert_id": identity,
        "transition_id": transition_id(identity, seq, transition),  # type: ignore[arg-type]
        "seq": seq,
        "transition": transition,
        "state": {"pending": "pending", "resolved": "resolved"}.get(transition, "firing"),
        "watch": watch,
        "rule": "anomaly",
        "facet": "up",
        "severity": "critical",
        "group": group,
        "started_at": NOON,
        "at": NOON + timedelta(seconds=90 * seq),
        "ends_at": NOON + timedelta(minutes=9) if is_over else None,
        "observed": 41.2,
        "expected": 5.1,
        "title": "code_agent (team developer-platform): spend at $41.20/min, expected $5.10/min",
        "attribution": ATTRIBUTION,
        "projection": PROJECTION,
        "notify": True,
        "notifiers": ("hook",),
        "runbook": "https://runbooks.example/spend?a=1&b=2",
    }
    return Alert(**{**known, **fields})


def make_notifier(
    url: str = "http://127.0.0.1:9/hook", *, name: str = "hook", kind: str = "webhook", **more: Any
) -> Notifier:
    where = {} if "url_env" in more else {"url": url}
    return Notifier.model_validate({"name": name, "kind": kind, "timeout": 5, "group_interval": 0, **where, **more})


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers`: statuses, one a request, then `always`; "reset" cuts the connection, "hang" never answers."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answers: list[int | str] = field(default_factory=list)
    always: int | str = 200
    words: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Request(request.path_qs, dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else self.always
        if answer == "hang":
            await asyncio.sleep(60)
        if answer == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        assert isinstance(answer, int)
        return web.Response(status=answer, text=self.words, headers=self.headers)

    async def count(self, at_least: int, timeout_s: float = 120.0) -> None:
        """Return once this many requests have arrived."""
        await until(lambda: len(self.requests) >= at_least, timeout_s)


async def until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def receiver(**settings: Any) -> AsyncIterator[Receiver]:
    """A receiver on a free port of loopback."""
    made = Receiver(**settings)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
