"""The marker on the wire: what was written is what is read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.meter import new_marker
from spendstream.core.progress import ProgressRecord, read_progress, write_progress
from spendstream.schemas.progress import Counters

HALF = st.integers(0, 2**64 - 1)
RUNS = st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.tuples(HALF, HALF), max_size=5)), max_size=5)


def record(runs: list[tuple[int, list[tuple[int, int]]]]) -> ProgressRecord:
    runs = sorted(runs, key=lambda run: run[0])
    marker = new_marker(3, "life-1", 41).model_copy(
        update={"counters": Counters(records=9, metered=8, duplicates=1), "watermark_us": 5, "rollups_from": 12}
    )
    ids = [pair for _, pairs in runs for pair in pairs]
    generations = [generation for generation, pairs in runs for _ in pairs]
    return ProgressRecord(marker, np.array(ids, dtype=np.uint64).reshape(-1, 2), np.array(generations, dtype=np.int64))


@given(RUNS)
def test_a_marker_and_its_ids_come_back(runs: list[tuple[int, list[tuple[int, int]]]]) -> None:
    written = record(runs)
    read = read_progress(write_progress(written))
    assert read.marker.model_copy(update={"id_segments": []}) == written.marker
    assert read.ids.tolist() == written.ids.tolist()
    assert read.generations.tolist() == written.generations.tolist()


def test_an_id_whose_bytes_are_line_ends_comes_back() -> None:
    line_ends = int.from_bytes(b"\n" * 8, "big")
    written = record([(0, [(line_ends, line_ends)])])
    assert read_progress(write_progress(written)).ids.tolist() == written.ids.tolist()


def test_an_id_takes_sixteen_bytes() -> None:
    none, one = write_progress(record([])), write_progress(record([(7, [(1, 2)])]))
    assert one.endswith(b"\n" + (1).to_bytes(8, "big") + (2).to_bytes(8, "big"))
    assert len(one) == len(none) + 16 + len("[7,1]")


def test_what_was_read_can_be_remembered() -> None:
    """Arrays over a Kafka value are read-only; the table of ids must not mind."""
    from spendstream.core.dedupe import SeenIds

    read = read_progress(write_progress(record([(1, [(1, 2), (3, 4)])])))
    seen = SeenIds(60)
    seen.relearn(1, read.ids)
    assert seen.count == 2
