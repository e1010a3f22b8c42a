"""What is usual for each combination of dimensions: decaying means per minute, one row a combination."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution.cells import Cube, Floats, Values
from spendstream.core.detect.finding import Arrays
from spendstream.core.timestamps import MINUTE_US
from spendstream.schemas.buckets import TOKEN_BUCKETS, tokens_field
from spendstream.schemas.measures import BUCKET_COSTS, COLUMN, COST, SUMS

HALF_LIFE_MINUTES: Final = 60.0
MAX_COMBINATIONS: Final = 200_000
FADED_CALLS: Final = 1e-3
"""Calls a minute below which a combination is forgotten: a single call about six hours ago."""

LEARNED: Final = (
    *("calls", "failed_calls", "retries", "unpriced_calls", "web_searches", "gpu_us"),
    *map(tokens_field, TOKEN_BUCKETS),
    COST,
    *BUCKET_COSTS,
)
_COLUMNS: Final = np.array([COLUMN[name] for name in LEARNED])
_CALLS: Final = LEARNED.index("calls")
_SPEND: Final = LEARNED.index(COST)
_DECAY: Final = 0.5 ** (1 / HALF_LIFE_MINUTES)
_FULL_WEIGHT: Final = 1 / (1 - _DECAY)

Rows = NDArray[np.int64]


class Profiles:
    """Decaying means per minute, half-life an hour, of all combinations of the rollups' dimensions.

    A minute in which a combination has no calls counts as zero, lazily: closing a minute touches only the rows that
    had calls. A combination first seen later counts as zero since the first minute learned. ``forget`` gives
    numbers back; they are then reused.

    A row takes 41 float32 sums, a float32 weight and an int64 time: 176 bytes, and about 400 more for its names.
    """

    def __init__(self, dimensions: Sequence[str], max_combinations: int = MAX_COMBINATIONS) -> None:
        self.dimensions = tuple(dimensions)
        self._max = max_combinations
        self._numbers: dict[Values, int] = {}
        self._values: list[Values | None] = []
        self._free: list[int] = []
        self._sums = np.zeros((256, len(LEARNED)), dtype=np.float32)
        self._weights = np.zeros(256, dtype=np.float32)
        self._through = np.zeros(256, dtype=np.int64)
        self._first: int | None = None
        self._last = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def combination(self, values: Values) -> int:
        """Return the number of a combination of dimension values, a new one where it wasn't known."""
        number = self._numbers.get(values)
        return self._open(values) if number is None else number

    def values(self, row: int) -> Values:
        """Return a combination's dimension values. Raises KeyError, when it was forgotten."""
        found = self._values[row] if 0 <= row < len(self._values) else None
        if found is None:
            raise KeyError(row)
        return found

    def learn(self, minute_us: int, rows: Rows, sums: NDArray[np.int64], frozen: Rows) -> None:
        """Close a minute: row i of ``sums`` (n × len(SUMS)) is what combination ``rows[i]`` came to in it.

        ``frozen``: combinations that skip this minute, with or without calls; they don't fade either. A minute before
        the last one learned is a correction: it is added as if it had arrived in time.
        """
        minute = minute_us // MINUTE_US
        if self._first is None:
            self._first = minute
        frozen = np.unique(frozen)
        if minute > self._last:
            self._advance(frozen, minute - 1)
            # time stands still for those whose state is of the minute before
            self._through[frozen] = np.maximum(self._through[frozen], minute)
        samples = ~np.isin(rows, frozen)
        self._last = max(self._last, minute)
        unique, which = np.unique(rows[samples], return_inverse=True)  # a row may stand several times
        self._advance(unique, minute)
        added = np.zeros((len(unique), len(LEARNED)))
        np.add.at(added, which, sums[samples][:, _COLUMNS])
        behind = np.maximum(self._through[unique] - minute, 0)  # a row opened before anything was learned stands at 0
        self._sums[unique] += (added * (_DECAY**behind)[:, None]).astype(np.float32)

    def expected(self, rows: Rows) -> Cube:
        """Return what is usual for combinations, in a cube of one minute. Changes nothing.

        Minutes that were not learned yet don't count as minutes without calls.
        """
        sums = np.zeros((len(rows), len(SUMS)))
        sums[:, _COLUMNS] = self._means(rows)
        return Cube([self.values(row) for row in rows.tolist()], sums)

    def forget(self, keep: Rows) -> Rows:
        """Drop what has faded to nothing, then the smallest spenders beyond the maximum; return the freed numbers.

        ``keep``: combinations of minutes yet to be learned. Scans all rows: call it every few minutes.
        """
        rows = np.fromiter(self._numbers.values(), dtype=np.int64, count=len(self._numbers))
        rows = rows[~np.isin(rows, keep)]
        means = self._means(rows, [_CALLS, _SPEND])
        faded = means[:, 0] < FADED_CALLS
        kept = rows[~faded]
        beyond = len(self) - int(faded.sum()) - self._max
        least = kept[np.argsort(means[~faded, 1], kind="stable")[: max(beyond, 0)]]
        dropped: Rows = np.concatenate((rows[faded], least))
        for row in dropped.tolist():
            del self._numbers[self.values(row)]
            self._values[row] = None
        self._free += dropped.tolist()
        return dropped

    def snapshot(self) -> Arrays:
        """Return the state: names as UTF-8 bytes with their lengths, a length of -1 for a free number."""
        count, width = len(self._values), len(self.dimensions)
        texts = [tuple(v.encode() for v in values) if values is not None else None for values in self._values]
        lengths = np.array([[len(t) for t in text] if text else [-1] * width for text in texts], dtype=np.int32)
        names = b"".join(t for text in texts if text for t in text)
        times = [0, 0] if self._first is None else [self._first, self._last]
        return {
            "dimensions": np.frombuffer("\x1f".join(self.dimensions).encode(), dtype=np.uint8),
            "names": np.frombuffer(names, dtype=np.uint8),
            "lengths": lengths.reshape(count, width),
            "sums": self._sums[:count].copy(),
            "weights": self._weights[:count].copy(),
            "through": self._through[:count].copy(),
            "times": np.array(times, dtype=np.int64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot, numbers included, into a new object. One of other dimensions or measures is ignored."""
        named = np.asarray(arrays["dimensions"], dtype=np.uint8).tobytes().decode()
        sums = np.asarray(arrays["sums"], dtype=np.float32)
        if named != "\x1f".join(self.dimensions) or sums.shape[1:] != (len(LEARNED),):
            return
        self._read_names(np.asarray(arrays["names"], dtype=np.uint8).tobytes(), arrays["lengths"].tolist())
        first, last = arrays["times"].tolist()
        self._first, self._last = (first, last) if last else (None, 0)
        self._reserve(len(sums))
        self._sums[: len(sums)] = sums
        self._weights[: len(sums)] = arrays["weights"]
        self._through[: len(sums)] = arrays["through"]

    def _read_names(self, names: bytes, lengths: list[list[int]]) -> None:
        at = 0
        for row, widths in enumerate(lengths):
            values = []
            for width in widths:
                values.append(names[at : at + width].decode() if width >= 0 else "")
                at += max(width, 0)
            is_free = any(width < 0 for width in widths)
            self._values.append(None if is_free else tuple(values))
            if is_free:
                self._free.append(row)
            else:
                self._numbers[tuple(values)] = row

    def _open(self, values: Values) -> int:
        if self._free:
            row = self._free.pop()
            self._values[row] = values
        else:
            row = len(self._values)
            self._values.append(values)
            self._reserve(row + 1)
        self._numbers[values] = row
        self._sums[row] = 0
        self._weights[row] = 0
        self._through[row] = self._last
        if self._first is not None:  # it was zero in every minute since the first
            self._weights[row] = _FULL_WEIGHT * (1 - _DECAY ** (self._last - self._first + 1))
        return row

    def _reserve(self, count: int) -> None:
        while count > len(self._weights):
            self._sums = np.concatenate((self._sums, np.zeros_like(self._sums)))
            self._weights = np.concatenate((self._weights, np.zeros_like(self._weights)))
            self._through = np.concatenate((self._through, np.zeros_like(self._through)))

    def _advance(self, rows: Rows, minute: int) -> None:
        """Let rows fade up to a minute that counts as zero, unless they are already there."""
        assert self._first is not None
        # a number opened before anything was learned has no minute
        elapsed = minute - np.maximum(self._through[rows], self._first - 1)
        behind = elapsed > 0
        rows, fading = rows[behind], _DECAY ** elapsed[behind].astype(np.float64)
        self._sums[rows] = self._sums[rows] * fading[:, None]
        self._weights[rows] = self._weights[rows] * fading + _FULL_WEIGHT * (1 - fading)
        self._through[rows] = minute

    def _means(self, rows: Rows, columns: list[int] | None = None) -> Floats:
        """Return the means per minute by the last minute learned. Shape: n × measures."""
        sums = self._sums[rows] if columns is None else self._sums[rows][:, columns]
        fading = _DECAY ** np.maximum(self._last - self._through[rows], 0).astype(np.float64)
        weights = self._weights[rows] * fading + _FULL_WEIGHT * (1 - fading)
        means: Floats = sums * (fading / np.where(weights > 0, weights, 1.0))[:, None]
        return np.maximum(means, 0.0)
