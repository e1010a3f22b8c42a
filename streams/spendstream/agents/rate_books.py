"""Rate books in Kafka: published before they price, announced in the log that they price, found again by id.

A worker publishes its book when its card files change, never because another worker's book is newer. The last book
published is in force for all: each partition switches to it at a record of its own, a ``RateSwitch``. Whoever reads the
partition again, in whatever state, switches at the same offset.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from spendstream.core.meter import PartitionMeter
from spendstream.core.pricing import BookUnreadable, PriceBook, RateCardError
from spendstream.core.pricing.cards import card_files
from spendstream.core.pricing.published import kept_files
from spendstream.core.pricing.rate_book import RateBook
from spendstream.errors import SpendstreamError
from spendstream.kafka.consumer import partitions_of, read_to_end
from spendstream.kafka.producer import AckedProducer, Record
from spendstream.metrics import Metrics
from spendstream.schemas import topics
from spendstream.schemas.progress import BookInForce, RateSwitch
from spendstream.settings import Settings
from spendstream.waiting import Backoff

log = structlog.get_logger(__name__)

CHECK_EVERY_S: Final = 1.0
"""How often card files and the topic are checked. An edit is read once it has stayed the same for this long."""

_RETRIES: Final = Backoff(first_s=0.5, max_s=5.0)
_SWITCH_KEY: Final = b"spendstream.rate-book"

_State = tuple[tuple[str, int, str], ...]


class CardFiles:
    """Keeps the book of the last valid card files and kept price books, which may be edited at any time.

    ``modified_ms``: when the newest of the files was written, Unix ms; 0 without files.
    Raises: RateCardError, BookUnreadable, only on construction.
    """

    def __init__(self, paths: Sequence[Path], kept: Path | None = None) -> None:
        self._paths = tuple(paths)
        self._kept = kept
        self._read = self._seen = self._state()
        self.book = RateBook.load(self._paths, self._kept)
        self.valid = True

    @property
    def modified_ms(self) -> int:
        return max((modified_ns // 1_000_000 for _, modified_ns, _ in self._read), default=0)

    def check(self) -> bool:
        """Read the files if they were edited; return whether ``book`` is new.

        Files that are being written are left alone until two checks in a row find the same: half a file of cards can be
        valid. Files with mistakes change nothing but ``valid``; the mistakes are logged once.
        """
        state = self._state()
        settled, self._seen = state == self._seen, state
        if state == self._read or not settled:
            return False
        try:
            book = RateBook.load(self._paths, self._kept)
        except (RateCardError, BookUnreadable) as error:
            self._read, self.valid = state, False
            log.error("rates.invalid", problem=str(error), kept=self.book.id)
            return False
        if self._state() != state:
            return False  # edited while it was read
        self._read, self.valid, self.book = state, True, book
        return True

    def _state(self) -> _State:
        """Return each file's name, time and hash; a file that can't be read has neither."""
        found = []
        try:
            files = [*card_files(self._paths), *kept_files(self._kept)]
        except OSError as error:
            return ((repr(error), 0, ""),)
        for file in files:
            try:
                found.append((str(file), file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()))
            except OSError:
                found.append((str(file), 0, ""))
        return tuple(found)


class RateBooksMissing(SpendstreamError):
    """The topic of rate books does not exist."""


_UNAVAILABLE: Final = (KafkaError, RateBooksMissing, LookupError, TimeoutError, OSError)


@dataclass(frozen=True)
class Published:
    """A book in the topic. ``timestamp_ms``: when it was published, Unix ms."""

    book: RateBook
    offset: int
    timestamp_ms: int


class RateBooks:
    """The books of a deployment, as one worker knows them.

    ``shelf``: the prices of books that partitions switch to, by id and offset; None where this release can't rebuild
    them. It only grows.
    Raises: RateCardError, on construction alone.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._kafka = settings.kafka_client()
        self._topic = settings.topic(topics.RATE_BOOK)
        self._usage = settings.topic(topics.USAGE)
        self._metrics = metrics
        self._files = CardFiles(settings.rate_card_paths, settings.rate_books)
        self._offered: RateBook | None = None
        self._producer = AckedProducer(self._kafka)
        self._consumer: Any = None
        self._reading = asyncio.Lock()
        self._next_offset: int | None = None
        self._published: dict[str, Published] = {}
        self._newest: Published | None = None
        self._prices: dict[str, PriceBook | None] = {}
        self.shelf: dict[tuple[str, int], PriceBook | None] = {}
        self._meters: WeakValueDictionary[int, PartitionMeter] = WeakValueDictionary()
        self._announced: dict[int, int] = {}
        self._to_announce = False
        self.ready = asyncio.Event()
        """Set once the books are known and this worker's own is among them: partitions can be metered."""

    async def run(self) -> None:
        """Follow card files and topic until cancelled. While Kafka is away, nothing changes.

        Raises: MessageSizeTooLargeError, when the broker refuses the cards that the worker starts with.
        """
        attempt = 0
        try:
            while True:
                pause_s = CHECK_EVERY_S
                try:
                    await self._follow()
                    attempt = 0
                except _UNAVAILABLE as error:
                    if isinstance(error, MessageSizeTooLargeError) and not self.ready.is_set():
                        raise
                    attempt += 1
                    pause_s = round(_RETRIES.pause_s(attempt), 3)
                    log.warning("rates.unavailable", error=str(error) or repr(error), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
        finally:
            await self._close_consumer()
            await self._producer.stop()

    async def _follow(self) -> None:
        """Publish this worker's book if its files changed; announce the newest where it isn't in force."""
        await asyncio.to_thread(self._files.check)
        self._metrics.rate_cards_valid(self._files.valid)
        await self._refresh()
        if self._files.book is not self._offered:
            await self._offer(self._files.book)
        newest = self._newest
        if newest is None:
            raise TimeoutError(f"what was published to {self._topic} can't be read yet")
        self._metrics.rate_cards_in_force(newest.book.id == self._files.book.id)
        if self._to_announce:
            await self._announce((await partitions_of(self._kafka, [self._usage]))[self._usage], newest)
            self._to_announce = False
        elif newest.book.is_of_this_release:
            behind = [
                partition
                for partition, meter in self._meters.items()
                if meter.book.id not in ("", newest.book.id)
                and meter.book.published < newest.offset
                and self._announced.get(partition) != newest.offset
            ]
            await self._announce(behind, newest)
        self.ready.set()

    async def _offer(self, book: RateBook) -> None:
        """Publish a book unless it is in force; at the start also not if it was, and the files are older than that.

        A worker that restarts with the files of before, while others have newer ones, must not switch all of them back.
        """
        newest = self._newest
        if newest is None or newest.book.id != book.id:
            starts = self._offered is None
            if starts and newest and book.id in self._published and self._files.modified_ms <= newest.timestamp_ms:
                fix = "if these are the right ones, touch a file"
                log.warning("rates.other_cards_in_force", own=book.id, in_force=newest.book.id, fix=fix)
            else:
                await self._build(book)
                try:
                    offset = await self._producer.write_packed(
                        self._topic, 0, [Record(key=book.id.encode(), value=book.encode())]
                    )
                except MessageSizeTooLargeError:
                    self._offered = book if self.ready.is_set() else None
                    raise
                log.info("rates.published", book=book.id, offset=offset, cards=book.cards)
                await self._refresh()
                self._to_announce = len(self._published) > 1
        self._offered = book

    async def _announce(self, partitions: Iterable[int], newest: Published) -> None:
        """Write a switch into partitions of the usage topic: what comes after it is priced by the newest book."""
        switch = RateSwitch(rate_book=newest.book.id, published=newest.offset).model_dump_json().encode()
        records = [Record(key=_SWITCH_KEY, value=switch, partition=partition) for partition in partitions]
        await self._producer.write(self._usage, records)
        self._announced.update((record.partition or 0, newest.offset) for record in records)

    async def in_force(self, marker: BookInForce, through_offset: int) -> tuple[BookInForce, PriceBook]:
        """Return what prices the records after a marker: the book that it states, if this release has its prices.

        Where it states none, or one that can't be rebuilt, the newest book that can be applies from there on.
        """
        await self.ready.wait()
        if marker.id:
            found = await self._find(marker.id, 0)
            prices = None if found is None else await self._build(found.book)
            if found is not None and prices is not None:
                # a topic that was recreated counts from 0 again
                return marker.model_copy(update={"published": min(marker.published, found.offset)}), prices
        newest = self._newest
        assert newest is not None
        if not newest.book.is_of_this_release:
            newest = self._published[self._files.book.id]
        prices = await self._build(newest.book)
        assert prices is not None, "the newest book of this release"
        if marker.id:
            log.warning("rates.book_replaced", book=marker.id, by=newest.book.id, since_offset=through_offset + 1)
            self._metrics.rate_book_replaced()
        return BookInForce(id=newest.book.id, published=newest.offset, since=through_offset + 1), prices

    def metered_by(self, partition: int, meter: PartitionMeter) -> None:
        """Keep a partition's meter at the newest book, for as long as the meter exists."""
        self._meters[partition] = meter
        self._announced.pop(partition, None)

    async def learn(self, switch: RateSwitch) -> None:
        """Put the book of a switch on the shelf; nothing in its place if this topic never had it."""
        found = await self._find(switch.rate_book, switch.published)
        if found is None:
            log.error("rates.unknown_book", book=switch.rate_book, published=switch.published)
        self.shelf[switch.rate_book, switch.published] = None if found is None else await self._build(found.book)

    async def _find(self, book: str, published: int) -> Published | None:
        """Return a published book; asks the topic, for as long as Kafka is away, before it says that there is none."""
        attempt = 0
        while (found := self._published.get(book)) is None or found.offset < published:
            try:
                await self._refresh()
            except _UNAVAILABLE as error:
                attempt += 1
                log.warning("rates.unavailable", error=str(error) or repr(error))
                await asyncio.sleep(_RETRIES.pause_s(attempt))
                continue
            found = self._published.get(book)
            return None if found is None or found.offset < published else found
        return found

    async def _build(self, book: RateBook) -> PriceBook | None:
        """Return the prices of a book, compiled for the calls that are being priced; None of another release."""
        if book.id not in self._prices:
            warm = self._prices.get(self._newest.book.id) if self._newest else None
            self._prices[book.id] = await asyncio.to_thread(_compile, book, warm) if book.is_of_this_release else None
            if not book.is_of_this_release:
                log.warning("rates.book_of_another_release", book=book.id, package=book.package)
        return self._prices[book.id]

    async def _refresh(self) -> None:
        """Read what was published since the last time. Raises: RateBooksMissing, KafkaError, TimeoutError, OSError."""
        async with self._reading:
            try:
                if self._consumer is None:
                    self._consumer = await _reader(self._kafka, self._topic)
                at = TopicPartition(self._topic, 0)
                async for _, records in read_to_end(self._consumer, {at: self._next_offset}):
                    for record in records:
                        await self._note(record)
            except BaseException:
                await self._close_consumer()
                raise

    async def _note(self, record: Any) -> None:
        self._next_offset = record.offset + 1
        published = _published(record)
        if published is None:
            return
        if self.ready.is_set():  # a switch to it may be on its way
            self.shelf[published.book.id, record.offset] = await self._build(published.book)
        self._newest = self._published[published.book.id] = published

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


async def read_books(settings: Settings) -> list[Published]:
    """Return the rate books of a deployment in the order of publication; the last one is in force.

    Raises: RateBooksMissing; TimeoutError; aiokafka's errors.
    """
    topic = settings.topic(topics.RATE_BOOK)
    consumer = await _reader(settings.kafka_client(), topic)
    found: dict[str, Published] = {}
    try:
        async for _, records in read_to_end(consumer, {TopicPartition(topic, 0): None}):
            found |= {each.book.id: each for each in map(_published, records) if each is not None}
    finally:
        await consumer.stop()
    return sorted(found.values(), key=lambda each: each.offset)


async def _reader(kafka: dict[str, Any], topic: str) -> Any:
    consumer = AIOKafkaConsumer(
        **kafka, enable_auto_commit=False, fetch_max_wait_ms=50, max_partition_fetch_bytes=16_000_000
    )
    try:
        await consumer.start()
        # all topics: some brokers create a topic when its metadata is requested by name
        if topic not in await consumer.topics():
            raise RateBooksMissing(f"topic {topic} does not exist: run `spendstream topics`")
    except BaseException:
        await consumer.stop()
        raise
    return consumer


def _published(record: Any) -> Published | None:
    try:
        return Published(RateBook.decode(record.value or b""), record.offset, record.timestamp)
    except ValueError as error:
        log.warning("rates.unreadable", offset=record.offset, error=str(error))
        return None


def _compile(book: RateBook, former: PriceBook | None) -> PriceBook:
    prices = book.prices()
    if former is not None:
        prices.prepare_like(former)
    return prices
