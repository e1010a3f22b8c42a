"""A rate card is durable before the first row of the ledger that names it: whatever a crash cuts off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from spendstream.agents.meter_state import Flusher
from spendstream.core.meter import MeterOutput, MeterRules, PartitionMeter, new_marker
from spendstream.core.pricing import PriceBook
from spendstream.kafka.producer import Record
from spendstream.schemas import topics
from spendstream.schemas.rate_card_record import RateCardRecord
from spendstream.sinks.calls import read_priced
from tests.unit.log import LATER, Log, make_usage_event


class Died(Exception):
    pass


class Producer:
    """Acknowledges what is written, one write at a time, until the one at which the worker dies.

    ``acknowledged``: topic and records of each write, in order.
    """

    def __init__(self, dies_at: str = "") -> None:
        self.acknowledged: list[tuple[str, Sequence[Record]]] = []
        self._dies_at = dies_at

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        if topic == self._dies_at:
            raise Died
        await asyncio.sleep(0)
        if records:
            self.acknowledged.append((topic, records))

    async def write_packed(self, topic: str, _partition: int, records: Sequence[Record]) -> int:
        await self.write(topic, records)
        return 0

    def cards(self) -> list[str]:
        """The ids of the cards, as often as they were written."""
        written = [record for topic, records in self.acknowledged if topic == topics.RATE_CARD for record in records]
        ids = [RateCardRecord.model_validate_json(record.value).rate_card_id for record in written]
        assert ids == [(record.key or b"").decode() for record in written]
        return ids

    def assert_no_row_lacks_its_card(self) -> None:
        known: set[str] = {""}
        for topic, records in self.acknowledged:
            if topic == topics.RATE_CARD:
                known |= {(record.key or b"").decode() for record in records}
            if topic == topics.PRICED:
                rows = pa.concat_tables([read_priced(record.value) for record in records])
                assert set(rows["rate_card_id"].to_pylist()) <= known


def metered(meter: PartitionMeter, log: Log) -> MeterOutput:
    meter.absorb(log.batch(), LATER)
    return meter.take()


def two_models() -> Log:
    log = Log()
    for number, model in enumerate(("acme-1", "acme-mini", "acme-1", "nobody-knows")):
        log.append(make_usage_event(number, model_served=model))
    return log


@pytest.fixture
def meter(acme_book: PriceBook) -> PartitionMeter:
    return PartitionMeter(new_marker(0, "life-1", -1), MeterRules(), acme_book)


async def flush(flusher: Flusher, meter: PartitionMeter, output: MeterOutput) -> None:
    async def commit() -> None:
        pass

    await flusher.flush(meter, output, asyncio.Lock(), commit)


def flusher_of(producer: Producer) -> Flusher:
    executor = ThreadPoolExecutor(max_workers=1)
    return Flusher(producer, str, executor, MeterRules().dimensions)  # type: ignore[arg-type]


async def test_the_cards_of_a_flush_are_acknowledged_before_its_rows(meter: PartitionMeter) -> None:
    producer = Producer()
    await flush(flusher_of(producer), meter, metered(meter, two_models()))
    assert len(producer.cards()) == 2
    producer.assert_no_row_lacks_its_card()
    assert topics.PRICED in [topic for topic, _ in producer.acknowledged]


@pytest.mark.parametrize("dies_at", [topics.RATE_CARD, topics.PRICED, topics.ROLLUP, topics.PROGRESS])
async def test_no_row_lacks_its_card_wherever_the_worker_dies(meter: PartitionMeter, dies_at: str) -> None:
    producer = Producer(dies_at)
    with pytest.raises(Died):
        await flush(flusher_of(producer), meter, metered(meter, two_models()))
    producer.assert_no_row_lacks_its_card()


async def test_a_worker_publishes_a_card_once_and_again_after_a_restart(meter: PartitionMeter) -> None:
    producer, log = Producer(), Log()
    flusher = flusher_of(producer)
    for number in range(3):
        log.append(make_usage_event(number))
        await flush(flusher, meter, metered(meter, log))
    assert len(producer.cards()) == 1
    log.append(make_usage_event(7))
    await flush(flusher_of(producer), meter, metered(meter, log))
    first, again = producer.cards()
    assert first == again


async def test_a_card_whose_write_failed_is_published_by_the_next_flush(meter: PartitionMeter) -> None:
    producer = Producer(topics.RATE_CARD)
    flusher, output = flusher_of(producer), metered(meter, two_models())
    with pytest.raises(Died):
        await flush(flusher, meter, output)
    producer._dies_at = ""
    await flush(flusher, meter, output)
    assert len(producer.cards()) == 2
    producer.assert_no_row_lacks_its_card()


async def test_a_card_that_lacks_a_rate_for_the_call_is_published_too(meter: PartitionMeter) -> None:
    log, producer = Log(), Producer()
    log.append(make_usage_event(1, web_searches=1))
    output = metered(meter, log)
    assert output.calls is not None
    assert output.calls["rate_card_id"].to_list() != [""]
    await flush(flusher_of(producer), meter, output)
    assert producer.cards() == output.calls["rate_card_id"].to_list()
