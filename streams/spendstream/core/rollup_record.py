"""Rollup records, the one codec of ``spendstream.schemas.rollup.CostRollup``: an aggregate to Kafka and back.

The meter writes records and reads its own back; the detector reads sums as integers; the sink reads columns as Arrow.
Reading is strict: a dimension or bucket that isn't declared is refused, for it would be missing from a key or a sum.
Amounts are exact: text becomes ``decimal128(38, 12)``, never a float.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spendstream.core.money import usd_text
from spendstream.core.timestamps import epoch_us, from_epoch_us
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.measures import COLUMN, MEASURES, SUMS, RollupMeasure
from spendstream.schemas.priced import USD
from spendstream.schemas.rollup import DIMENSIONS, ON_TIME

Dimensions = tuple[str, ...]


@dataclass(frozen=True)
class AggregateKey:
    """``minute_us``: when the window opened; ``block``: see ``aggregates.blocks``, negative on time; ``dimensions``:
    values."""

    minute_us: int
    block: int
    dimensions: Dimensions


class NotARollup(ValueError):
    """A value of the rollup topic that can't be read as a rollup. ``reason``: as of a dead letter."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_VALUE) -> None:
        super().__init__(message)
        self.reason = reason


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
if TYPE_CHECKING:
    _Dimensions = dict[str, str]
else:
    _Dimensions = dict[Literal[DIMENSIONS], str]


class Rollup(msgspec.Struct, kw_only=True, gc=False):
    """A record that was read. Beside these it has the other fields of ``MEASURES``; money is still text."""

    source_log: str
    source_partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    minute: str
    correction_block: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] = ON_TIME
    dimensions: _Dimensions
    first_offset: _Count
    through_offset: _Count

    @property
    def minute_us(self) -> int:
        """When the window opened, in µs since 1970."""
        return _minute_us(self.minute)

    @property
    def key(self) -> AggregateKey:
        """The aggregate's key; dimensions in the order of the record."""
        return AggregateKey(self.minute_us, self.correction_block, tuple(self.dimensions.values()))


@lru_cache(maxsize=4096)
def _minute_us(text: str) -> int:
    at = msgspec.convert(text, _Time)
    if at.second or at.microsecond:
        raise msgspec.ValidationError("Expected a whole minute - at `$.minute`")
    return epoch_us(at)


def _fields(measures: Iterable[RollupMeasure]) -> list[tuple[str, Any, Any]]:
    types: dict[str, tuple[Any, Any]] = {"USD": (str, "0"), "time": (_Time, msgspec.NODEFAULT)}
    typed = ((measure, *types.get(measure.unit, (_Count, 0))) for measure in measures)
    return [(m.bucket or m.field, kind, msgspec.NODEFAULT if m.is_required else absent) for m, kind, absent in typed]


_GROUPED: Final = {
    group: [measure for measure in MEASURES if measure.group == group]
    for group in dict.fromkeys(measure.group for measure in MEASURES if measure.group)
}
_MAPS: Final = {
    group: msgspec.defstruct(group, _fields(measures), forbid_unknown_fields=True, gc=False)
    for group, measures in _GROUPED.items()
}
_RECORD: Final = msgspec.defstruct(
    "Rollup",
    [
        *_fields(m for m in MEASURES if not m.group and m.field not in Rollup.__struct_fields__),
        *((group, kind, msgspec.field(default_factory=kind)) for group, kind in _MAPS.items()),
    ],
    bases=(Rollup,),
    kw_only=True,
    gc=False,
)
_decode: Final[Callable[[bytes], Rollup]] = msgspec.json.Decoder(_RECORD).decode  # type: ignore[assignment]
_encode: Final = msgspec.json.Encoder().encode


class _Part:
    """Measures of one wire form: their columns in the matrix, and a getter of their values."""

    def __init__(self, measures: Iterable[RollupMeasure]) -> None:
        self.measures = tuple(measures)
        self.columns = [COLUMN[measure.name] for measure in self.measures]
        self.of: Callable[[Rollup], tuple[Any, ...]] = attrgetter(
            *(f"{m.group}.{m.bucket}" if m.group else m.field for m in self.measures)
        )


_COUNTS: Final = _Part(m for m in MEASURES if m.unit != "USD" and m.kind == "sum")
_EXTREMES: Final = _Part(m for m in MEASURES if m.unit != "time" and m.kind != "sum")
_MONEY: Final = _Part(m for m in MEASURES if m.unit == "USD")
_TIMES: Final = _Part(m for m in MEASURES if m.unit == "time")


@lru_cache(maxsize=4096)
def _time(us: int) -> str:
    return from_epoch_us(us).isoformat(timespec="microseconds").replace("+00:00", "Z")


_WRITERS: Final[dict[str, Callable[[int], Any]]] = {"USD": usd_text, "time": _time}
_LAYOUT: Final = {
    name: [(m.bucket, COLUMN[m.name], _WRITERS.get(m.unit, int)) for m in MEASURES if name in (m.group, m.field)]
    for name in dict.fromkeys(measure.group or measure.field for measure in MEASURES)
}
"""For each field of the record: its bucket (empty unless it is a map), column and writer; a map has one per bucket."""


def rollup_record(
    source_log: str, partition: int, names: Dimensions, key: AggregateKey, totals: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """Return an aggregate's Kafka key and value. ``totals``: in the order of ``COLUMN``."""
    values = totals.tolist()
    record: dict[str, Any] = {
        "source_log": source_log,
        "source_partition": partition,
        "minute": _time(key.minute_us),
        "correction_block": key.block,
        "dimensions": dict(zip(names, key.dimensions, strict=True)),
    }
    for name, entries in _LAYOUT.items():
        bucket, column, write = entries[0]
        if bucket:
            record[name] = {bucket: write(value) for bucket, at, write in entries if (value := values[at])}
        else:
            record[name] = write(values[column])
    return rollup_key(source_log, partition, key), _encode(record)


def rollup_key(source_log: str, partition: int, key: AggregateKey) -> bytes:
    """Return an aggregate's Kafka key."""
    return _encode([source_log, partition, _time(key.minute_us), key.block, *key.dimensions])


def read_rollup(value: bytes) -> Rollup:
    """Read a record's value, except for its amounts, which are read many at a time. Raises: NotARollup."""
    try:
        rollup = _decode(value)
        _minute_us(rollup.minute)
        return rollup
    except msgspec.ValidationError as error:
        raise NotARollup(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotARollup(str(error), Reason.NOT_JSON) from error


def sums_of(rollups: Sequence[Rollup]) -> NDArray[np.int64]:
    """Return the additive measures of rollups: n × len(SUMS), in the order of ``SUMS``; money in pico-dollars.

    Raises: NotARollup, where an amount is no decimal, is finer than 1e-12 USD, or doesn't fit 64 bits.
    """
    sums = np.zeros((len(rollups), len(SUMS)), dtype=np.int64)
    if rollups:
        sums[:, _COUNTS.columns] = _integers(_COUNTS, rollups)
        amounts, rows = _amounts(rollups)
        # a decimal of scale 12 is the integer of pico-dollars: a low word of 64 bits, then a high one
        low, high = np.frombuffer(amounts.buffers()[1], dtype=np.int64).reshape(-1, 2).T
        if (high != low >> 63).any():
            raise NotARollup("an amount doesn't fit 64 bits of pico-dollars")
        sums[:, _MONEY.columns] = low[rows]
    return sums


def totals_of(rollups: Sequence[Rollup]) -> NDArray[np.int64]:
    """Return all measures of rollups: n × len(MEASURES), in the order of ``COLUMN``. Raises: as ``sums_of``."""
    totals = np.zeros((len(rollups), len(MEASURES)), dtype=np.int64)
    if rollups:
        totals[:, : len(SUMS)] = sums_of(rollups)
        totals[:, _EXTREMES.columns] = _integers(_EXTREMES, rollups)
        totals[:, _TIMES.columns] = [tuple(map(epoch_us, times)) for times in map(_TIMES.of, rollups)]
    return totals


def rollup_table(rollups: Sequence[Rollup]) -> pa.Table:
    """Return at least one rollup as columns of ``rollups_1m``; dimensions that a record lacks are empty.

    Raises: NotARollup, where an amount is no decimal, is finer than 1e-12 USD, or doesn't fit ``decimal128(38, 12)``.
    """
    microsecond = pa.timestamp("us", tz="UTC")
    columns: dict[str, pa.Array] = {
        "minute": pa.array([r.minute_us // 1_000_000 for r in rollups], pa.int64()).cast(pa.timestamp("s", tz="UTC")),
        "source_log": _names([r.source_log for r in rollups]),
        "source_partition": pa.array([r.source_partition for r in rollups], pa.int32()),
        "correction_block": pa.array([r.correction_block for r in rollups], pa.int64()),
        **{name: _names([r.dimensions.get(name, "") for r in rollups]) for name in DIMENSIONS},
    }
    for part in (_COUNTS, _EXTREMES):
        for measure, values in zip(part.measures, _integers(part, rollups).T, strict=True):
            columns[measure.field] = pa.array(values)
    for measure, times in zip(_TIMES.measures, zip(*map(_TIMES.of, rollups), strict=True), strict=True):
        columns[measure.field] = pa.array(times, microsecond)
    amounts, rows = _amounts(rollups)
    for measure, places in zip(_MONEY.measures, rows.T, strict=True):
        columns[measure.field] = pc.take(amounts, pa.array(places))
    return pa.table(columns)


def refused(rollups: Sequence[Rollup], read: Callable[[Sequence[Rollup]], Any]) -> dict[int, NotARollup]:
    """Return the rollups, by index, whose amounts ``read`` (``totals_of``, say) refuses, and why."""
    errors: dict[int, NotARollup] = {}
    for number, rollup in enumerate(rollups):
        try:
            read([rollup])
        except NotARollup as error:
            errors[number] = error
    return errors


def _integers(part: _Part, rollups: Sequence[Rollup]) -> NDArray[np.int64]:
    values = np.fromiter(chain.from_iterable(map(part.of, rollups)), dtype=np.int64)
    return values.reshape(len(rollups), len(part.columns))


class _Places(dict[str, int]):
    """Numbers different texts in the order in which they are first asked for."""

    def __missing__(self, text: str) -> int:
        place = self[text] = len(self)
        return place


def _amounts(rollups: Sequence[Rollup]) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the different amounts of rollups, and the place of each rollup's among them: n × len(_MONEY.columns)."""
    places = _Places()
    texts = chain.from_iterable(map(_MONEY.of, rollups))
    rows = np.fromiter(map(places.__getitem__, texts), dtype=np.int64).reshape(len(rollups), len(_MONEY.columns))
    try:
        return pc.cast(pa.array(list(places), pa.string()), USD), rows
    except (pa.ArrowException, ValueError) as error:
        raise NotARollup(str(error)) from error


def _names(values: list[str]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()
