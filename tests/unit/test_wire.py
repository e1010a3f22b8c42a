"""A compressed batch is read in pieces of bounded size, whatever it expands to, and every record of it is there."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from spendstream.core.batch import CutValue, UnreadableValue
from spendstream.core.decode import decode
from spendstream.kafka import batched, wire
from spendstream.schemas.dead_letter import Reason

ENCODERS: dict[int, Callable[[bytes], bytes]] = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}
Row = tuple[bytes | None, bytes | None]


def batch_of(rows: list[Row], codec: int, base_offset: int = 0) -> bytes:
    """Return a batch on the wire."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=2**31 - 1,
    )  # fmt: skip
    for number, (key, value) in enumerate(rows):
        assert builder.append(number, 1_700_000_000_000 + number, key, value, [("h", b"x")]) is not None
    plain = bytes(builder.build())
    header = list(wire._HEADER.unpack_from(plain))
    body = ENCODERS[codec](plain[wire._HEADER.size :])
    header[0] = base_offset
    header[1] = wire._HEADER.size - 12 + len(body)
    header[5] |= codec
    return wire._HEADER.pack(*header) + body


def read(data: bytes) -> list[Any]:
    return [record for piece in wire.pieces(memoryview(data)) for record in piece]


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("size", [10, 3_000, 400_000, 3_999_000])
def test_pieces_hold_what_aiokafka_reads_of_the_whole(codec: int, size: int) -> None:
    dice = random.Random(size)
    rows: list[Row] = [
        (
            dice.choice([None, b"", b"key"]),
            dice.choice([None, b"", b" " * dice.randrange(size), dice.randbytes(size % 977)]),
        )
        for _ in range(30)
    ]
    data = batch_of(rows, codec, base_offset=7_000)
    expected = list(MemoryRecords(data).next_batch())
    found = read(data)
    fields = ("offset", "timestamp", "timestamp_type", "key", "value")
    assert [[getattr(r, f) for f in fields] for r in found] == [[getattr(r, f) for f in fields] for r in expected]


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_a_batch_that_expands_to_300_mb_takes_a_few_pieces_of_memory(codec: int) -> None:
    rows: list[Row] = [(b"key", b" " * 1_000_000)] * 300
    data = batch_of(rows, codec)
    tracemalloc.start()
    try:
        records = 0
        for piece in wire.pieces(memoryview(data)):
            assert sum(len(record.value) for record in piece) <= wire.PIECE_BYTES + 1_000_000
            records += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert records == 300
    assert peak < 8 * wire.PIECE_BYTES


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_record_too_large_to_keep_is_cut_and_hashed(codec: int, number: int) -> None:
    rows: list[Row] = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    large = b"{" + b" " * 30_000_000 + b"}"
    rows[number] = (b"key", large)
    found = read(batch_of(rows, codec, base_offset=5))
    assert [record.offset for record in found] == [5, 6, 7]
    assert [record.timestamp for record in found] == [1_700_000_000_000 + n for n in range(3)]
    cut = found[number]
    assert isinstance(cut.value, CutValue)
    assert (cut.key, cut.value) == (b"key", large[: wire.KEPT_BYTES])
    assert (cut.value.size, cut.value.sha256) == (len(large), hashlib.sha256(large).hexdigest())
    assert [record.value for record in found if record is not cut] == [v for _, v in rows if v is not large]
    rejection = decode([cut.value]).rejected[0]
    assert rejection.reason == Reason.TOO_LARGE
    assert str(len(large)) in rejection.message


def test_a_huge_key_is_cut() -> None:
    found = read(batch_of([(b"k" * 30_000_000, b"{}"), (b"l", b"{}")], 1))
    assert (len(found[0].key), found[1].value) == (wire.KEPT_BYTES, b"{}")
    assert decode([found[0].value]).rejected[0].reason == Reason.TOO_LARGE


def damaged() -> Iterator[bytes]:
    data = batch_of([(b"k", b" " * 1_000_000)] * 20, 1)
    yield data[:-2000] + b"\x00" * 2000
    bad = bytearray(batch_of([(b"k", b"v")] * 20, 4))
    bad[wire._HEADER.size + 2 :] = b"\xff" * (len(bad) - wire._HEADER.size - 2)
    yield bytes(bad)


@pytest.mark.parametrize("data", [*damaged()])
def test_what_cannot_be_read_of_a_batch_stands_there_as_records(data: bytes) -> None:
    """The partition goes on behind it, and each offset of it has a dead letter."""
    batches = batched._WholeBatches(batched._MemoryRecords(data))
    records = [record for piece in batches.next_batch() for record in piece.records]
    assert [record.offset for record in records] == list(range(20))
    unread = [record.value for record in records if isinstance(record.value, UnreadableValue)]
    assert unread
    rejection = decode(unread).rejected[0]
    assert (rejection.reason, rejection.stage) == (Reason.INTERNAL_ERROR, "read")
