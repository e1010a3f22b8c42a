"""Decode, whichever reader took the record, gives the contract's verdict and the contract's values."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendstream.core import decode as decoding
from spendstream.core.decode import Rejection, decode, explain
from spendstream.core.decode.columns import CALL_SCHEMA, RAW_SCHEMA
from spendstream.core.decode.fast import read_fast
from spendstream.core.decode.strict import call_row
from tests.unit.decode.odd_records import FAVOURITES, FIELDS, MAX_BYTES, is_json, mutated, whole_event
from tests.unit.log import encode, make_usage_event


def assert_equals_contract(values: list[bytes | None]) -> None:
    decoded = decode(values, MAX_BYTES)
    assert decoded.calls.schema == pl.Schema(CALL_SCHEMA)
    rows = decoded.calls["row"].to_list()
    assert rows == sorted(rows)
    assert sorted([*rows, *decoded.rejected]) == list(range(len(values)))  # nothing is dropped
    got = {call.pop("row"): call for call in decoded.calls.iter_rows(named=True)}
    for row, value in enumerate(values):
        verdict = explain(value, MAX_BYTES)
        if isinstance(verdict, Rejection):
            assert decoded.rejected.get(row) == verdict, value
        else:
            assert got.get(row) == call_row(verdict), value


@pytest.fixture(params=[0, 10**9], ids=["in columns", "one by one"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(decoding, "MAX_ONE_BY_ONE", request.param)
    return int(request.param)


@given(seed=st.integers(0, 2**64))
@settings(max_examples=60, deadline=None)
def test_any_batch_gets_the_contracts_verdicts_and_values(seed: int) -> None:
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MAX_ONE_BY_ONE", rng.choice((0, 0, 0, 20)))
        oddities = [mutated(rng) for _ in range(rng.choice((1, 30, 150)))]
        usual: list[bytes | None] = [encode(whole_event(rng)) for _ in range(rng.choice((0, 10)))]
        values = oddities + usual
        rng.shuffle(values)
        assert_equals_contract(values)


@given(seed=st.integers(0, 2**64))
@settings(max_examples=60, deadline=None)
def test_what_the_fast_reader_proves_is_what_the_contract_reads(seed: int) -> None:
    """Broken JSON sends a whole batch to the strict reader: here all are JSON, so the proof itself is tested."""
    rng = random.Random(seed)
    values: list[bytes | None] = [v for _ in range(60) if (v := mutated(rng)) and b"\n" not in v and is_json(v)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MAX_ONE_BY_ONE", 0)
        if values:
            assert_equals_contract(values)


@pytest.mark.parametrize(
    "member",
    [
        b'"service":null', b'"service":"other"', b'"team":null', b'"tags":null',
        b'"input_tokens":null', b'"attempt":null',
        b'"team":":null"', b'"team":":"', b'"team":": n"', b'"x":null', b'"x":"y"',
        b'"x":{"service":"y"}', b'"x":{"y":null}',
        b'"team":{"a":null}', b'"team":5,"x":"y"', b'"team":5,"output_tokens":"5"', b'"team":["a"]',
        b'"attempt":"1"',
        b'"attempt":1.0', b'"attempt":true', b'"gpu_seconds":"1"', b'"gpu_seconds":true',
        b'"team" :"x"', b'"team":  "x"',
        b'"team":\t"x"', b'"te\\u0061m":"x"', b'"team":"x\\u0000"', b'"provider_cost":5',
        b'"latency_ms":1e2', b'"latency_ms":-0',
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_member_that_would_fool_a_lenient_reader(few: int, member: bytes, first: bool) -> None:
    event = encode(make_usage_event(1))
    odd = b"{" + member + b"," + event[1:] if first else event[:-1] + b"," + member + b"}"
    assert_equals_contract([event, odd, event])
    assert_equals_contract([odd])


def test_a_key_hidden_in_one_record_does_not_vouch_for_a_key_too_many_in_another() -> None:
    event = encode(make_usage_event(1))
    hides_one = event[:-1] + b',"feature"\t:"x"}'
    one_too_many = event[:-1] + b',"team":"other"}'
    assert read_fast([hides_one, one_too_many, event]).certain.tolist() == [False, False, True]


def test_the_fast_reader_reads_ordinary_records() -> None:
    """Otherwise the speed is lost silently: compact, spaced, with every field, non-ASCII."""
    full = {
        **make_usage_event(1, team="é"),
        **{name: 1 for name in RAW_SCHEMA if name.endswith("_tokens")},
        "requested_at": "2026-03-04T12:00:00.123Z",
        "latency_ms": 5,
        "gpu_seconds": 0.5,
        "trace_id": "a" * 32,
        "conversation_id": "c:1",
    }
    records = [encode(make_usage_event(1)), encode(full), json.dumps(full, ensure_ascii=False).encode()]
    assert read_fast(records).certain.tolist() == [True, True, True]


def test_a_batch_with_one_broken_record_loses_no_other(few: int) -> None:
    values: list[bytes | None] = [encode(make_usage_event(i)) for i in range(50)]
    values[20] = b'{"event_id":'
    values[30] = None
    decoded = decode(values)
    assert sorted(decoded.rejected) == [20, 30]
    assert decoded.calls.height == 48
    assert_equals_contract(values)


def test_a_record_one_byte_over_the_limit_is_too_large(few: int) -> None:
    record = encode(make_usage_event(1))
    assert not decode([record], len(record)).rejected
    assert decode([record], len(record) - 1).rejected[0].reason == "too_large"


def test_a_megabyte_of_anything_gets_a_verdict(few: int) -> None:
    event = encode(make_usage_event(1))
    hostile = decode([b"{" * 10**6, b"9" * 10**6, b'"' * 10**6, b"\xff" * 10**6, b"[" * 10**6])
    assert sorted(hostile.rejected) == [0, 1, 2, 3, 4]
    assert not decode([event[:-1] + b',"x":"' + b"y" * 900_000 + b'"}']).rejected


def test_no_records_are_no_calls() -> None:
    assert decode([]).calls.schema == pl.Schema(CALL_SCHEMA)


def test_null_means_absent(few: int, make_usage_event: Callable[..., dict[str, Any]]) -> None:
    required = {"event_id", "occurred_at", "service", "provider", "model_served", "input_tokens"}
    event = make_usage_event(1)
    nulls = dict.fromkeys(set(FIELDS) - required)
    bare = {name: event[name] for name in required}
    spelled_out, left_out = decode([encode({**bare, **nulls})]), decode([encode(bare)])
    assert spelled_out.rejected == {}
    assert spelled_out.calls.equals(left_out.calls)


def line(number: int) -> bytes:
    event = {"event_id": str(uuid.UUID(int=number + 1)), "occurred_at": "2026-05-01T00:00:00Z", "input_tokens": number}
    return json.dumps({**event, "service": "chat", "provider": "openai", "model_served": "gpt-4o"}).encode()


def test_one_line_of_broken_json_only_costs_its_neighbours_a_second_reading() -> None:
    lines = [line(i) for i in range(4000)]
    lines[1234] = b'{"event_id": 1,}'
    read = read_fast(lines)
    assert not read.certain[1234]
    assert read.certain.sum() >= len(lines) - 256
    assert read.frame["input_tokens"][3999] == 3999


def test_a_key_at_the_edge_of_a_block_is_counted_once() -> None:
    for padding in range(40):
        lines = [b'{"service":"' + b"x" * (200 + padding) + b'"}', *(line(i) for i in range(1500))]
        assert read_fast(lines).certain.all()


@pytest.mark.parametrize("field", sorted(FAVOURITES))
def test_every_oddity_of_a_field_gets_the_contracts_verdict_and_value(few: int, field: str) -> None:
    assert_equals_contract([encode({**make_usage_event(n), field: odd}) for n, odd in enumerate(FAVOURITES[field])])
