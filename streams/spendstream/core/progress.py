"""The meter's marker on the wire: what is durable, and which ids were counted. See ``schemas.progress``."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spendstream.core.dedupe import Ids
from spendstream.schemas.progress import Progress


@dataclass(frozen=True)
class ProgressRecord:
    """A marker and the ids counted since the one before, in offset order; ``generations``: one for each id."""

    marker: Progress
    ids: Ids
    generations: NDArray[np.int64]


def write_progress(record: ProgressRecord) -> bytes:
    """Return the Kafka value: the marker as one line of JSON, then 16 big-endian bytes for each id."""
    generations, counts = np.unique(record.generations, return_counts=True)
    segments = [[int(generation), int(count)] for generation, count in zip(generations, counts, strict=True)]
    marker = record.marker.model_copy(update={"id_segments": segments})
    return marker.model_dump_json().encode() + b"\n" + record.ids.astype(">u8").tobytes()


def read_progress(value: bytes) -> ProgressRecord:
    """Read a Kafka value written by ``write_progress``."""
    line, _, packed = value.partition(b"\n")
    marker = Progress.model_validate_json(line)
    ids = np.frombuffer(packed, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    generations = np.repeat(
        np.array([generation for generation, _ in marker.id_segments], dtype=np.int64),
        np.array([count for _, count in marker.id_segments], dtype=np.int64),
    )
    return ProgressRecord(marker, ids, generations)
