"""The codec of rollup records: the same bytes as ever, and the same strictness for all who read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from spendstream.core.detect.rollups import RollupBook, RollupRecord
from spendstream.core.rollup_record import AggregateKey, NotARollup, read_rollup, rollup_record, rollup_table, totals_of
from spendstream.schemas.measures import COLUMN
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.sinks.encoders import RollupEncoder
from tests.unit.sinks.make import records, rollup_value

KEY = '["19cb-0",3,"2026-01-01T00:00:00.000000Z",-4,"api","é"]'
VALUE = (
    '{"source_log":"19cb-0","source_partition":3,"minute":"2026-01-01T00:00:00.000000Z","correction_block":-4,'
    '"dimensions":{"service":"api","team":"é"},"calls":1000003,"failed_calls":2000006,"retries":3000009,'
    '"late_calls":4000012,"unpriced_calls":5000015,"unpriced_tokens":6000018,"web_searches":7000021,'
    '"gpu_us":0,"latency_ms_sum":9000027,"latency_ms_max":42000126,"latency_calls":10000030,'
    '"first_offset":45000135,"through_offset":43000129,"tokens":{"input":11000033,"cache_read":12000036,'
    '"cache_write_5m":13000039,"cache_write_1h":14000042,"cache_write":15000045,"input_audio":16000048,'
    '"cache_read_audio":17000051,"output":19000057,"reasoning":20000060,"output_audio":21000063,'
    '"output_image":22000066},"cost_usd":"0.000023000069","cost_usd_by_bucket":{"input":"0.000024000072",'
    '"cache_read":"0.000025000075","cache_write_5m":"0.000026000078","cache_write_1h":"0.000027000081",'
    '"cache_write":"0.000028000084","input_audio":"0.000029000087","cache_read_audio":"0.00003000009",'
    '"input_image":"0.000031000093","output":"0.000032000096","reasoning":"0.000033000099",'
    '"output_audio":"0.000034000102","output_image":"0.000035000105","web_search":"0.000036000108",'
    '"request":"0.000037000111"},"cost_without_cache_usd":"0.000039000117",'
    '"cost_at_standard_tier_usd":"0.00004000012","cost_with_requested_model_usd":"0.000041000123",'
    '"first_event_at":"2026-01-01T00:00:00.000000Z","last_event_at":"2026-01-01T00:00:59.999999Z"}'
)
"""As deployments have it in their topics. The meter finds its aggregates by such keys, and reads such values back."""


def test_a_record_is_written_as_ever_and_what_is_new_stands_behind() -> None:
    rollup = read_rollup(VALUE.encode())
    (totals,) = totals_of([rollup])
    assert rollup.key == AggregateKey(1_767_225_600_000_000, -4, ("api", "é"))
    assert [int(totals[COLUMN[name]]) for name in ("calls", "through_offset", "gpu_us", "input_tokens")] == [
        *(1_000_003, 43_000_129, 0, 11_000_033)
    ]
    assert [int(totals[COLUMN[name]]) for name in ("cost_pusd", "cost_gpu_pusd", "without_cache_pusd")] == [
        *(23_000_069, 0, 39_000_117)
    ]
    assert int(totals[COLUMN["last_event_us"]]) == 1_767_225_659_999_999
    key, value = rollup_record("19cb-0", 3, ("service", "team"), rollup.key, totals)
    assert key.decode() == KEY
    assert value.decode().startswith(VALUE[:-1])


def by_meter(value: bytes) -> int:
    try:
        return len(totals_of([read_rollup(value)]))
    except NotARollup:
        return 0


def by_sink(value: bytes) -> int:
    return sum(insert.rows for insert in RollupEncoder().encode(records([value])).inserts)


def by_detector(value: bytes) -> int:
    return len(RollupBook(DIMENSIONS, 600).absorb([RollupRecord(0, 0, b"key", value)]))


READERS = pytest.mark.parametrize("read", [by_meter, by_sink, by_detector])


@READERS
@pytest.mark.parametrize("value", [VALUE.encode(), rollup_value(), rollup_value(tokens={}, dimensions={})])
def test_every_reader_takes_a_rollup(read: Callable[[bytes], int], value: bytes) -> None:
    assert read(value) == 1


@READERS
@pytest.mark.parametrize(
    "fields",
    [
        {"dimensions": {"planet": "mars"}},
        {"dimensions": {"service": None}},
        {"tokens": {"smell": 1}},
        {"tokens": {"input": -1}},
        {"cost_usd_by_bucket": {"smell": "1"}},
        {"cost_usd_by_bucket": {"input": 1}},
        {"cost_usd": 0.1},
        {"cost_usd": "0.0000000000001"},
        {"cost_usd": "NaN"},
        {"cost_usd": ""},
        {"cost_without_cache_usd": None},
        {"calls": -1},
        {"calls": 2**63},
        {"calls": 1.5},
        {"source_partition": 2**31},
        {"minute": "2026-03-04T12:00:00"},
        {"minute": "2026-03-04T12:00:30Z"},
        {"minute": "2026-03-04T12:00:00.5Z"},
        {"minute": 1},
        {"last_event_at": "yesterday"},
    ],
    ids=json.dumps,
)
def test_every_reader_refuses_what_would_be_missing_from_a_key_or_a_sum(
    read: Callable[[bytes], int], fields: dict[str, Any]
) -> None:
    odd = json.dumps(json.loads(rollup_value()) | fields).encode()
    assert read(odd) == 0


def test_beyond_64_bits_the_sink_is_exact_and_the_others_refuse() -> None:
    greatest, beyond = "9223372.036854775807", "9223372.036854775808"
    readable, huge = (read_rollup(rollup_value(cost_usd=amount)) for amount in (greatest, beyond))
    assert int(totals_of([readable])[0, COLUMN["cost_pusd"]]) == 2**63 - 1
    assert [str(cost) for cost in rollup_table([readable, huge])["cost_usd"].to_pylist()] == [greatest, beyond]
    with pytest.raises(NotARollup, match="64 bits"):
        totals_of([readable, huge])


def test_a_negative_amount_keeps_its_sign() -> None:
    odd = read_rollup(json.dumps(json.loads(rollup_value()) | {"cost_usd": "-0.000000000001"}).encode())
    assert int(totals_of([odd])[0, COLUMN["cost_pusd"]]) == -1
