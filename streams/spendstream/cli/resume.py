"""``spendstream resume``: states where metering continues, when the meter's own markers are gone."""

import asyncio
from typing import Annotated, Final

import typer
from aiokafka import TopicPartition

from spendstream.agents.source_logs import new_name
from spendstream.cli.console import out, silence_libraries
from spendstream.cli.environment import load_settings
from spendstream.core.meter import new_marker
from spendstream.core.progress import ProgressRecord, write_progress
from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import end_offsets
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.reconcile.positions import read_markers
from spendstream.schemas import topics
from spendstream.settings import Settings

_TIMEOUT_S: Final = 60.0


class OffsetOutOfRange(SpendstreamError):
    """Metering can't continue behind the end of the log."""


def resume(
    partition: Annotated[int, typer.Option(min=0, help="Of the usage topic.")],
    from_offset: Annotated[int, typer.Option(min=0, help="First record to meter: all before it count as metered.")],
) -> None:
    """State the offset at which a partition's metering continues. Stop the workers first.

    Only for a worker that refuses to start because the topic of markers has lost them. Its message says how to find
    the offset. Event ids from before are forgotten: a repeated event may count twice.
    """
    silence_libraries()
    settings = load_settings()
    name = asyncio.run(state_start(settings, partition, from_offset))
    out.print(f"partition {partition} continues at offset {from_offset}, as log {name}: start the workers")


async def state_start(settings: Settings, partition: int, offset: int) -> str:
    """Write a marker of a new log of a partition, and return the log's name.

    Raises: OffsetOutOfRange; TimeoutError; aiokafka's KafkaError.
    """
    usage = TopicPartition(settings.topic(topics.USAGE), partition)
    rollups = TopicPartition(settings.topic(topics.ROLLUP), partition)
    ends = await end_offsets(settings.kafka_client(), [usage, rollups], timeout_s=_TIMEOUT_S)
    if offset > ends[usage]:
        raise OffsetOutOfRange(f"{usage.topic}[{partition}] ends at offset {ends[usage]}: choose one up to there")
    former = (await read_markers(settings)).get(partition)
    marker = new_marker(partition, new_name(), offset - 1, former_log="" if former is None else former.source_log)
    marker = marker.model_copy(
        update={"rollups_from": ends[rollups], "ids_from": 0 if former is None else former.ids_from}
    )
    producer = AckedProducer(settings.kafka_client())
    record = Record(key=str(partition).encode(), value=write_progress(ProgressRecord.without_ids(marker)))
    try:
        await producer.write_packed(settings.topic(topics.PROGRESS), partition, [record])
    finally:
        await producer.stop()
    return marker.source_log
