"""RFC 3339 text to microseconds, a column at a time, for the usual spellings of UTC."""

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.decode.texts import joined_utf8

_PLACES: Final = {4: ord("-"), 7: ord("-"), 10: ord("T"), 13: ord(":"), 16: ord(":")}
_DIGITS: Final = [i for i in range(19) if i not in _PLACES]
_SECONDS_END: Final = 19
_MOST_DECIMALS: Final = 6
_ZONES: Final = (b"Z", b"+00:00")
_DAYS_IN_MONTH: Final = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
_ZERO: Final = ord("0")


def parse_times(texts: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Parse ``YYYY-MM-DDTHH:MM:SS[.ffffff](Z|+00:00)``, up to six decimals.

    Returns: µs since 1970, and which rows are so written and are a time of the calendar. Any other spelling, legal
    or not, is not valid here and left to the explainer.
    """
    n = len(texts)
    us, valid = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    lengths = texts.str.len_bytes().fill_null(0)
    for length in lengths.unique().to_list():
        for zone in _ZONES:
            decimals = _decimals(length, zone)
            if decimals is None:
                continue
            rows = np.flatnonzero(
                (lengths == length).to_numpy() & texts.str.ends_with(zone.decode()).fill_null(False).to_numpy()
            )
            if rows.size:
                chosen = texts if rows.size == n else texts.gather(rows)
                us[rows], valid[rows] = _fixed(joined_utf8(chosen), rows.size, length, decimals)
    return us, valid


def _decimals(length: int, zone: bytes) -> int | None:
    """Return how many decimals a text of this length has; None where none fits."""
    rest = length - _SECONDS_END - len(zone)
    if rest == 0:
        return 0
    return rest - 1 if 2 <= rest <= _MOST_DECIMALS + 1 else None


def _fixed(
    joined: NDArray[np.uint8], n: int, length: int, decimals: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
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
    micros = _number(wide, fraction) * 10 ** (_MOST_DECIMALS - decimals) if decimals else 0
    return np.where(valid, seconds * 1_000_000 + micros, 0), valid


def _number(digits: NDArray[np.int64], places: range) -> NDArray[np.int64]:
    value = digits[:, places[0]]
    for place in places[1:]:
        value = value * 10 + digits[:, place]
    return value


def _days(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return days since 1970 in the Gregorian calendar, counting years from March so that leap days come last."""
    since_march = year - (month <= 2)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return since_march * 365 + since_march // 4 - since_march // 100 + since_march // 400 + day_of_year - 719_468
