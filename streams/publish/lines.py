"""JSON lines judged in batches, by the meter's own decoder: 5 µs a line, where the contract's model takes 25.

The verdict is the same: a property test holds the decoder to the contract.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from streams.core.decode import decode
from streams.intake.row import MAX_LINE_BYTES, RowError, lines

_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, not judged yet. ``line`` counts from 1."""

    line: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to publish: its key, as ``UsageEvent.partition_key``, and the line's own bytes."""

    key: bytes
    value: bytes


def read_lines(source: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a file that are not blank, as ``streams.intake.jsonl`` reads them."""
    for number, text in enumerate(lines(source), start=1):
        value = text.removeprefix(_BOM).strip() if number == 1 else text.strip()
        if value:
            yield Line(number, value)


def judge(batch: Sequence[Line]) -> Iterator[Outgoing | RowError]:
    """Yield, for each line, the record or what is wrong with it, in order."""
    decoded = decode([line.value for line in batch], MAX_LINE_BYTES)
    keys = dict(
        zip(
            decoded.calls["row"].to_list(),
            decoded.calls.select("task_id", "conversation_id", "id_hi", "id_lo").iter_rows(),
            strict=True,
        )
    )
    for row, line in enumerate(batch):
        if (rejection := decoded.rejected.get(row)) is not None:
            yield RowError(line.line, rejection.field, rejection.message)
            continue
        task, conversation, hi, lo = keys[row]
        key = task or conversation or str(uuid.UUID(int=(hi << 64) | lo))
        yield Outgoing(key.encode(), line.value)
