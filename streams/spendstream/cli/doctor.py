"""``spendstream doctor``: checks every connection and setting, and says how to fix what is wrong.

Each check returns findings; none raises for a problem that the operator can fix.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

import typer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.text import Text

from spendstream.cli import environment
from spendstream.cli.console import echo_json, explain, one_line, out, silence_libraries
from spendstream.cli.topics import check_topics
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.clickhouse.migrate import Migrator, migration_settings
from spendstream.core.pricing import BookUnreadable, PriceBook, RateCardError
from spendstream.core.pricing.published import PACKAGE, read_kept
from spendstream.drain import drain
from spendstream.kafka.topics import SINK_GROUPS, topic_specs
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.watches import WatchesError, load_watches

State = Literal["ok", "warning", "failed"]

MIN_CLICKHOUSE: Final = (24, 3)
MAX_SKEW_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_GROUPS_TIMEOUT_S: Final = 3.0
_MIRRORED: Final = (topics.USAGE, topics.ROLLUP, topics.PROGRESS)
_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` says what to do; it is empty when all is well."""

    check: str
    state: State
    detail: str
    fix: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each check, then one verdict.")] = False,
) -> None:
    """Check settings, Kafka, topics, consumer groups, ClickHouse, tables, rate cards, watches, clocks and the worker.

    Exit status: 0 if no check failed (warnings allowed), 1 otherwise.
    """
    silence_libraries()
    settings = environment.load_settings()
    if not as_json:
        out.print(f"settings from {environment.adopted or 'the environment and defaults'}", soft_wrap=True)
    findings: list[Finding] = []
    checks: tuple[Callable[[], list[Finding]], ...] = (
        lambda: local_findings(settings),
        lambda: asyncio.run(kafka_findings(settings)),
        lambda: clickhouse_findings(settings),
    )
    for check in checks:
        for finding in check():
            findings.append(finding)
            _show(finding, as_json)
    failed = sum(finding.state == "failed" for finding in findings)
    if as_json:
        echo_json({"ok": not failed, "checks": len(findings), "failed": failed})
    elif failed:
        out.print(f"{failed} of {len(findings)} checks failed")
    if failed:
        raise typer.Exit(1)


def _show(finding: Finding, as_json: bool) -> None:
    if as_json:
        echo_json({"check": finding.check, "state": finding.state, "detail": finding.detail, "fix": finding.fix})
        return
    mark, style = _MARKS[finding.state]
    out.print(Text.assemble((mark, style), f" {finding.check}: {finding.detail}"), soft_wrap=True)
    if finding.fix:
        out.print(Text(f"  → {finding.fix}"), soft_wrap=True)


def local_findings(settings: Settings) -> list[Finding]:
    """Check the rate cards, the watches, and the worker's port on this machine."""
    return [_rate_cards(settings), _watches(settings), _worker(settings)]


async def kafka_findings(settings: Settings) -> list[Finding]:
    """Check the broker, the topics and the consumer groups."""
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=int(_TIMEOUT_S * 1000))
    try:
        await admin.start()
        existing = set(await admin.list_topics())
    except (KafkaError, OSError) as error:
        fix = "start the broker, or point KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL at one that runs"
        return [Finding("kafka", "failed", explain(error) or one_line(error), fix)]
    finally:
        await admin.close()
    found = [Finding("kafka", "ok", f"{settings.kafka_bootstrap_servers} answers, {len(existing)} topics")]
    missing = [name for name in map(settings.topic, topics.ALL) if name not in existing]
    if missing:
        return [*found, Finding("topics", "failed", f"missing: {', '.join(missing)}", "run `spendstream topics`")]
    return [*found, *await _topics(settings), await _groups(settings)]


def clickhouse_findings(settings: Settings) -> list[Finding]:
    """Check the server, its version, its clock, and the tables."""
    try:
        with open_client(clickhouse_settings(settings)) as client:
            return [_version(settings, client), _clock(client), _migrations(settings, client)]
    except (ClickHouseError, OSError) as error:
        fix = "start ClickHouse, or set CLICKHOUSE_URL, CLICKHOUSE_USER and CLICKHOUSE_PASSWORD"
        return [Finding("clickhouse", "failed", explain(error) or one_line(error), fix)]


def _rate_cards(settings: Settings) -> Finding:
    names = ", ".join(settings.rate_cards) or "public prices only; RATE_CARDS is not set"
    try:
        books = [f"{PACKAGE} {book.version} from {book.since}" for book in read_kept(settings.rate_books)]
        names = "; ".join((names, *books))
        PriceBook.load(settings.rate_card_paths, settings.rate_books)
    except (RateCardError, BookUnreadable, OSError) as error:
        return Finding(
            "rate cards",
            "failed",
            str(error),
            "fix the file; `spendstream rates check` lists every mistake",
        )
    return Finding("rate cards", "ok", names)


def _watches(settings: Settings) -> Finding:
    try:
        watches = load_watches(settings.watches_path, settings.meter_dimensions)
    except WatchesError as error:
        return Finding(
            "watches",
            "failed",
            str(error),
            "fix the file; `spendstream watches check` lists every mistake",
        )
    origin = settings.watches or "built-in"
    notified = ", ".join(notifier.name for notifier in watches.notifiers) or "nobody (name notifiers in WATCHES)"
    return Finding("watches", "ok", f"{origin}: {len(watches.watches)} watches; notifies {notified}")


def _worker(settings: Settings) -> Finding:
    """Ask the worker whether it is ready. If none answers, check whether its port is free."""
    url = f"http://{settings.metrics_host}:{settings.metrics_port}/readyz"
    fix = "run `spendstream worker` (ignore this if a worker runs elsewhere)"
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as response:
            if "ready" in json.load(response):
                return Finding("worker", "ok", f"ready at {url.removesuffix('/readyz')}")
    except HTTPError as error:
        if error.code == 503:
            return Finding("worker", "warning", f"{url} answers: not ready", "it is starting or stopping; see its log")
    except ValueError:
        pass
    except OSError:
        if _is_free(settings.metrics_host, settings.metrics_port):
            return Finding("worker", "warning", f"nothing answers at {url}; the port is free", fix)
    return Finding("worker", "failed", f"another program listens at {url}", "set METRICS_PORT to a free port")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


async def _topics(settings: Settings) -> list[Finding]:
    try:
        reports = await check_topics(settings, topic_specs(settings))
        counts = await _partition_counts(settings)
    except (KafkaError, OSError) as error:
        return [Finding("topics", "failed", one_line(error), "see the broker's log")]
    mirrored = {name: counts[settings.topic(name)] for name in _MIRRORED}
    if len(set(mirrored.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in mirrored.items())
        fix = "recreate the smaller topics, or add partitions to them: all three need one for each usage partition"
        return [Finding("topics", "failed", f"partition counts differ: {found}", fix)]
    different = [f"{report.name}: {'; '.join(report.differences)}" for report in reports if report.differences]
    if different:
        fix = "alter the topics, or set KAFKA_PARTITIONS to the count they have"
        return [Finding("topics", "warning", " | ".join(different), fix)]
    return [Finding("topics", "ok", f"{len(reports)} topics, {mirrored[topics.USAGE]} partitions")]


async def _partition_counts(settings: Settings) -> dict[str, int]:
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    try:
        await admin.start()
        described = await admin.describe_topics([settings.topic(name) for name in topics.ALL])
        return {topic["topic"]: len(topic["partitions"]) for topic in described}
    finally:
        await admin.close()


async def _groups(settings: Settings) -> Finding:
    """Check how far behind the groups are. Waits a few seconds at most: a rebalancing group does not answer."""
    names = ", ".join(settings.group(role) for role in ("meter", *SINK_GROUPS.values()))
    report = await drain(settings, _GROUPS_TIMEOUT_S)
    if not report.partitions:
        fix = "see the broker's log, and check that this user may describe consumer groups"
        return Finding("consumer groups", "failed", f"the broker returns no offsets for {names}", fix)
    behind: dict[str, int] = {}
    for state in report.behind:
        behind[state.group] = behind.get(state.group, 0) + state.behind
    if behind:
        lag = ", ".join(f"{group} is {records:,} records behind" for group, records in behind.items())
        return Finding("consumer groups", "warning", lag, "normal under load; start another worker if it keeps growing")
    return Finding("consumer groups", "ok", f"{names} are up to date")


def _version(settings: Settings, client: Any) -> Finding:
    version = str(client.command("SELECT version()"))
    if tuple(map(int, version.split(".")[:2])) < MIN_CLICKHOUSE:
        oldest = ".".join(map(str, MIN_CLICKHOUSE))
        return Finding(
            "clickhouse", "failed", f"{settings.clickhouse_url} runs {version}", f"upgrade to {oldest} or later"
        )
    return Finding("clickhouse", "ok", f"{settings.clickhouse_url}, version {version}")


def _clock(client: Any) -> Finding:
    before = time.time()
    server_time = float(client.command("SELECT toUnixTimestamp64Milli(now64(3))")) / 1000
    skew_s = server_time - (before + time.time()) / 2
    if abs(skew_s) > MAX_SKEW_S:
        fix = "synchronize both machines with NTP: events ahead of their time become dead letters"
        return Finding("clock", "failed", f"ClickHouse's clock differs from this machine's by {skew_s:+.1f} s", fix)
    return Finding("clock", "ok", f"ClickHouse's clock differs from this machine's by {skew_s:+.2f} s")


def _migrations(settings: Settings, client: Any) -> Finding:
    statuses = Migrator(client, migration_settings(settings)).status()
    problems = [status.problem for status in statuses if status.problem]
    missing = [f"{status.number:04}_{status.name}" for status in statuses if not status.is_applied]
    if problems:
        return Finding("tables", "failed", "; ".join(problems), "do what the message says")
    if missing:
        detail = f"{settings.clickhouse_database}: not applied: {', '.join(missing)}"
        return Finding("tables", "failed", detail, "run `spendstream migrate`")
    return Finding("tables", "ok", f"{settings.clickhouse_database}: {len(statuses)} migrations applied")
