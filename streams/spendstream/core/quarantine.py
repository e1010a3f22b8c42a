"""Which records of a batch this software fails on: by trial, on meters that are thrown away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from spendstream.core.batch import RecordBatch
from spendstream.core.meter import MeterOutput, PartitionMeter, StageFailed
from spendstream.schemas.progress import Quarantined

_MAX_ERROR: Final = 500


def find_faults(
    meter: PartitionMeter, batch: RecordBatch, now: datetime, encode: Callable[[MeterOutput], Any]
) -> list[Quarantined]:
    """Return the records that fail alone, found by halving the batch. The meter itself stays as it is.

    ``encode``: makes Kafka records of an output, and writes nothing. What fails only together with the meter's state is
    not found here. Raises: UnknownRateBook.
    """
    trial = meter.trial(batch.first_offset)
    try:
        trial.absorb(batch, now)
        encode(trial.take())
    except StageFailed as error:
        if len(batch.values) == 1:
            return [quarantined(batch.first_offset, error)]
        halves = batch.split(len(batch.values) // 2)
        return [fault for half in halves if half for fault in find_faults(meter, half, now, encode)]
    return []


def quarantined(offset: int, error: StageFailed) -> Quarantined:
    """Return the verdict on a record."""
    return Quarantined(offset=offset, stage=error.stage, error=shortened(repr(error.__cause__), _MAX_ERROR))


def shortened(text: str, most: int) -> str:
    """Return a text that UTF-8 can encode, of at most so many characters."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"
