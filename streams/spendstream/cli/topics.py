"""``spendstream topics``: creates and compares the Kafka topics."""

import asyncio
from typing import Annotated

import typer
from aiokafka.admin import AIOKafkaAdminClient

from spendstream.cli.console import out, silence_libraries, table
from spendstream.cli.environment import load_settings
from spendstream.kafka.topics import TopicReport, TopicSpec, ensure_topics, topic_specs
from spendstream.settings import Settings


def topics(
    check: Annotated[bool, typer.Option("--check", help="Create nothing; exit 1 if a topic is missing.")] = False,
) -> None:
    """Create missing topics, and compare the others with their expected settings. Never alters a topic."""
    silence_libraries()
    settings = load_settings()
    specs = topic_specs(settings)
    reports = asyncio.run(check_topics(settings, specs) if check else create_topics(settings, specs))
    by_name = {report.name: report for report in reports}
    out.print(
        table(("topic", "partitions", "state"), [(s.name, s.partitions, _state(by_name.get(s.name))) for s in specs])
    )
    if len(by_name) < len(specs):
        raise typer.Exit(1)


async def create_topics(settings: Settings, specs: list[TopicSpec]) -> list[TopicReport]:
    """Create missing topics; report on every one."""
    return await ensure_topics(settings.kafka_client(), specs, replication=settings.kafka_replication)


async def check_topics(settings: Settings, specs: list[TopicSpec]) -> list[TopicReport]:
    """Report on the topics that exist, without creating any."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    try:
        await admin.start()
        existing = set(await admin.list_topics())
    finally:
        await admin.close()
    return await create_topics(settings, [spec for spec in specs if spec.name in existing])


def _state(report: TopicReport | None) -> str:
    if report is None:
        return "missing"
    if report.created:
        return (
            "created"
            if report.as_specified
            else f"created without settings the broker refused: {report.configs_refused}"
        )
    return "as expected" if report.as_specified else "; ".join(report.differences)
