"""The bytes of a text column, without a Python object a row."""

import numpy as np
import polars as pl
from numpy.typing import NDArray


def joined_utf8(texts: pl.Series) -> NDArray[np.uint8]:
    """Return the UTF-8 bytes of all rows, one behind the other; a null has none."""
    array = texts.to_arrow(
        compat_level=pl.CompatLevel.oldest()
    )  # large_string: one run of bytes, and where each begins
    _, offsets, data = array.buffers()
    if len(texts) == 0 or data is None:
        return np.zeros(0, dtype=np.uint8)
    bounds = np.frombuffer(offsets, dtype=np.int64)
    first, end = int(bounds[array.offset]), int(bounds[array.offset + len(array)])
    return np.frombuffer(data, dtype=np.uint8)[first:end]
