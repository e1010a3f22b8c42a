"""UUID text to 128-bit numbers, a column at a time."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.decode.texts import joined_utf8

_LENGTH: Final = 36
_DASHES: Final = [8, 13, 18, 23]
_GROUPS: Final = [slice(0, 8), slice(9, 13), slice(14, 18), slice(19, 23), slice(24, 36)]
_NOT_HEX: Final = 256


def _hex_pairs() -> NDArray[np.uint16]:
    """Return the byte that each two characters spell, by their two bytes as a number of this machine."""
    pairs = np.full(65536, _NOT_HEX, dtype=np.uint16)
    digits = {ord(text): value for value in range(16) for text in (f"{value:x}", f"{value:X}")}
    for high, upper in digits.items():
        for low, lower in digits.items():
            pairs[np.array([high, low], dtype=np.uint8).view(np.uint16)] = upper << 4 | lower
    return pairs


_HEX: Final = _hex_pairs()


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
    text = joined_utf8(fixed).reshape(n, _LENGTH)
    spelled = _HEX.take(np.concatenate([text[:, group] for group in _GROUPS], axis=1).view(np.uint16))
    valid = valid & (text[:, _DASHES] == ord("-")).all(axis=1) & (spelled != _NOT_HEX).all(axis=1)
    packed = spelled.astype(np.uint8)
    halves = packed.view(">u8").astype(np.uint64)
    hi, lo = halves[:, 0], halves[:, 1]
    return Uuids(hi=hi, lo=lo, valid=valid & ((hi != 0) | (lo != 0)))
