"""Seeds budgets from ClickHouse while the detector goes on: see ``spendstream.core.detect.seeding``.

The order makes it exact: begin between two steps; wait until the sink has inserted what the detector had read by then;
read history; wait until the detector has read what history may hold; finish between two steps. A round that takes too
long, or that ClickHouse doesn't answer, is abandoned and started over.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from numpy.typing import NDArray

from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.core.detect.detector import Detector
from spendstream.core.detect.finding import Values
from spendstream.core.detect.rollups import SeedBoundary, Source
from spendstream.core.detect.seeding import History, Seeding, Spent
from spendstream.core.money import PUSD
from spendstream.core.timestamps import MINUTE_US, US
from spendstream.kafka.consumer import end_offsets
from spendstream.schemas import topics
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME
from spendstream.settings import Settings
from spendstream.waiting import Backoff, in_thread

log = structlog.get_logger(__name__)

INSERTED_WITHIN_S: Final = 120.0
READ_WITHIN_S: Final = 600.0
CAUGHT_UP_WITHIN_S: Final = 120.0
NEAR_S: Final = 30.0
"""No round begins while the detector is further behind: the round would wait, and the book would forget nothing."""

AHEAD_US: Final = 86_400_000_000
"""History is read up to this far ahead of the clock, to include the minutes of producers whose clocks are ahead."""

_POLL_S: Final = 0.2
_SINK: Final = "sink-rollups"

CHUNK_US: Final = 86_400 * US
"""A query reads this much time, which bounds memory on both sides."""

_MINUTE_S: Final = "toInt64(toUnixTimestamp(r.minute))"
# Two integers: one int64 of pico-dollars ends at 9.2 million USD.
_DOLLARS: Final = f"accurateCast(intDiv(toInt128({{cost}} * toDecimal128({PUSD}, 0)), {PUSD}), 'Int64')"
_PUSD: Final = f"accurateCast(modulo(toInt128({{cost}} * toDecimal128({PUSD}, 0)), {PUSD}), 'Int64')"
_SETTINGS: Final = "SETTINGS do_not_merge_across_partitions_select_final = 1"


class NotNow(Exception):
    """A round can't go on now; a later one may."""


@dataclass(frozen=True)
class ReadPosition:
    """How far the detector has read, by rollup partition.

    ``positions``: the next offset; everything before it was absorbed, except what Kafka had deleted before ``begins``.
    """

    positions: Mapping[int, int]
    begins: Mapping[int, int]
    clock_us: int
    behind_s: float


class Seeder:
    """Keeps the budgets of one detector seeded.

    ``between_steps``: the detector's loop holds it while it reads and decides, so that positions and book agree.
    ``in_writer``: runs a function in the detector's thread. ``read_position``: how far the detector is, between steps.
    """

    def __init__(
        self,
        settings: Settings,
        detector: Detector,
        between_steps: asyncio.Lock,
        in_writer: Callable[..., Awaitable[Any]],
        read_position: Callable[[], ReadPosition],
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._detector = detector
        self._between_steps = between_steps
        self._in_writer = in_writer
        self._read_position = read_position
        self._backoff = backoff or Backoff(first_s=0.5, max_s=30.0)
        self._topic = settings.topic(topics.ROLLUP)

    async def run(self) -> None:
        """Seed what is not seeded, until cancelled."""
        attempt = 0
        while True:
            await asyncio.sleep(_POLL_S)
            if not self._detector.unseeded() or self._read_position().behind_s > NEAR_S:
                continue
            try:
                await self._round()
                attempt = 0
            except (NotNow, ClickHouseError, KafkaError, OSError, TimeoutError) as error:
                attempt += 1
                reason = " ".join((str(error) or repr(error)).split())
                log.warning("detect.seed_waits", watches=self._detector.unseeded(), attempt=attempt, error=reason)
            except Exception:  # whatever it is, detection goes on, with budgets as far as they are known
                attempt += 1
                log.exception("detect.seed_failed", watches=self._detector.unseeded(), attempt=attempt)
            if attempt:
                await asyncio.sleep(self._backoff.pause_s(attempt))

    async def _round(self) -> None:
        """Run one round. Where it raises, the detector is as it was before."""
        await self._check_clickhouse()  # first: while a round is open, the book forgets nothing
        await self._wait_until_inserted(self._read_position())
        started = time.monotonic()
        async with self._between_steps:
            position = self._read_position()
            seeding: Seeding | None = await self._in_writer(self._detector.begin_seeding, position.clock_us)
        if seeding is None:
            return
        log.info("detect.seeding", watches=seeding.watches, known=len(self._detector.book))
        is_over = False
        try:
            await self._wait_until_inserted(position)
            history = await self._read(seeding, position.clock_us + AHEAD_US)
            is_over = await self._finish(seeding, history)
        finally:
            if not is_over:
                with suppress(RuntimeError):  # the writer is gone, and the detector with it
                    await asyncio.shield(asyncio.ensure_future(self._in_writer(seeding.abandon)))
        log.info(
            "detect.seeded", watches=seeding.watches, summed=len(history.summed), one_by_one=len(history.singles),
            seconds=round(time.monotonic() - started, 3),
        )  # fmt: skip

    async def _finish(self, seeding: Seeding, history: History) -> bool:
        """Finish once the detector has read all that history may hold. Raises: NotNow, TimeoutError."""
        partitions = [TopicPartition(self._topic, partition) for partition in self._read_position().positions]
        ends = await end_offsets(self._settings.kafka_client(), partitions)
        async with asyncio.timeout(CAUGHT_UP_WITHIN_S):
            while True:
                async with self._between_steps:
                    position = self._read_position()
                    if all(position.positions.get(at.partition, 0) >= end for at, end in ends.items()):
                        if not await self._in_writer(seeding.finish, history, position.clock_us):
                            raise NotNow("an old aggregate arrived while history was read")
                        return True
                await asyncio.sleep(_POLL_S)

    async def _wait_until_inserted(self, position: ReadPosition) -> None:
        """Wait until ClickHouse has the rollups that the detector has read. Raises: NotNow, KafkaError."""
        admin: Any = AIOKafkaAdminClient(**self._settings.kafka_client())
        deadline = time.monotonic() + INSERTED_WITHIN_S
        await admin.start()
        try:
            while (missing := await self._missing(admin, position)) > 0:
                if time.monotonic() > deadline:
                    raise NotNow(f"the rollup sink has {missing} records left to insert")
                await asyncio.sleep(_POLL_S)
        finally:
            await admin.close()

    async def _missing(self, admin: Any, position: ReadPosition) -> int:
        """Return how many of the records that the detector has read the sink has not inserted yet."""
        read = {p: at for p, at in position.positions.items() if at > position.begins.get(p, 0)}
        if not read:
            return 0
        partitions = [TopicPartition(self._topic, partition) for partition in read]
        answer = await admin.list_consumer_group_offsets(self._settings.group(_SINK), partitions=partitions)
        inserted = {each.partition: found.offset for each, found in answer.items()}
        since = {partition: max(position.begins.get(partition, 0), inserted.get(partition, 0)) for partition in read}
        return sum(max(0, at - since[partition]) for partition, at in read.items())

    async def _check_clickhouse(self) -> None:
        def ask() -> None:
            with open_client(clickhouse_settings(self._settings)) as client:
                client.query(f"SELECT 1 FROM `{self._settings.clickhouse_database}`.rollups_1m LIMIT 1")

        async with asyncio.timeout(READ_WITHIN_S):
            await in_thread(ask, "seed-ask")

    async def _read(self, seeding: Seeding, until_us: int) -> History:
        until_us -= until_us % MINUTE_US

        def read() -> History:
            with open_client(clickhouse_settings(self._settings)) as client:
                if self._settings.clickhouse_cluster:  # a quorum acknowledged the rows, perhaps not this replica
                    client.command(f"SYSTEM SYNC REPLICA `{self._settings.clickhouse_database}`.rollups_1m")
                return SpendHistory(client, self._settings.clickhouse_database).read(seeding, until_us)

        async with asyncio.timeout(READ_WITHIN_S):
            return await in_thread(read, "seed-read")


class SpendHistory:
    """Reads ``rollups_1m``. ``client``: of clickhouse-connect. Blocks."""

    def __init__(self, client: Any, database: str) -> None:
        self._client = client
        self._table = f"`{database}`.rollups_1m AS r FINAL"

    def read(self, seeding: Seeding, until_us: int) -> History:
        """Return what was metered from ``seeding.since_us`` until a minute, without single aggregates in the book.

        Raises: clickhouse-connect's errors.
        """
        is_before = _is_before(seeding.boundaries)
        summed, singles = _Rows(), _Rows()
        digests: list[tuple[bytes, ...]] = []
        for open_us in range(seeding.since_us, until_us, CHUNK_US):
            open_s, close_s = open_us // US, min(open_us + CHUNK_US, until_us) // US
            within = f"r.minute >= toDateTime({open_s}, 'UTC') AND r.minute < toDateTime({close_s}, 'UTC')"
            self._read_summed(seeding, f"{within} AND {is_before}", summed)
            self._read_singles(seeding, f"{within} AND NOT ({is_before}) AND r.cost_usd != 0", singles, digests)
        return History(summed.spent(), singles.spent(), digests)

    def _read_summed(self, seeding: Seeding, condition: str, rows: "_Rows") -> None:
        fine_s, block_s = seeding.fine_us // US, seeding.block_us // US
        keys = [
            f"if({_MINUTE_S} >= {fine_s}, {_MINUTE_S}, intDiv({_MINUTE_S}, {block_s}) * {block_s}) AS open_s",
            *(f"toString(r.{name}) AS key_{name}" for name in seeding.names),
        ]
        by = ", ".join(["open_s", *(f"key_{name}" for name in seeding.names)])
        table = self._client.query_arrow(
            f"SELECT {', '.join(keys)}, {_amount('sum(r.cost_usd)')} FROM {self._table} "
            f"WHERE {condition} GROUP BY {by} {_SETTINGS}"
        )
        members = zip(*(table[f"key_{name}"].to_pylist() for name in seeding.names), strict=True)
        rows.add(table, list(members) if seeding.names else [()] * table.num_rows)

    def _read_singles(self, seeding: Seeding, condition: str, rows: "_Rows", digests: list[tuple[bytes, ...]]) -> None:
        keys = [
            f"{_MINUTE_S} AS open_s, toString(r.source_log) AS log, toInt64(r.source_partition) AS part",
            "r.correction_block AS block",
            *(f"toString(r.{name}) AS key_{name}" for name in DIMENSIONS),
        ]
        table = self._client.query_arrow(
            f"SELECT {', '.join(keys)}, {_amount('r.cost_usd')} FROM {self._table} WHERE {condition} {_SETTINGS}"
        )
        values: list[Values] = list(zip(*(table[f"key_{name}"].to_pylist() for name in DIMENSIONS), strict=True))
        logs, parts, blocks = table["log"].to_pylist(), _ints(table, "part").tolist(), _ints(table, "block").tolist()
        rows_of = zip(logs, parts, (_ints(table, "open_s") * US).tolist(), blocks, values, strict=True)
        found = [seeding.digests((log, part), minute_us, block, row) for log, part, minute_us, block, row in rows_of]
        positions = [DIMENSIONS.index(name) for name in seeding.names]
        kept = np.flatnonzero([not seeding.is_in_book(each) for each in found])
        members = [tuple(values[at][position] for position in positions) for at in kept.tolist()]
        rows.add(table.take(pa.array(kept)), members)
        digests.extend(found[at] for at in kept.tolist())


class _Rows:
    """Gathers the rows of several queries."""

    def __init__(self) -> None:
        self._members: list[Values] = []
        self._columns: dict[str, list[NDArray[np.int64]]] = {"open_s": [], "dollars": [], "pusd": []}

    def add(self, table: pa.Table, members: list[Values]) -> None:
        self._members += members
        for name, arrays in self._columns.items():
            arrays.append(_ints(table, name))

    def spent(self) -> Spent:
        empty = np.zeros(0, dtype=np.int64)
        open_s, dollars, pusd = (np.concatenate([empty, *arrays]) for arrays in self._columns.values())
        return Spent(self._members, open_s * US, dollars, pusd)


def _is_before(boundaries: Mapping[Source, SeedBoundary]) -> str:
    """Return the SQL condition that a row is before its source's boundary: see ``SeedBoundary``."""
    if not boundaries:
        return "0"
    source = "concat(toString(r.source_partition), '/', toString(r.source_log))"
    names = ", ".join(_quoted(f"{partition}/{log}") for log, partition in boundaries)

    def of_source(numbers: Iterable[int]) -> str:
        listed = ", ".join(map(str, numbers))
        return f"transform({source}, [{names}], CAST([{listed}], 'Array(Int64)'), toInt64(-1))"

    through = of_source(each.through_offset for each in boundaries.values())
    minute = of_source(each.minute_us // US for each in boundaries.values())
    block = of_source(each.block for each in boundaries.values())
    is_old = f"if(r.correction_block <= {ON_TIME}, {_MINUTE_S} < {minute}, r.correction_block < {block})"
    return f"(r.through_offset <= {through} AND {is_old})"


def _amount(cost: str) -> str:
    return f"{_DOLLARS.format(cost=cost)} AS dollars, {_PUSD.format(cost=cost)} AS pusd"


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ints(table: pa.Table, name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = table[name].to_numpy().astype(np.int64)
    return found
