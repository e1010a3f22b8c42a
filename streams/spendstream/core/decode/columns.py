"""The columns of calls: which fields an event has, and how raw columns become typed, valid ones, a column at a time."""

from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.schemas import usage
from spendstream.schemas.buckets import INPUT_BUCKETS, PROMPT_PARTS, TOKEN_BUCKETS, tokens_field

REQUIRED_NAMES: Final = ("service", "provider")
OPTIONAL_TEXT: Final = (
    "provider_response_id",
    "trace_id",
    "span_id",
    "conversation_id",
    "task_id",
    "agent",
    "parent_event_id",  # a UUID's usual text
    "model_requested",
    "model_served",
    "region",
    "inference_geo",
    "team",
    "feature",
    "customer",
    "user",
    "environment",
    "deployment",
    "account",
    "project",
    "credential",
    "currency",
)
DEFAULTED_TEXT: Final = {
    "operation": "chat",
    "service_tier": "standard",
    "capacity": "on_demand",
    "status": "ok",
    "usage_quality": "reported",
}
TIMES: Final = ("occurred_at", "requested_at")

COUNTS: Final = (
    *map(tokens_field, TOKEN_BUCKETS),
    "web_searches",
    *(f"prompt_{part}_tokens" for part in PROMPT_PARTS),
)

OPTIONAL_NUMBERS: Final = ("latency_ms", "turn", "context_step")
"""Null where absent: 0 is a value."""

OBJECTS: Final = ("units", "usage_notes", "tags")
"""What is no single text or number, as text; null where absent. Only the strict reader reads these."""

RAW_TEXT: Final = ("event_id", *TIMES, *REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT, "provider_cost")
RAW_SCHEMA: Final[dict[str, pl.DataType]] = {
    **{field: pl.String() for field in RAW_TEXT},
    **{field: pl.Int64() for field in (*COUNTS, "attempt", *OPTIONAL_NUMBERS)},
    "gpu_seconds": pl.Float64(),
}
"""A JSON event's fields, not validated yet; an absent one is null. Only the strict reader reads ``OBJECTS``."""

CALL_SCHEMA: Final[dict[str, pl.DataType]] = {
    "row": pl.Int64(),  # which record of the batch
    "id_hi": pl.UInt64(),  # event_id, its 16 bytes big-endian
    "id_lo": pl.UInt64(),
    "occurred_at_us": pl.Int64(),  # µs since 1970, UTC
    "requested_at_us": pl.Int64(),  # null where absent
    **{field: pl.String() for field in (*REQUIRED_NAMES, *OPTIONAL_TEXT, *DEFAULTED_TEXT)},  # "" where absent
    "attempt": pl.Int64(),
    **{field: pl.Int64() for field in OPTIONAL_NUMBERS},  # null where absent
    **{field: pl.Int64() for field in COUNTS},  # 0 where absent
    "gpu_us": pl.Int64(),  # null where absent: 0 is a call that used none
    "provider_cost": pl.String(),  # decimal text; null where absent
    "units": pl.String(),  # a JSON object of decimal text by unit; null where absent
    "usage_notes": pl.String(),  # joined with "; "; null where absent
    "tags": pl.String(),  # a JSON object; null where absent
}
"""A valid call: typed, with defaults filled in."""

_MAX_TEXT: Final = 256
_EARLIEST_US: Final = int(usage.EARLIEST.timestamp()) * 1_000_000
_LATEST_US: Final = int(usage.LATEST.timestamp()) * 1_000_000
_CHOICES: Final = {
    "service_tier": get_args(usage.ServiceTier),
    "capacity": get_args(usage.Capacity),
    "status": get_args(usage.Status),
    "usage_quality": get_args(usage.UsageQuality),
}
_LIMITS: Final = {
    **dict.fromkeys(COUNTS, (0, usage.MAX_TOKENS)),
    "attempt": (1, 1000),
    "latency_ms": (0, 86_400_000),
    "turn": (0, 1_000_000),
    "context_step": (0, usage.MAX_TOKENS),
    "gpu_seconds": (0, usage.MAX_GPU_SECONDS),
}
_COUNTED: Final = (*map(tokens_field, TOKEN_BUCKETS), "web_searches", "gpu_seconds")

_PLACES: Final = {4: ord("-"), 7: ord("-"), 10: ord("T"), 13: ord(":"), 16: ord(":")}
_DIGITS: Final = [i for i in range(19) if i not in _PLACES]
_SECONDS_END: Final = 19
_MAX_DECIMALS: Final = 6
_ZONES: Final = (b"Z", b"+00:00")
_DAYS_IN_MONTH: Final = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
_ZERO: Final = ord("0")

_UUID_LENGTH: Final = 36
_DASHES: Final = [8, 13, 18, 23]
_GROUPS: Final = [slice(0, 8), slice(9, 13), slice(14, 18), slice(19, 23), slice(24, 36)]
_NOT_HEX: Final = 256
_USUAL_UUID: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_NIL: Final = str(usage.NIL)


@dataclass(frozen=True)
class Validated:
    """``calls``: ``CALL_SCHEMA`` without ``row``, one row a record; ``valid``: rows the contract surely accepts."""

    calls: pl.DataFrame
    valid: NDArray[np.bool_]


def validate(raw: pl.DataFrame) -> Validated:
    """Accept the rows that the contract surely accepts; ``explain`` decides on the rest."""
    ids = parse_uuids(raw["event_id"])
    checked = raw.with_columns(_time_us(raw["occurred_at"]), _time_us(raw["requested_at"])).with_columns(
        __fault=pl.any_horizontal(*_text_faults(raw), *_count_faults(raw), *_time_faults())
    )
    calls = checked.with_columns(
        pl.Series("id_hi", ids.hi),
        pl.Series("id_lo", ids.lo),
        *(pl.col(field).fill_null("") for field in OPTIONAL_TEXT),
        *(pl.col(field).fill_null(default) for field, default in DEFAULTED_TEXT.items()),
        *(pl.col(field).fill_null(0) for field in COUNTS),
        pl.col("attempt").fill_null(1),
        *(pl.lit(None, dtype=pl.String).alias(field) for field in OBJECTS if field not in raw.columns),
        gpu_us=(pl.col("gpu_seconds") * 1e6).round().cast(pl.Int64, strict=False),
    )
    valid = ids.valid & ~checked["__fault"].fill_null(True).to_numpy()
    return Validated(calls.select([name for name in CALL_SCHEMA if name != "row"]), valid)


def _text_faults(raw: pl.DataFrame) -> list[pl.Expr]:
    """Return the checks of text fields, without those that no value of the batch can fail."""
    faults = [pl.col(field).is_null() | (pl.col(field) == "") for field in REQUIRED_NAMES]
    faults.append(pl.col("model_requested").is_null() & pl.col("model_served").is_null())
    faults.extend((pl.col(field) == "").fill_null(False) for field in ("model_requested", "model_served", "operation"))
    # a text has at most as many characters as bytes: beyond the limit in bytes, explain counts characters
    longest = raw.select(pl.col(*REQUIRED_NAMES, *OPTIONAL_TEXT, "operation").str.len_bytes().max()).row(0, named=True)
    for field, length in longest.items():
        if length is not None and length > _MAX_TEXT:
            faults.append((pl.col(field).str.len_bytes() > _MAX_TEXT).fill_null(False))
    for field, choices in _CHOICES.items():
        if raw[field].null_count() < raw.height and not set(raw[field].unique().drop_nulls().to_list()) <= set(choices):
            faults.append((~pl.col(field).is_in(choices)).fill_null(False))
    if raw["currency"].null_count() < raw.height:
        faults.append((~pl.col("currency").str.contains(r"^[A-Z]{3}$")).fill_null(False))
        faults.append((pl.col("currency").str.len_bytes() > 3).fill_null(False))
    if raw["credential"].null_count() < raw.height:
        faults.append(pl.col("credential").str.contains(usage.SECRET).fill_null(False))
    if raw["parent_event_id"].null_count() < raw.height:
        parent = pl.col("parent_event_id")
        faults.append((~parent.str.contains(_USUAL_UUID) | (parent == _NIL)).fill_null(False))
    if raw["provider_cost"].null_count() < raw.height:
        plain = pl.col("provider_cost").str.contains(r"^-?(0|[1-9]\d{0,5})(\.\d{1,12})?$")
        faults.append((~plain).fill_null(False) | pl.col("provider_cost").str.contains("\n").fill_null(False))
    return faults


def without_nul(raw: pl.DataFrame) -> NDArray[np.bool_]:
    """Return the rows without a NUL in any text. Only an escape can spell one: only escaped records need the check."""
    texts = [name for name, kind in raw.schema.items() if kind == pl.String()]
    found = raw.select(pl.any_horizontal(pl.col(texts).str.contains("\x00", literal=True).fill_null(False)))
    return ~found.to_series().to_numpy()


def _count_faults(raw: pl.DataFrame) -> list[pl.Expr]:
    """Return the checks of numbers, without those that no value of the batch can fail."""
    parts = pl.sum_horizontal(pl.col(f"prompt_{part}_tokens") for part in PROMPT_PARTS)
    whole = pl.sum_horizontal(pl.col(tokens_field(bucket)) for bucket in INPUT_BUCKETS)
    counted = (*_COUNTED, *(field for field in ("units",) if field in raw.columns))
    faults = [pl.all_horizontal(pl.col(field).is_null() for field in counted), parts > whole]
    extremes = raw.select(
        *(pl.col(field).min().alias(f"min {field}") for field in _LIMITS),
        *(pl.col(field).max().alias(f"max {field}") for field in _LIMITS),
    ).row(0, named=True)
    for field, (low, high) in _LIMITS.items():
        smallest, largest = extremes[f"min {field}"], extremes[f"max {field}"]
        if (smallest is not None and smallest < low) or (largest is not None and not largest <= high):
            faults.append((~pl.col(field).is_between(low, high)).fill_null(False))
    return faults


def _time_us(texts: pl.Series) -> pl.Series:
    """Return µs since 1970; null if absent, or in any but the usual formats."""
    name = f"{texts.name}_us"
    if texts.null_count() == len(texts):
        return pl.Series(name, [None], dtype=pl.Int64).new_from_index(0, len(texts)).alias(name)
    us, valid = parse_times(texts)
    found = pl.Series(name, us)
    return found if valid.all() else found.set(pl.Series(~valid), None)


def _time_faults() -> list[pl.Expr]:
    at, requested = pl.col("occurred_at_us"), pl.col("requested_at_us")
    return [
        at.is_null() | ~at.is_between(_EARLIEST_US, _LATEST_US - 1),
        pl.col("requested_at").is_not_null()
        & (requested.is_null() | ~requested.is_between(_EARLIEST_US, _LATEST_US - 1)),
    ]


def parse_times(texts: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Parse RFC 3339 times in their usual UTC formats: ``YYYY-MM-DDTHH:MM:SS[.ffffff](Z|+00:00)``.

    Returns: µs since 1970, and which rows have such a format and are in the calendar. Times in any other format, legal
    or not, are not valid here; ``explain`` decides on them.
    """
    n = len(texts)
    us, valid = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    lengths = texts.str.len_bytes().fill_null(0)
    for length in lengths.unique().to_list():
        for zone in _ZONES:
            rest = length - _SECONDS_END - len(zone)  # a point and the decimals
            if rest != 0 and not 2 <= rest <= _MAX_DECIMALS + 1:
                continue
            rows = np.flatnonzero(
                (lengths == length).to_numpy() & texts.str.ends_with(zone.decode()).fill_null(False).to_numpy()
            )
            if rows.size:
                chosen = texts if rows.size == n else texts.gather(rows)
                us[rows], valid[rows] = _fixed(joined_utf8(chosen), rows.size, length, max(rest - 1, 0))
    return us, valid


def _fixed(
    joined: NDArray[np.uint8], n: int, length: int, decimals: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Parse texts of one length, all with so many decimals."""
    text = joined.reshape(n, length)
    digits = text - np.uint8(_ZERO)  # wraps around below "0": such a byte is far above 9 then
    fraction = range(_SECONDS_END + 1, _SECONDS_END + 1 + decimals)
    valid = (digits[:, [*_DIGITS, *fraction]] <= 9).all(axis=1)
    for place, separator in _PLACES.items():
        valid &= text[:, place] == separator
    if decimals:
        valid &= text[:, _SECONDS_END] == ord(".")
    wide = digits.astype(np.int64)
    year = _number(wide, range(0, 4))
    month, day = _number(wide, range(5, 7)), _number(wide, range(8, 10))
    hour, minute, second = _number(wide, range(11, 13)), _number(wide, range(14, 16)), _number(wide, range(17, 19))
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    valid &= (month >= 1) & (month <= 12) & (day >= 1) & (hour <= 23) & (minute <= 59) & (second <= 59)
    in_month = _DAYS_IN_MONTH[np.where(valid, month, 1)] + (leap & (month == 2))
    valid &= day <= in_month
    seconds = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    micros = _number(wide, fraction) * 10 ** (_MAX_DECIMALS - decimals) if decimals else 0
    return np.where(valid, seconds * 1_000_000 + micros, 0), valid


def _number(digits: NDArray[np.int64], places: range) -> NDArray[np.int64]:
    value = digits[:, places[0]]
    for place in places[1:]:
        value = value * 10 + digits[:, place]
    return value


def _days(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return days since 1970 in the Gregorian calendar. Years start in March, so that leap days come last."""
    since_march = year - (month <= 2)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return since_march * 365 + since_march // 4 - since_march // 100 + since_march // 400 + day_of_year - 719_468


def _hex_pairs() -> NDArray[np.uint16]:
    """Return the byte that each pair of characters spells, by the pair as a 16-bit number of this machine."""
    pairs = np.full(65536, _NOT_HEX, dtype=np.uint16)
    digits = {ord(text): value for value in range(16) for text in (f"{value:x}", f"{value:X}")}
    for high, upper in digits.items():
        for low, lower in digits.items():
            pairs[np.array([high, low], dtype=np.uint8).view(np.uint16)] = upper << 4 | lower
    return pairs


_HEX: Final = _hex_pairs()


@dataclass(frozen=True)
class Uuids:
    """``hi``, ``lo``: the 16 bytes as two big-endian halves; ``valid``: rows in the form 8-4-4-4-12 in hex, not 0."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]
    valid: NDArray[np.bool_]


def parse_uuids(texts: pl.Series) -> Uuids:
    """Parse hyphenated UUIDs; other forms are not valid here, though the contract may accept them."""
    n = len(texts)
    valid = (texts.str.len_bytes() == _UUID_LENGTH).fill_null(False).to_numpy()
    fixed = texts if valid.all() else texts.set(pl.Series(~valid), "0" * _UUID_LENGTH)
    text = joined_utf8(fixed).reshape(n, _UUID_LENGTH)
    spelled = _HEX.take(np.concatenate([text[:, group] for group in _GROUPS], axis=1).view(np.uint16))
    valid = valid & (text[:, _DASHES] == ord("-")).all(axis=1) & (spelled != _NOT_HEX).all(axis=1)
    packed = spelled.astype(np.uint8)
    halves = packed.view(">u8").astype(np.uint64)
    hi, lo = halves[:, 0], halves[:, 1]
    return Uuids(hi=hi, lo=lo, valid=valid & ((hi != 0) | (lo != 0)))


def uuid_text(hi: int, lo: int) -> str:
    """Return the text of a UUID's halves, in a fifth of the time that ``str`` of a ``UUID`` takes."""
    digits = f"{hi:016x}{lo:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def joined_utf8(texts: pl.Series) -> NDArray[np.uint8]:
    """Return the UTF-8 bytes of all rows, concatenated; a null has none."""
    # large_string: one run of bytes, and where each row starts
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    if len(texts) == 0 or data is None:
        return np.zeros(0, dtype=np.uint8)
    bounds = np.frombuffer(offsets, dtype=np.int64)
    first, end = int(bounds[array.offset]), int(bounds[array.offset + len(array)])
    return np.frombuffer(data, dtype=np.uint8)[first:end]
