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
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spendstream.core.money import usd_text
from spendstream.core.timestamps import epoch_us, from_epoch_us
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.measures import COLUMN, MEASURES, RollupMeasure, Unit
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


class Rollup(msgspec.Struct, kw_only=True, gc=False):
    """A record that was read. Beside these it has the other fields of ``MEASURES``; money is still text."""

    source_log: str
    source_partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    minute: _Time
    correction_block: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] = ON_TIME
    dimensions: dict[str, str]
    first_offset: _Count
    through_offset: _Count

    @property
    def key(self) -> AggregateKey:
        """The aggregate's key; dimensions in the order of the record."""
        return AggregateKey(epoch_us(self.minute), self.correction_block, tuple(self.dimensions.values()))


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
_DIMENSIONS: Final = frozenset(DIMENSIONS)
_MICROSECOND: Final = pa.timestamp("us", tz="UTC")


class _Part:
    """The measures that are read alike: their columns in the matrix, and their values of one rollup."""

    def __init__(self, *units: Unit) -> None:
        self.measures = [measure for measure in MEASURES if measure.unit in units]
        self.columns = [COLUMN[measure.name] for measure in self.measures]
        self.of: Callable[[Rollup], tuple[Any, ...]] = attrgetter(
            *(f"{m.group}.{m.bucket}" if m.group else m.field for m in self.measures)
        )


_INTEGERS: Final = _Part("count", "ms", "µs", "offset")
_MONEY: Final = _Part("USD")
_TIMES: Final = _Part("time")


@lru_cache(maxsize=4096)
def _time(us: int) -> str:
    return from_epoch_us(us).isoformat(timespec="microseconds").replace("+00:00", "Z")


_WRITERS: Final[dict[str, Callable[[int], Any]]] = {"USD": usd_text, "time": _time}
_LAYOUT: Final = {
    name: [(m.bucket, COLUMN[m.name], _WRITERS.get(m.unit, int)) for m in MEASURES if name in (m.group, m.field)]
    for name in dict.fromkeys(measure.group or measure.field for measure in MEASURES)
}
"""By field of the record: what is written there, from which columns. The entries of a map have names."""


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
    except msgspec.ValidationError as error:
        raise NotARollup(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotARollup(str(error), Reason.NOT_JSON) from error
    if not rollup.dimensions.keys() <= _DIMENSIONS:
        raise NotARollup(f"unknown dimension {min(rollup.dimensions.keys() - _DIMENSIONS)!r} - at `$.dimensions`")
    if rollup.minute.second or rollup.minute.microsecond:
        raise NotARollup("Expected a whole minute - at `$.minute`")
    return rollup


def totals_of(rollups: Sequence[Rollup]) -> NDArray[np.int64]:
    """Return the measures of rollups: n × len(MEASURES), in the order of ``COLUMN``; money in pico-dollars.

    Raises: NotARollup, where an amount is no decimal, is finer than 1e-12 USD, or doesn't fit 64 bits.
    """
    totals = np.zeros((len(rollups), len(MEASURES)), dtype=np.int64)
    if not rollups:
        return totals
    integers = np.fromiter(chain.from_iterable(map(_INTEGERS.of, rollups)), dtype=np.int64)
    totals[:, _INTEGERS.columns] = integers.reshape(len(rollups), -1)
    for column, times in zip(_TIMES.columns, zip(*map(_TIMES.of, rollups), strict=True), strict=True):
        totals[:, column] = pa.array(times, _MICROSECOND).cast(pa.int64()).to_numpy()
    # a decimal of scale 12 is the integer of pico-dollars: a low word of 64 bits, then a high one
    words = np.frombuffer(_amounts(rollups).buffers()[1], dtype=np.int64).reshape(len(_MONEY.columns), -1, 2)
    if (words[:, :, 1] != words[:, :, 0] >> 63).any():
        raise NotARollup("an amount doesn't fit 64 bits of pico-dollars")
    totals[:, _MONEY.columns] = words[:, :, 0].T
    return totals


def rollup_table(rollups: Sequence[Rollup]) -> pa.Table:
    """Return at least one rollup as columns of ``rollups_1m``; dimensions that a record lacks are empty.

    Raises: NotARollup, where an amount is no decimal, is finer than 1e-12 USD, or doesn't fit ``decimal128(38, 12)``.
    """
    columns: dict[str, pa.Array] = {
        "minute": pa.array([r.minute for r in rollups], _MICROSECOND).cast(pa.timestamp("s", tz="UTC")),
        "source_log": _names([r.source_log for r in rollups]),
        "source_partition": pa.array([r.source_partition for r in rollups], pa.int32()),
        "correction_block": pa.array([r.correction_block for r in rollups], pa.int64()),
        **{name: _names([r.dimensions.get(name, "") for r in rollups]) for name in DIMENSIONS},
    }
    for part, kind in ((_INTEGERS, pa.int64()), (_TIMES, _MICROSECOND)):
        for measure, values in zip(part.measures, zip(*map(part.of, rollups), strict=True), strict=True):
            columns[measure.field] = pa.array(values, kind)
    amounts = _amounts(rollups)
    for number, measure in enumerate(_MONEY.measures):
        columns[measure.field] = amounts.slice(number * len(rollups), len(rollups))
    return pa.table(columns)


def refused(rollups: Sequence[Rollup], read: Callable[[Sequence[Rollup]], Any]) -> dict[int, NotARollup]:
    """Return which of the rollups, read one by one by ``totals_of`` or ``rollup_table``, have no amount, and why."""
    errors: dict[int, NotARollup] = {}
    for number, rollup in enumerate(rollups):
        try:
            read([rollup])
        except NotARollup as error:
            errors[number] = error
    return errors


def _amounts(rollups: Sequence[Rollup]) -> pa.Array:
    """Return the amounts of rollups, measure by measure."""
    texts = chain.from_iterable(zip(*map(_MONEY.of, rollups), strict=True))
    try:
        return pa.array(list(texts), pa.string()).cast(USD)
    except (pa.ArrowException, ValueError) as error:
        raise NotARollup(str(error)) from error


def _names(values: list[str]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()
