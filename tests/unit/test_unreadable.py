"""What recovery, detector and sinks do with records of internal topics that they can't read."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from spendstream.agents.meter_state import is_key_of_open_rollup
from spendstream.core.aggregates import CORRECTION_BLOCK_OFFSETS
from spendstream.core.detect.rollups import RollupBook, RollupRecord
from spendstream.core.meter import covered_through, new_marker
from spendstream.core.rollup_record import AggregateKey, NotARollup, read_rollup, rollup_key, totals_of
from spendstream.schemas.alert import BudgetStatus
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS
from spendstream.sinks.encoders import ConsumedRecord, Encoded, Insert
from spendstream.sinks.kafka_sink import encode_all
from tests.unit.detect.rollup_log import NAMES, RollupLog, minute

MARKER = new_marker(0, "life-1", 5 * CORRECTION_BLOCK_OFFSETS).model_copy(update={"watermark_us": minute(100)})
KEY = ("api",) * len(DEFAULT_DIMENSIONS)


def covering(*ranges: tuple[int, int]) -> int:
    marker = new_marker(0, "life-1", -1)
    return covered_through(
        marker.model_copy(update={"first_offset": first, "through_offset": through}) for first, through in ranges
    )


def test_markers_cover_a_log_up_to_the_first_hole() -> None:
    assert covering((0, 9), (10, 19), (20, 29)) == 29
    assert covering((0, 9), (20, 29)) == 9
    assert covering((0, 9), (20, 29), (10, 19)) == 29, (
        "a replay has filled the hole, behind the marker that followed it"
    )
    assert covering((5, 9), (10, 9), (8, 30)) == 30, "markers without records, and those of a second worker"


@pytest.mark.parametrize(
    ("minute_us", "block", "is_open"),
    [(minute(99), -1, True), (minute(80), -1, False), (minute(0), 5, True), (minute(0), 4, False)],
)
def test_only_the_key_of_an_open_total_is_needed(minute_us: int, block: int, is_open: bool) -> None:
    key = rollup_key("life-1", 0, AggregateKey(minute_us, block, KEY))
    assert is_key_of_open_rollup(key, MARKER, 600) is is_open
    assert not is_key_of_open_rollup(rollup_key("life-2", 0, AggregateKey(minute_us, block, KEY)), MARKER, 600)
    assert not is_key_of_open_rollup(rollup_key("life-1", 1, AggregateKey(minute_us, block, KEY)), MARKER, 600)


@pytest.mark.parametrize("key", [None, b"", b"key", b"[]", b"[" * 9_999, b"\xff", b'["life-1",0,"never",-1]', b"{}"])
def test_a_foreign_key_is_no_key_of_ours(key: bytes | None) -> None:
    assert not is_key_of_open_rollup(key, MARKER, 600)


@pytest.mark.parametrize("amount", ["0E-999999999", "1E-999999999", "1e999999999", "NaN", "", "9" * 99, "1_0", " 1"])
def test_an_amount_that_crashes_arrow_is_refused(amount: str) -> None:
    log = RollupLog()
    log.usd(1, NAMES, 1.0)
    (record,) = log.flush(0)
    value = record.value.replace(b'"cost_usd":"1"', b'"cost_usd":"%s"' % amount.encode())
    assert value != record.value
    with pytest.raises(NotARollup):
        totals_of([read_rollup(value)])


@pytest.mark.parametrize("amount", ["0E-999999999", "1E-999999999", "1e999999999", "NaN"])
def test_an_alert_with_an_amount_that_crashes_arrow_is_none(amount: str) -> None:
    with pytest.raises(ValidationError, match="amount_usd"):
        BudgetStatus.model_validate({"amount_usd": amount, "spent_usd": "1"})


def test_a_number_of_thousands_of_digits_does_not_stop_the_detector() -> None:
    book = RollupBook(DEFAULT_DIMENSIONS, 600)
    garbage = b'{"through_offset":' + b"9" * 5_000 + b",}"
    book.absorb([RollupRecord(0, 1, b"key", garbage), RollupRecord(0, 2, b"key", garbage)])
    assert len(book.unreadable) == 1


class Buggy:
    """Fails on a batch that has a certain record."""

    table = "calls"
    is_compacted = False

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        if any(record.offset == 17 for record in records):
            raise ZeroDivisionError
        return Encoded((Insert("calls", (), len(records), b""),))


def test_a_sink_that_fails_on_a_record_inserts_the_others() -> None:
    records: list[Any] = [SimpleNamespace(offset=number, value=b"") for number in range(40)]
    encoded = encode_all(Buggy(), records)
    assert sum(insert.rows for insert in encoded.inserts) == 39
    assert [(one.record.offset, one.reason) for one in encoded.undecodable] == [(17, Reason.INTERNAL_ERROR)]
