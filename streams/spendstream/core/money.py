"""Money: integer pico-dollars (1e-12 USD) inside, exact decimal text and decimal128 at the edges, ``$`` for people."""

import math
from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spendstream.schemas.priced import USD

PUSD: Final = 10**12
"""Pico-dollars in one US dollar."""


def usd_text(pusd: int) -> str:
    """Return pico-dollars as decimal USD: ``usd_text(36_000_000_000) == "0.036"``."""
    sign, whole = ("-", -pusd) if pusd < 0 else ("", pusd)
    dollars, rest = divmod(whole, PUSD)
    return f"{sign}{dollars}.{rest:012d}".rstrip("0").rstrip(".")


def pusd_from_text(text: str) -> int:
    """Return decimal USD as pico-dollars. Raises: ValueError, if the amount is finer than that."""
    pusd = Decimal(text).scaleb(12)
    if pusd != pusd.to_integral_value():
        raise ValueError(f"{text} USD is finer than a pico-dollar")
    return int(pusd)


def dollars(usd: Decimal | float, places: int | None = None) -> str:
    """Return USD rounded for reading: $1,240, $41.20, $0.051, $0.0000043, -$41.20.

    Whole dollars from $1,000, cents below that, two significant digits below a dime: no amount but zero reads as
    $0.00. ``places``: decimals for amounts that stand in one column; one below the last place reads ``< $0.01``.
    """
    if not math.isfinite(usd):
        return "an unknown amount"
    sign, size = ("-", -usd) if usd < 0 else ("", usd or 0)  # a negative zero has no sign
    if places is not None:
        least = Decimal(1).scaleb(-places)
        return f"{'> -' if sign else '< '}${least}" if 0 < size < least else f"{sign}${size:,.{places}f}"
    if size >= 999.995:
        return f"{sign}${size:,.0f}"
    if size >= 0.1 or size == 0:
        return f"{sign}${size:,.2f}"
    exponent = int(f"{size:.1e}".partition("e")[2])
    return f"{sign}${size:.{1 - exponent}f}"


def exact_dollars(usd: Decimal) -> str:
    """Return USD with every digit, and cents where there is a fraction: $5,000, $0.50, $1,234.567."""
    whole, _, digits = f"{abs(usd):,f}".partition(".")
    digits = digits.rstrip("0")
    return f"{'-' if usd < 0 else ''}${whole}" + (f".{digits:0<2}" if digits else "")


def usd_column(pusd: NDArray[np.int64], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return pico-dollars as an Arrow decimal128(38, 12) column of USD; null where not ``known``.

    A decimal of scale 12 is stored as the integer of pico-dollars, sign-extended to 128 bits: nothing is computed.
    """
    if pusd.any():
        wide = np.empty((len(pusd), 2), dtype=np.int64)
        wide[:, 0] = pusd
        wide[:, 1] = pusd >> 63
    else:  # most buckets of most batches
        wide = np.zeros((len(pusd), 2), dtype=np.int64)
    mask = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(USD, len(pusd), [mask, pa.py_buffer(wide)])
