"""UUID text to 128-bit numbers, a column at a time."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_LENGTH: Final = 36
_DASHES: Final = [8, 13, 18, 23]
_DIGITS: Final = [i for i in range(_LENGTH) if i not in _DASHES]
_NOT_HEX: Final = 255


def _hex_values() -> NDArray[np.uint8]:
    table = np.full(256, _NOT_HEX, dtype=np.uint8)
    for value, (lower, upper) in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF", strict=True)):
        table[lower] = table[upper] = value
    return table


_HEX: Final = _hex_values()


@dataclass(frozen=True)
class Uuids:
    """``hi``, ``lo``: the 16 bytes as two big-endian halves; ``valid``: rows written 8-4-4-4-12 in hex, not all 0."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]
    valid: NDArray[np.bool_]


def parse_uuids(texts: pl.Series) -> Uuids:
    """Parse hyphenated UUIDs; other spellings are not valid here (the contract may still take them)."""
    n = len(texts)
    valid = (texts.str.len_bytes() == _LENGTH).fill_null(False).to_numpy()
    fixed = texts if valid.all() else texts.set(pl.Series(~valid), "0" * _LENGTH)
    joined = "".join(fixed.to_list()).encode()
    text = np.frombuffer(joined, dtype=np.uint8).reshape(n, _LENGTH)
    digits = _HEX[text[:, _DIGITS]]
    valid = valid & (text[:, _DASHES] == ord("-")).all(axis=1) & (digits != _NOT_HEX).all(axis=1)
    packed = (digits[:, 0::2] << 4) | (digits[:, 1::2] & 0x0F)
    halves = np.ascontiguousarray(packed).view(">u8").astype(np.uint64)
    hi, lo = halves[:, 0], halves[:, 1]
    return Uuids(hi=hi, lo=lo, valid=valid & ((hi != 0) | (lo != 0)))
