"""The fast reader: a whole batch of JSON records into columns, with a proof for each row that it was read exactly.

polars' reader is lenient where the contract is strict: a number in a text field becomes text, a wrong type becomes
null, and of a key given twice polars takes the first, the contract the last. So the bytes themselves are counted: a
row is *certain* only if it has as many keys and as many text values as its columns hold, and spells out no null. The
strict reader reads the rest.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spendstream.core.decode.columns import RAW_SCHEMA

_QUOTE, _COLON, _SPACE, _OPEN, _CLOSE, _NEWLINE = b'": {}\n'
_BLOCK_BYTES = 128 * 1024  # what is made of a block stays in the processor's cache
_MIN_HALF = 256
_PLACEHOLDER = b"{}"
_SAMPLE = 64
_MAX_LEFT = 0.02
_KEY = re.compile(rb'"([a-z0-9_]+)" ?:')


@dataclass(frozen=True)
class FastRead:
    """``frame``: one row a record, ``RAW_SCHEMA``; ``certain``: rows that hold exactly what the record says."""

    frame: pl.DataFrame
    certain: NDArray[np.bool_]


def read_fast(values: list[bytes]) -> FastRead:
    """Read JSON records into columns. Never raises: rows that it can't prove are uncertain."""
    joined = b"\n".join(values)
    framed = _framed(values, joined)
    lines = values
    if not framed.all():
        lines = [v if ok else _PLACEHOLDER for v, ok in zip(values, framed, strict=True)]
        joined = b"\n".join(lines)
    # absent columns cost as much as present ones: read those of a sample, and all of them only if those don't suffice
    found = set(_KEY.findall(b"\n".join(lines[:: max(1, len(lines) // _SAMPLE)])))  # and some that texts mention
    read = _read(joined, lines, {field: kind for field, kind in RAW_SCHEMA.items() if field.encode() in found})
    if read is not None and np.count_nonzero(framed & ~read.certain) > _MAX_LEFT * len(lines):
        read = _read(joined, lines, RAW_SCHEMA)
    if read is None:
        halves = _in_halves(lines)
        return FastRead(halves.frame, framed & halves.certain)
    absent = [pl.lit(None, dtype=kind).alias(field) for field, kind in RAW_SCHEMA.items() if field not in read.frame]
    return FastRead(read.frame.with_columns(absent), framed & read.certain)


def _in_halves(lines: list[bytes]) -> FastRead:
    """Read around a line for which polars refuses the whole batch, such as one of broken JSON."""
    if len(lines) <= _MIN_HALF:
        empty = pl.DataFrame(schema=RAW_SCHEMA).clear(len(lines))
        return FastRead(empty, np.zeros(len(lines), dtype=np.bool_))
    middle = len(lines) // 2
    first, second = read_fast(lines[:middle]), read_fast(lines[middle:])
    frames = [half.frame.select(list(RAW_SCHEMA)) for half in (first, second)]
    return FastRead(pl.concat(frames), np.concatenate((first.certain, second.certain)))


def _read(joined: bytes, lines: list[bytes], fields: dict[str, pl.DataType]) -> FastRead | None:
    if not fields:
        return None
    try:
        frame = pl.read_ndjson(joined, schema=fields, ignore_errors=True)
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    return FastRead(frame, _proven(joined, lines, frame)) if frame.height == len(lines) else None


def _framed(values: list[bytes], joined: bytes) -> NDArray[np.bool_]:
    """Return which records are one line that starts with ``{`` and ends with ``}``."""
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    data = np.frombuffer(joined, dtype=np.uint8)
    blocks = (data[start : start + _BLOCK_BYTES] for start in range(0, len(data), _BLOCK_BYTES))
    newlines = sum(np.count_nonzero(block == _NEWLINE) for block in blocks)
    if newlines == len(values) - 1 and lengths.min() > 0:
        ends = np.cumsum(lengths + 1) - 1
        framed: NDArray[np.bool_] = (data[ends - lengths] == _OPEN) & (data[ends - 1] == _CLOSE)
        return framed
    one_line = (v[:1] == b"{" and v[-1:] == b"}" and b"\n" not in v for v in values)
    return np.fromiter(one_line, dtype=np.bool_, count=len(values))


def _proven(joined: bytes, lines: list[bytes], frame: pl.DataFrame) -> NDArray[np.bool_]:
    """Compare the bytes with the columns: keys = cells, text values = text cells.

    Without a backslash no string contains a quote, so a quote before a colon ends a key (or opens a text that
    starts with a colon, which breaks the equality and costs only time). Tabs and returns would hide a colon.
    """
    text_cells = [field for field, kind in frame.schema.items() if kind == pl.String()]
    if b"\\" in joined or b"\t" in joined or b"\r" in joined:
        plain = (not (b"\\" in line or b"\t" in line or b"\r" in line) for line in lines)
        clean = np.fromiter(plain, dtype=np.bool_, count=len(lines))
    else:
        clean = np.ones(len(lines), dtype=np.bool_)
    nulls = dict(zip(frame.columns, frame.null_count().row(0), strict=True))
    cells = frame.height * frame.width - sum(nulls.values())
    texts = frame.height * len(text_cells) - sum(nulls[field] for field in text_cells)
    # a row never has fewer keys than cells, unless some are hidden: if none are, equal sums mean equal rows
    if clean.all() and (cells, texts, 0) == _counted(joined):
        return clean
    ends = np.cumsum(np.fromiter((len(line) + 1 for line in lines), dtype=np.int64, count=len(lines)))
    keys, text_values, hidden = (
        np.bincount(np.searchsorted(ends, at - 1, side="right"), minlength=ends.size) for at in _structure(joined)
    )
    filled = frame.select(pl.sum_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    filled_text = frame.select(pl.sum_horizontal(pl.lit(0), pl.col(text_cells).is_not_null())).to_series().to_numpy()
    proven: NDArray[np.bool_] = clean & (keys == filled) & (text_values == filled_text) & (hidden == 0)
    return proven


def _counted(joined: bytes) -> tuple[int, int, int]:
    """Return how many keys, keys of a text and hidden keys there are: see ``_Structure``.

    Counts in blocks that fit into the processor's cache; a block looks three bytes into the next.
    """
    data = np.frombuffer(joined, dtype=np.uint8)
    keys = texts = hidden = 0
    for start in range(0, len(joined), _BLOCK_BYTES):
        block = data[max(0, start - 1) : start + _BLOCK_BYTES + 3]
        if start + _BLOCK_BYTES + 3 > len(joined):
            missing = min(3, start + _BLOCK_BYTES + 3 - len(joined))
            block = np.concatenate((block, np.full(missing, _SPACE, dtype=np.uint8)))
        n = len(block) - 3
        quote, space = block == _QUOTE, block == _SPACE
        # a colon at i ends a key by what is at i - 1: the first byte of a block is only there to look back to
        colon = block[1:n] == _COLON
        key = colon & quote[: n - 1]
        spaced = key & space[2 : n + 1]
        keys += int(np.count_nonzero(key))
        texts += int(np.count_nonzero(key & quote[2 : n + 1]))
        hidden += int(np.count_nonzero(colon & space[: n - 1]))
        if spaced.any():
            texts += int(np.count_nonzero(spaced & quote[3 : n + 2]))
            hidden += int(np.count_nonzero(spaced & space[3 : n + 2]))
    return keys, texts, hidden


class _Structure(NamedTuple):
    """Positions in the bytes: of keys, of keys of a text, and of keys whose value is too far away to tell."""

    keys: NDArray[np.int64]
    texts: NDArray[np.int64]
    hidden: NDArray[np.int64]


def _structure(joined: bytes) -> _Structure:
    padded = np.frombuffer(b" " + joined + b"   ", dtype=np.uint8)
    colons = np.flatnonzero(padded == _COLON)
    before = padded[colons - 1]
    keys = colons[before == _QUOTE]
    value = padded[keys + 1]
    spaced = value == _SPACE
    value = np.where(spaced, padded[keys + 2], value)
    return _Structure(
        keys=keys,
        texts=keys[value == _QUOTE],
        hidden=np.concatenate((colons[before == _SPACE], keys[value == _SPACE])),
    )
