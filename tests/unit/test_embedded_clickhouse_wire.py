"""Compression and the Native format are, to the byte, what ClickHouse's clients read and write."""

from __future__ import annotations

import pytest

from spendstream.embedded.clickhouse_engine import EngineError
from spendstream.embedded.compression import Frames, accepted_encoding, checksum, read_frames
from spendstream.embedded.native_format import at_version

# Computed with the Go client's own implementation (go-faster/city, CH128).
CHECKSUMS = [
    (0, "2b9ac064fc9df03d291ee592c340b53c"),
    (5, "c903fb8fe8363cc7b737f3caac637de2"),
    (12, "50acf4e616b5be29de09c40a00f210e5"),
    (33, "59d2f0ecfc294875f6a5108c1957085d"),
    (127, "ff324ca0b3b9e0afa9012aac154798a7"),
    (128, "4dea54cfdf742bbbb787ddf223cb658c"),
    (160, "68e57096a45b70614955a489ccc3b477"),
    (699, "6eadc559b27b4ab52fe4f2d6456d990d"),
]


@pytest.mark.parametrize(("size", "expected"), CHECKSUMS)
def test_checksum_is_that_of_clickhouse(size: int, expected: str) -> None:
    assert checksum(bytes((i * i * 7 + size * 13 + (i >> 3)) & 255 for i in range(size))).hex() == expected


@pytest.mark.parametrize("method", ["LZ4", "zstd", "NONE", "unheard of"])
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_frames_hold_what_was_put_in(method: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert read_frames(Frames(method).compress(data)) == data


def test_damaged_frames_are_refused() -> None:
    frame = Frames("LZ4").compress(b"SELECT 1")
    for damaged, code in (
        (frame[:-1], 271),
        (frame[:20], 271),
        (frame[:-1] + b"?", 40),
        (b"?" + frame[1:], 40),
        (frame + b"x", 271),
    ):
        with pytest.raises(EngineError) as raised:
            read_frames(damaged)
        assert raised.value.code == code


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("gzip, deflate", "gzip"),
        ("br, zstd", "zstd"),
        ("zstd, lz4", "lz4"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
    ],
)
def test_encoding_of_an_answer_is_one_that_the_client_accepts(header: str, expected: str | None) -> None:
    assert accepted_encoding(header) == expected


BLOCK = b"\x02\x02\x01a\x06String\x01x\x00\x01b\x05UInt8\x01\x02"
INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"


def test_block_information_precedes_each_block() -> None:
    assert b"".join(at_version([BLOCK + BLOCK, BLOCK], 54405)) == (INFO + BLOCK) * 3


@pytest.mark.parametrize("version", [54454, 54460])
def test_a_byte_says_how_each_column_is_serialized(version: int) -> None:
    expected = INFO + b"\x02\x02\x01a\x06String\x00\x01x\x00\x01b\x05UInt8\x00\x01\x02"
    assert b"".join(at_version([BLOCK + BLOCK], version)) == expected * 2


def test_a_column_without_known_length_is_refused_where_its_length_matters() -> None:
    block = b"\x01\x01\x01a\x04JSON\x00"
    assert b"".join(at_version([block], 54453)) == INFO + block
    with pytest.raises(EngineError, match="column a of type JSON can't be sent with client_protocol_version=54454"):
        list(at_version([block], 54454))
