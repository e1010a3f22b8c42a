"""What the doctor looks at. Each check ends in findings; none raises on what the operator can mend."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError

from spendstream.cli.failures import explain
from spendstream.cli.topics import check_topics
from spendstream.clickhouse.layout import migration_settings
from spendstream.clickhouse.migrate import Migrator
from spendstream.core.pricing import PriceBook, RateCardError
from spendstream.drain import drain
from spendstream.kafka.layout import topic_specs
from spendstream.schemas import topics
from spendstream.settings import Settings
from spendstream.sinks.clickhouse import open_client
from spendstream.watches import WatchesError, load_watches
from spendstream.worker import SINK_GROUPS, clickhouse_settings

State = Literal["ok", "warning", "failed"]

OLDEST_CLICKHOUSE: Final = (24, 3)
LARGEST_SKEW_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_GROUPS_TIMEOUT_S: Final = 3.0
_SAME_COUNT: Final = (topics.USAGE, topics.ROLLUP, topics.PROGRESS)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mend``: what to do, empty where all is well."""

    check: str
    state: State
    detail: str
    mend: str = ""


def local_findings(settings: Settings) -> list[Finding]:
    """Look at the rate cards, the watches, and the worker's port on this machine."""
    return [_rate_cards(settings), _watches(settings), _worker(settings)]


async def kafka_findings(settings: Settings) -> list[Finding]:
    """Look at the broker, the topics and the consumer groups."""
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=int(_TIMEOUT_S * 1000))
    try:
        await admin.start()
        existing = set(await admin.list_topics())
    except (KafkaError, OSError) as error:
        mend = "start the broker, or set KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL to where it listens"
        return [Finding("kafka", "failed", explain(error) or _words(error), mend)]
    finally:
        await admin.close()
    found = [Finding("kafka", "ok", f"{settings.kafka_bootstrap_servers} answers, {len(existing)} topics")]
    missing = [name for name in map(settings.topic, topics.ALL) if name not in existing]
    if missing:
        return [*found, Finding("topics", "failed", f"missing: {', '.join(missing)}", "run `spendstream topics`")]
    return [*found, *await _topics(settings), await _groups(settings)]


def clickhouse_findings(settings: Settings) -> list[Finding]:
    """Look at the server, its version, its clock, and the tables."""
    try:
        with open_client(clickhouse_settings(settings)) as client:
            return [_version(settings, client), _clock(client), _migrations(settings, client)]
    except (ClickHouseError, OSError) as error:
        mend = "start ClickHouse, or set CLICKHOUSE_URL, CLICKHOUSE_USER and CLICKHOUSE_PASSWORD"
        return [Finding("clickhouse", "failed", explain(error) or _words(error), mend)]


def _rate_cards(settings: Settings) -> Finding:
    names = ", ".join(settings.rate_cards) or "none of your own; public prices alone"
    try:
        PriceBook.load(settings.rate_card_paths)
    except (RateCardError, OSError) as error:
        return Finding("rate cards", "failed", str(error), "mend the file, or RATE_CARDS; see `spendstream rates`")
    return Finding("rate cards", "ok", names)


def _watches(settings: Settings) -> Finding:
    try:
        watches = load_watches(settings.watches_path, settings.meter_dimensions)
    except WatchesError as error:
        return Finding("watches", "failed", str(error), "see `spendstream watches check`")
    where = settings.watches or "built in"
    told = ", ".join(notifier.name for notifier in watches.notifiers) or "nobody; set WATCHES to name notifiers"
    return Finding("watches", "ok", f"{where}: {len(watches.watches)} watches; told: {told}")


def _worker(settings: Settings) -> Finding:
    """Ask the worker whether it is ready; where none answers, see whether its port is free."""
    url = f"http://{settings.metrics_host}:{settings.metrics_port}/readyz"
    mend = "run `spendstream worker`; does one run on another machine, this is nothing to mend"
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as response:
            if "ready" in json.load(response):
                return Finding("worker", "ok", f"ready at {url.removesuffix('/readyz')}")
    except HTTPError as error:
        if error.code == 503:
            return Finding("worker", "warning", f"{url} says: not ready", "it is starting or stopping; look at its log")
    except ValueError:
        pass
    except OSError:
        if _is_free(settings.metrics_host, settings.metrics_port):
            return Finding("worker", "warning", f"none answers at {url}; the port is free", mend)
    return Finding("worker", "failed", f"something else listens at {url}", "set METRICS_PORT to a free port")


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
        return [Finding("topics", "failed", _words(error), "see the broker's log")]
    mirrored = {name: counts[settings.topic(name)] for name in _SAME_COUNT}
    if len(set(mirrored.values())) > 1:
        said = ", ".join(f"{name} has {count}" for name, count in mirrored.items())
        mend = (
            "make the smaller topics anew, or add partitions to them: each usage partition needs its own in the others"
        )
        return [Finding("topics", "failed", f"partitions differ: {said}", mend)]
    different = [f"{report.name}: {'; '.join(report.differences)}" for report in reports if report.differences]
    if different:
        mend = "alter the topics, or set KAFKA_PARTITIONS to what they have"
        return [Finding("topics", "warning", " | ".join(different), mend)]
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
    """Look at how far the groups are, for a few seconds at most: a group that changes its members does not answer."""
    names = ", ".join(settings.group(role) for role in ("meter", *SINK_GROUPS.values()))
    report = await drain(settings, _GROUPS_TIMEOUT_S)
    if not report.partitions:
        mend = "see the broker's log; check that the user may read consumer groups"
        return Finding("consumer groups", "failed", f"{names}: the broker does not say where they are", mend)
    behind: dict[str, int] = {}
    for state in report.behind:
        behind[state.group] = behind.get(state.group, 0) + state.behind
    if behind:
        said = ", ".join(f"{group} is {records:,} records behind" for group, records in behind.items())
        return Finding("consumer groups", "warning", said, "usual under load; if it grows, start another worker")
    return Finding("consumer groups", "ok", f"{names} are up to date")


def _version(settings: Settings, client: Any) -> Finding:
    version = str(client.command("SELECT version()"))
    if tuple(map(int, version.split(".")[:2])) < OLDEST_CLICKHOUSE:
        oldest = ".".join(map(str, OLDEST_CLICKHOUSE))
        return Finding(
            "clickhouse", "failed", f"{settings.clickhouse_url} is {version}", f"upgrade to {oldest} or newer"
        )
    return Finding("clickhouse", "ok", f"{settings.clickhouse_url}, version {version}")


def _clock(client: Any) -> Finding:
    before = time.time()
    theirs = float(client.command("SELECT toUnixTimestamp64Milli(now64(3))")) / 1000
    skew_s = theirs - (before + time.time()) / 2
    if abs(skew_s) > LARGEST_SKEW_S:
        mend = "let both machines follow an NTP server: events ahead of their time become dead letters"
        return Finding("clock", "failed", f"ClickHouse's clock is {skew_s:+.1f} s from this machine's", mend)
    return Finding("clock", "ok", f"ClickHouse's is {skew_s:+.2f} s from this machine's")


def _migrations(settings: Settings, client: Any) -> Finding:
    statuses = Migrator(client, migration_settings(settings)).status()
    problems = [status.problem for status in statuses if status.problem]
    missing = [f"{status.number:04}_{status.name}" for status in statuses if not status.is_applied]
    if problems:
        return Finding("tables", "failed", "; ".join(problems), "the message says how")
    if missing:
        detail = f"{settings.clickhouse_database}: not applied: {', '.join(missing)}"
        return Finding("tables", "failed", detail, "run `spendstream migrate`")
    return Finding("tables", "ok", f"{settings.clickhouse_database}: {len(statuses)} migrations applied")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
