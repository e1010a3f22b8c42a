"""``spendstream doctor``: every connection and setting, and how to mend what is wrong."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from spendstream.cli import environment
from spendstream.cli.checkup import Finding, clickhouse_findings, kafka_findings, local_findings
from spendstream.cli.console import echo_json, out
from spendstream.cli.logs import silence_libraries
from spendstream.settings import Settings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a check, then one for all.")] = False,
) -> None:
    """Check settings, Kafka, topics, consumer groups, ClickHouse, its tables, rate cards, clocks and the worker.

    Exit status 1 where a check failed; a warning alone is 0.
    """
    silence_libraries()
    settings = environment.load_settings()
    if not as_json:
        out.print(f"settings from {environment.adopted or 'the environment and the defaults'}", soft_wrap=True)
    findings: list[Finding] = []
    for look in _looks(settings):
        for finding in look():
            findings.append(finding)
            _show(finding, as_json)
    failed = sum(finding.state == "failed" for finding in findings)
    if as_json:
        echo_json({"ok": not failed, "checks": len(findings), "failed": failed})
    elif failed:
        out.print(f"{failed} of {len(findings)} checks failed")
    if failed:
        raise typer.Exit(1)


def _looks(settings: Settings) -> list[Callable[[], list[Finding]]]:
    return [
        lambda: local_findings(settings),
        lambda: asyncio.run(kafka_findings(settings)),
        lambda: clickhouse_findings(settings),
    ]


def _show(finding: Finding, as_json: bool) -> None:
    if as_json:
        echo_json({"check": finding.check, "state": finding.state, "detail": finding.detail, "mend": finding.mend})
        return
    mark, style = _MARKS[finding.state]
    out.print(Text.assemble((mark, style), f" {finding.check}: {finding.detail}"), soft_wrap=True)
    if finding.mend:
        out.print(Text(f"  → {finding.mend}"), soft_wrap=True)
