"""Records of a topic as rows of a table: what each encoder turns into inserts, and what it can't read.

Priced calls are Arrow IPC streams on the wire; rollups, dead letters, rate cards and alerts are JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import ValidationError

from spendstream.core.rollup_record import NotARollup, Rollup, read_rollup, refused, rollup_table
from spendstream.schemas.alert import Alert
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import ADDED, PRICED_SCHEMA, USD
from spendstream.schemas.rate_card_record import RateCardRecord
from spendstream.schemas.rollup import DIMENSIONS

CALLS: Final = "calls"
ROLLUPS: Final = "rollups_1m"
DEAD_LETTERS: Final = "dead_letters"
RATE_CARDS: Final = "rate_cards"
ALERTS: Final = "alerts"

# A third of the bytes on the network, and quicker to write than the uncompressed stream.
_IPC_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


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
    with pa.ipc.new_stream(sink, unified.schema, options=_IPC_OPTIONS) as writer:
        writer.write_table(unified)
    return Insert(name, tuple(table.schema.names), table.num_rows, sink.getvalue().to_pybytes())


@dataclass(frozen=True)
class _Stream:
    """A record's value and its calls. ``is_as_sent``: the value is one batch of ``PRICED_SCHEMA``, ready to insert."""

    value: bytes
    calls: pa.Table
    is_as_sent: bool


class CallEncoder:
    """Encodes priced calls. ``max_rows``: of one insert, gathered from streams; a larger stream is an insert alone."""

    table = CALLS
    is_compacted = False

    def __init__(self, max_rows: int = 10_000) -> None:
        self._max_rows = max_rows

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return the inserts that hold the records' calls, in order."""
        streams: list[_Stream] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                streams.append(_read_stream(record.value))
            except (pa.ArrowException, ValueError, OSError) as error:
                undecodable.append(Undecodable(record, Reason.INVALID_VALUE, f"not priced calls: {error}"))
        inserts: list[Insert] = []
        group: list[_Stream] = []
        rows = 0
        for stream in streams:
            if group and rows + stream.calls.num_rows > self._max_rows:
                inserts.append(_calls_insert(group))
                group, rows = [], 0
            group.append(stream)
            rows += stream.calls.num_rows
        if rows:
            inserts.append(_calls_insert(group))
        return Encoded(tuple(inserts), tuple(undecodable))


def read_priced(value: bytes) -> pa.Table:
    """Read one IPC stream as a table of ``PRICED_SCHEMA``.

    Unknown columns are left out and absent ones are null where they may be: a later release may add columns.

    Raises: pyarrow's errors or ValueError, when it is no IPC stream, is damaged, or lacks a required column.
    """
    return _read_stream(value).calls


def _read_stream(value: bytes) -> _Stream:
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    table.validate(full=True)  # 0.1 µs a row; an index beyond its dictionary would read foreign memory
    if table.schema.equals(PRICED_SCHEMA):
        return _Stream(value, table, is_as_sent=table.column(0).num_chunks == 1)
    columns = [_stream_column(table, field) for field in PRICED_SCHEMA]
    return _Stream(value, pa.table(columns, schema=PRICED_SCHEMA), is_as_sent=False)


def _stream_column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name in table.schema.names:
        column = table[field.name]
        if column.null_count and not field.nullable:
            raise ValueError(f"column {field.name} has nulls")
        return column.cast(field.type)
    if field.name in ADDED:
        return _empty(table.num_rows, field)
    if not field.nullable:
        raise ValueError(f"column {field.name} is missing")
    return pa.nulls(table.num_rows, field.type)


_OTHER_DEFAULTS: Final = {"capacity": "on_demand"}
"""Columns of ``calls`` whose default is not the empty value of their type."""


def _empty(n: int, field: pa.Field) -> pa.Array:
    """Return a column's default so many times: 0, "" or an empty map, unless it has another."""
    kind = field.type
    if pa.types.is_map(kind):
        return pa.array([[]] * n, kind)
    default = _OTHER_DEFAULTS.get(field.name, "")
    if pa.types.is_dictionary(kind):
        return pa.array([default] * n, pa.string()).dictionary_encode().cast(kind)
    return pa.array([0 if pa.types.is_integer(kind) else default] * n, kind)


def _calls_insert(group: Sequence[_Stream]) -> Insert:
    first = group[0]
    if len(group) == 1 and first.is_as_sent:
        # 0.7 µs a row with the check above; written again, together with others, it takes 3.
        return Insert(CALLS, used_columns(first.calls), first.calls.num_rows, first.value)
    calls = pa.concat_tables([stream.calls for stream in group])
    return table_insert(CALLS, calls.select(used_columns(calls)))


def used_columns(calls: pa.Table) -> tuple[str, ...]:
    """Return the columns in which some call has another value than the table's default.

    Most fields are rarely stated, and a column that an INSERT does not name costs ClickHouse next to nothing.
    """
    return tuple(
        name
        for name, column in zip(calls.schema.names, calls.columns, strict=True)
        if not _is_default(column, _OTHER_DEFAULTS.get(name, ""), is_money=name.startswith("cost_"))
    )


def _is_default(column: pa.ChunkedArray, text: str, *, is_money: bool) -> bool:
    """Whether every value is the default: null where it may be (an amount by bucket: 0), else 0, ``text`` or empty.

    False where that takes long to find out.
    """
    kind = column.type
    if column.null_count:
        return column.null_count == len(column) and not is_money
    if pa.types.is_dictionary(kind):
        return all(chunk.dictionary.to_pylist() == [text] for chunk in column.chunks if len(chunk))
    if pa.types.is_string(kind):
        return not pc.max(pc.binary_length(column)).as_py()
    if pa.types.is_map(kind):
        return all(chunk.offsets[0].equals(chunk.offsets[-1]) for chunk in column.chunks)
    if pa.types.is_decimal(kind):
        return is_money and not any(_words(chunk).any() for chunk in column.chunks)
    return bool(pa.types.is_integer(kind) and pc.min_max(column).as_py() == {"min": 0, "max": 0})


def _words(amounts: pa.Decimal128Array) -> NDArray[np.int64]:
    """Return a column of 16-byte decimals as its 64-bit words, two a value."""
    return np.frombuffer(amounts.buffers()[1], np.int64)[2 * amounts.offset : 2 * (amounts.offset + len(amounts))]


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


_TEXT: Final = pa.string()
_FLOAT: Final = pa.float64()
_TIME: Final = pa.timestamp("us", tz="UTC")
_CONTRIBUTOR: Final = pa.struct(
    [
        ("dimension", _TEXT),
        ("value", _TEXT),
        ("change_usd", USD),
        ("observed_usd", USD),
        ("share", _FLOAT),
    ]
)

_ALERT_FIELDS: Final = {
    "alert_id": _TEXT,
    "transition_id": _TEXT,
    "seq": pa.uint32(),
    "transition": _TEXT,
    "state": _TEXT,
    "watch": _TEXT,
    "rule": _TEXT,
    "facet": _TEXT,
    "severity": _TEXT,
    "started_at": _TIME,
    "at": _TIME,
    "ends_at": _TIME,
    "title": _TEXT,
    "measure": _TEXT,
    "unit": _TEXT,
    "observed": _FLOAT,
    "expected": _FLOAT,
    "score": _FLOAT,
    "notify": pa.bool_(),
    "notified_at": _TIME,
    "notifiers": pa.list_(_TEXT),
    "silenced_by": _TEXT,
    "runbook": _TEXT,
}
"""Columns that are fields of ``spendstream.schemas.alert.Alert``, under the same name."""


def _member(part: str, name: str) -> Callable[[Alert], Any]:
    """Return what reads a field of a part of an alert; null where the alert has no such part."""
    return lambda alert: getattr(getattr(alert, part), name, None)


_ALERT_PARTS: Final[dict[str, tuple[pa.DataType, Callable[[Alert], Any]]]] = {
    "group": (pa.map_(_TEXT, _TEXT), lambda alert: list(alert.group.items())),
    "limit_value": (_FLOAT, lambda alert: alert.limit),
    "reason": (_TEXT, lambda alert: alert.attribution.reason if alert.attribution else ""),
    "attributed_observed_usd": (USD, _member("attribution", "observed_usd_per_minute")),
    "attributed_expected_usd": (USD, _member("attribution", "expected_usd_per_minute")),
    "factor_changes_usd": (
        pa.map_(_TEXT, USD),
        lambda alert: [(part.factor, part.change_usd_per_minute) for part in _factor_parts(alert)],
    ),
    "factor_words": (pa.map_(_TEXT, _TEXT), lambda alert: [(part.factor, part.words) for part in _factor_parts(alert)]),
    "facts": (pa.list_(_TEXT), lambda alert: list(alert.attribution.facts) if alert.attribution else []),
    "contributors": (
        pa.list_(_CONTRIBUTOR),
        lambda alert: [
            {
                "dimension": one.dimension,
                "value": one.value,
                "change_usd": one.change_usd_per_minute,
                "observed_usd": one.observed_usd_per_minute,
                "share": one.share,
            }
            for one in (alert.attribution.contributors if alert.attribution else ())
        ],
    ),
    **{
        name: (USD, _member("projection", name)) for name in ("excess_by_end_of_hour_usd", "excess_by_end_of_month_usd")
    },
    **{
        f"budget_{name}": (kind, _member("budget", name))
        for name, kind in {
            "period_start": _TIME,
            "period_end": _TIME,
            "amount_usd": USD,
            "spent_usd": USD,
            "forecast_usd": USD,
            "burn_rate": _FLOAT,
            "burn_rate_short": _FLOAT,
        }.items()
    },
}
"""The other columns: their types, and how an alert makes them."""


class AlertEncoder:
    """Encodes alert transitions."""

    table = ALERTS
    is_compacted = False

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        good: list[Alert] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                alert = Alert.model_validate_json(record.value)
                alert_table([alert])  # few records: each is checked on its own
            except ValidationError as error:
                undecodable.append(_invalid(record, "not an alert", error))
            except (pa.ArrowException, ValueError, OverflowError) as error:
                undecodable.append(Undecodable(record, Reason.INVALID_VALUE, f"not an alert: {error}"))
            else:
                good.append(alert)
        return Encoded((table_insert(ALERTS, alert_table(good)),) if good else (), tuple(undecodable))


def alert_table(alerts: Sequence[Alert]) -> pa.Table:
    """Return transitions as columns of ``alerts``. Raises: pyarrow's errors, on an amount finer than 1e-12 USD."""
    columns = {name: pa.array([_field(alert, name) for alert in alerts], kind) for name, kind in _ALERT_FIELDS.items()}
    columns |= {name: pa.array([make(alert) for alert in alerts], kind) for name, (kind, make) in _ALERT_PARTS.items()}
    return pa.table(columns)


def _field(alert: Alert, name: str) -> Any:
    value = getattr(alert, name)
    if _ALERT_FIELDS[name] == _TEXT:
        return "" if value is None else str(value)
    return list(value) if isinstance(value, tuple) else value


def _factor_parts(alert: Alert) -> Sequence[Any]:
    return alert.attribution.parts if alert.attribution else ()


def _invalid(record: ConsumedRecord, what: str, error: ValidationError) -> Undecodable:
    """Return a record that its model refuses, with the first thing that is wrong with it."""
    found = error.errors(include_url=False, include_input=False)
    is_text = any(one["type"] == "json_invalid" for one in found)
    where = "".join(f"{part}." for part in found[0]["loc"]).removesuffix(".")
    message = f"{where}: {found[0]['msg']}" if where else str(found[0]["msg"])
    return Undecodable(record, Reason.NOT_JSON if is_text else Reason.INVALID_VALUE, f"{what}: {message}")


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
                undecodable.append(_invalid(record, "not a rate card", error))
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
