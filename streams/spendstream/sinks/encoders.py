"""Records of a topic as rows of a table: what each encoder turns into inserts, and what it can't read.

Rollups, dead letters and rate cards are here; ``calls`` has priced calls, ``alerts`` has alerts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, Any, Final, Protocol

import msgspec
import pyarrow as pa
from pydantic import ValidationError

from spendstream.core.rollup_record import NotARollup, Rollup, read_rollup, refused, rollup_table
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.rate_card_record import RateCardRecord
from spendstream.schemas.rollup import DIMENSIONS

CALLS: Final = "calls"
ROLLUPS: Final = "rollups_1m"
DEAD_LETTERS: Final = "dead_letters"
RATE_CARDS: Final = "rate_cards"
ALERTS: Final = "alerts"
REPAIRS: Final = "repairs"

# A third of the bytes on the network, and quicker to write than the uncompressed stream.
IPC_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


class ConsumedRecord(Protocol):
    """A Kafka record, as aiokafka's ``ConsumerRecord`` is one. ``timestamp``: milliseconds since 1970."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class Insert:
    """One INSERT: ``body`` is an Arrow IPC stream of ``rows`` rows, of which it reads these columns."""

    table: str
    columns: tuple[str, ...]
    rows: int
    body: bytes


@dataclass(frozen=True)
class Undecodable:
    """A record that makes no row. It goes to the table of dead letters: it neither blocks the sink nor vanishes."""

    record: ConsumedRecord
    reason: Reason
    message: str


@dataclass(frozen=True)
class Encoded:
    """What became of a batch of records: every record is in one of the two, or is a tombstone."""

    inserts: tuple[Insert, ...]
    undecodable: tuple[Undecodable, ...] = ()


class RowEncoder(Protocol):
    """Maps the records of one topic to the rows of one table. Pure: no clock, no network."""

    @property
    def table(self) -> str: ...

    @property
    def is_compacted(self) -> bool:
        """Whether the topic is compacted, so that missing offsets are no loss."""
        ...

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return the inserts that hold these records, in order. Never raises on what a record contains."""
        ...


def table_insert(name: str, table: pa.Table) -> Insert:
    """Return the insert of an Arrow table into the ClickHouse table ``name``, columns matched by their names."""
    # One dictionary a column in the whole stream: some ClickHouse versions read the first one only.
    unified = table.unify_dictionaries()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, unified.schema, options=IPC_OPTIONS) as writer:
        writer.write_table(unified)
    return Insert(name, tuple(table.schema.names), table.num_rows, sink.getvalue().to_pybytes())


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_LETTER_SCHEMA: Final = pa.schema(
    [
        ("topic", pa.string()),
        ("source_log", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("field", pa.string()),
        ("message", pa.string()),
        ("event_id", pa.string()),
        ("service", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("key", pa.binary()),
        ("original", pa.binary()),
    ]
)


class _DeadLetter(msgspec.Struct):
    """``spendstream.schemas.dead_letter.DeadLetter``, and a row. A reason of a later release is kept as it is."""

    topic: str
    source_log: str
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    reason: str
    message: str
    recorded_at: Annotated[datetime, msgspec.Meta(tz=True)]
    original: bytes
    field: str | None = None
    event_id: str | None = None
    service: str | None = None
    key: bytes | None = None


_decode_letter = msgspec.json.Decoder(_DeadLetter).decode


class DeadLetterEncoder:
    """Encodes dead letters."""

    table = DEAD_LETTERS
    is_compacted = False

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return one insert, or none. What is no dead letter becomes one, of this topic."""
        letters: list[_DeadLetter] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                letters.append(_decode_letter(record.value))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                undecodable.append(Undecodable(record, Reason.NOT_JSON, f"not a dead letter: {error}"))
        return Encoded((_letters_insert(letters),) if letters else (), tuple(undecodable))


def undecodable_insert(undecodable: Sequence[Undecodable]) -> Insert:
    """Return records that a sink could not read as rows of ``dead_letters``, each under its own topic.

    They go straight to the table: through Kafka they would need a producer, and room for their bytes in base64.
    """
    return _letters_insert(
        [
            _DeadLetter(
                topic=one.record.topic,
                # A sink does not know the life of the topic; the timestamp tells apart two records at one offset.
                source_log=f"timestamp-ms:{one.record.timestamp}",
                partition=one.record.partition,
                offset=one.record.offset,
                reason=one.reason.value,
                message=one.message,
                # kept within 1970 and 2100: producers may set any number
                recorded_at=_EPOCH + timedelta(milliseconds=min(max(one.record.timestamp, 0), _LATEST_MS)),
                original=one.record.value or b"",
                key=one.record.key,
            )
            for one in undecodable
        ]
    )


def _letters_insert(letters: Sequence[_DeadLetter]) -> Insert:
    columns = []
    for field in _LETTER_SCHEMA:
        values = [getattr(letter, field.name) for letter in letters]
        if field.type == pa.string():
            values = ["" if value is None else value for value in values]
        columns.append(pa.array(values, field.type))
    return table_insert(DEAD_LETTERS, pa.table(columns, schema=_LETTER_SCHEMA))


def invalid(record: ConsumedRecord, what: str, error: ValidationError) -> Undecodable:
    """Return a record that its model refuses, with the first thing that is wrong with it."""
    found = error.errors(include_url=False, include_input=False)
    is_text = any(one["type"] == "json_invalid" for one in found)
    where = "".join(f"{part}." for part in found[0]["loc"]).removesuffix(".")
    message = f"{where}: {found[0]['msg']}" if where else str(found[0]["msg"])
    return Undecodable(record, Reason.NOT_JSON if is_text else Reason.INVALID_VALUE, f"{what}: {message}")


_TEXT: Final = pa.string()
_TIME: Final = pa.timestamp("us", tz="UTC")
_RATE: Final = pa.decimal128(38, 18)
_RATE_PLACES: Final = Decimal("1e-18")
_DIGITS: Final = Context(prec=38, rounding=ROUND_HALF_EVEN)
_CARD_SCHEMA: Final = pa.schema(
    [
        *((name, _TEXT) for name in ("rate_card_id", "source", "provider", "model", "deployment", "service_tier")),
        ("valid_from", _TIME),
        ("reference", _TEXT),
        (
            "rates",
            pa.list_(
                pa.struct(
                    [
                        ("item", _TEXT),
                        ("above_input_tokens", pa.int64()),
                        ("up_to_input_tokens", pa.int64()),
                        ("usd", _RATE),
                        ("per", pa.int64()),
                        ("unit", _TEXT),
                        ("minimum", pa.int64()),
                        ("priced_as", _TEXT),
                        ("multiplier", _RATE),
                    ]
                )
            ),
        ),
        ("record", _TEXT),
    ]
)


class RateCardEncoder:
    """Encodes rate cards. The column ``record`` is the record as it came, with what a later release may have added."""

    table = RATE_CARDS
    is_compacted = True

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        tables: dict[str, pa.Table] = {}
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                card = RateCardRecord.model_validate_json(record.value)
                tables[card.rate_card_id] = _card_table(card, record.value)
            except ValidationError as error:
                undecodable.append(invalid(record, "not a rate card", error))
            except (pa.ArrowException, ValueError, ArithmeticError) as error:
                undecodable.append(Undecodable(record, Reason.INVALID_VALUE, f"not a rate card: {error}"))
        inserts = (table_insert(RATE_CARDS, pa.concat_tables(tables.values())),) if tables else ()
        return Encoded(inserts, tuple(undecodable))


def _card_table(card: RateCardRecord, value: bytes) -> pa.Table:
    """Return a card as a row. What is finer than its column (1e-18) is rounded there, and exact in the record.

    Raises: pyarrow's errors, and decimal's ArithmeticError, on a number that is too large.
    """
    row = card.model_dump(include=set(_CARD_SCHEMA.names)) | {
        "valid_from": card.valid_from,
        "rates": [
            rate._asdict()
            | {"usd": _DIGITS.quantize(rate.usd, _RATE_PLACES)}
            | {"multiplier": _DIGITS.quantize(rate.multiplier, _RATE_PLACES)}
            for rate in card.rates()
        ],
        "record": value.decode(),
    }
    return pa.Table.from_pylist([row], schema=_CARD_SCHEMA)


class RollupEncoder:
    """Encodes rollups. Of the totals of one key in a batch only the last, by ``through_offset``, becomes a row."""

    table = ROLLUPS
    is_compacted = True

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        rollups: list[Rollup] = []
        sources: list[ConsumedRecord] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                rollups.append(read_rollup(record.value))
                sources.append(record)
            except NotARollup as error:
                undecodable.append(_not_a_rollup(record, error))
        if not rollups:
            return Encoded((), tuple(undecodable))
        try:
            table = rollup_table(latest(rollups))
        except NotARollup:
            errors = refused(rollups, rollup_table)
            undecodable.extend(_not_a_rollup(sources[number], error) for number, error in errors.items())
            rollups = [rollup for number, rollup in enumerate(rollups) if number not in errors]
            if not rollups:
                return Encoded((), tuple(undecodable))
            table = rollup_table(latest(rollups))
        return Encoded((table_insert(ROLLUPS, table),), tuple(undecodable))


def latest(rollups: Iterable[Rollup]) -> list[Rollup]:
    """Return, of each key, the total that absorbed most: greatest ``through_offset``, of equal ones the last."""
    by_key: dict[tuple[Any, ...], Rollup] = {}
    for rollup in rollups:
        key = (
            rollup.source_log,
            rollup.source_partition,
            rollup.minute_us,
            rollup.correction_block,
            *(rollup.dimensions.get(name, "") for name in DIMENSIONS),
        )
        known = by_key.get(key)
        if known is None or rollup.through_offset >= known.through_offset:
            by_key[key] = rollup
    return list(by_key.values())


def _not_a_rollup(record: ConsumedRecord, error: NotARollup) -> Undecodable:
    return Undecodable(record, error.reason, f"not a rollup: {error}")
