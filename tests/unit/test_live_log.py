"""Which log of a partition is metered, where more than one worker has named it."""

from __future__ import annotations

from spendstream.core.meter import live_log, new_marker
from spendstream.core.progress import ProgressRecord, read_progress, write_progress
from spendstream.schemas.progress import Counters


def marker(name: str, former: str | None, records: int = 0) -> ProgressRecord:
    one = new_marker(0, name, records - 1, former_log=former)
    return ProgressRecord.without_ids(one.model_copy(update={"counters": Counters(records=records)}))


def test_of_two_names_stated_at_once_the_first_counts() -> None:
    stated = [marker("a", ""), marker("b", "")]
    assert live_log(stated) == "a"
    assert live_log([*stated, marker("a", "", 4)]) == "a"


def test_the_metered_log_counts_once_the_markers_that_named_it_are_deleted() -> None:
    """What is left begins with the name that lost; it never had a record."""
    assert live_log([marker("b", ""), marker("a", "", 4)]) == "a"


def test_a_worker_that_still_writes_for_a_former_log_changes_nothing() -> None:
    assert live_log([marker("a", "", 8), marker("b", "a"), marker("a", "", 9)]) == "b"
    assert live_log([marker("a", "", 8), marker("b", "a", 2), marker("c", "b"), marker("b", "a", 3)]) == "c"


def test_markers_of_an_earlier_release_keep_their_names() -> None:
    old = [marker("18c-0", None, 5), marker("19a-0", None, 7)]
    assert live_log(old) == "19a-0"
    assert live_log([*old, marker("n", "19a-0")]) == "n"
    without = b'{"partition":0,"source_log":"0-0","first_offset":0,"through_offset":3,"watermark_us":0,'
    value = without + b'"log_clock_ms":0,"rollups_from":0}\n'
    assert live_log([read_progress(value)]) == "0-0"
    assert live_log([read_progress(write_progress(marker("m", "")))]) == "m"
