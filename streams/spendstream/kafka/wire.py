"""A compressed batch on the wire, read in pieces of bounded size.

aiokafka decompresses a batch as a whole. A batch of 1 MB can hold gigabytes (12 kB of zstd are 400 MB of spaces), and
whoever may publish can send one. Here it is decompressed step by step, and cut between records into uncompressed
batches, which aiokafka's parser reads as usual. Of a record too large to keep, the beginning is kept and the rest is
hashed as it passes.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import lz4.frame
from aiokafka.codec import snappy_decode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from spendstream.core.batch import CutValue

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 8_000_000
"""Decompressed bytes of a piece; a single larger record is a piece of its own."""

MAX_RECORD_BYTES: Final = 4_000_000
"""A larger record is cut. An event has at most 1 MB."""

KEPT_BYTES: Final = 100_000
"""Of the value of a record that is cut, and of its key."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_ATTRIBUTES, _COUNT = 5, 12
_MAGIC_OFFSET: Final = 16
_CODEC_OFFSET: Final = 22
_CODEC_MASK: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_MAX_RATIO: Final = {_GZIP: 1_032, _SNAPPY: 24, _LZ4: 255}
"""How much a codec can expand. zstd has no limit."""

_STEP_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class CutRecord:
    """A record too large to keep, in the attributes of aiokafka's records."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None


def must_be_read_in_pieces(batch: memoryview) -> bool:
    """Return whether a batch could expand beyond ``PIECE_BYTES``. ``batch``: from its base offset on."""
    if batch[_MAGIC_OFFSET] < 2:
        return False  # older formats hold a message set that aiokafka alone can read; producers of today send none
    codec = batch[_CODEC_OFFSET] & _CODEC_MASK
    return codec != 0 and len(batch) * _MAX_RATIO.get(codec, len(batch) + PIECE_BYTES) > PIECE_BYTES


def pieces(batch: memoryview) -> Iterator[list[Any]]:
    """Yield the records of a batch, in pieces of about ``PIECE_BYTES``. Raises: CorruptRecordException."""
    header = _HEADER.unpack_from(batch)
    codec = header[_ATTRIBUTES] & _CODEC_MASK
    chunks = _decompressed(codec, bytes(batch[_HEADER.size :]))
    left, size = header[_COUNT], 0
    begun: list[bytes] = []
    while size <= PIECE_BYTES:
        chunk = next(chunks, None)
        if chunk is None:  # nearly always: it wasn't large at all
            yield _parsed(header, left, b"".join(begun))
            return
        begun.append(chunk)
        size += len(chunk)
    source = _Source(chain(begun, chunks))
    del begun
    while left:
        count = size = length = 0
        parts: list[bytes] = []
        while left and size < PIECE_BYTES:
            length, spelled = source.varint()
            if length > MAX_RECORD_BYTES:
                break
            parts += [spelled, source.take(length)]
            size += len(spelled) + length
            count, left = count + 1, left - 1
        if count:
            yield _parsed(header, count, b"".join(parts))
        if left and size < PIECE_BYTES:
            yield [_cut(header, source, length)]
            left -= 1


def _parsed(header: tuple[int, ...], count: int, body: bytes) -> list[Any]:
    """Return records by aiokafka's parser: as a batch that was never compressed."""
    fields = list(header)
    fields[1] = _HEADER.size - 12 + len(body)
    fields[_ATTRIBUTES] &= ~_CODEC_MASK
    fields[_COUNT] = count
    return list(DefaultRecordBatch(_HEADER.pack(*fields) + body))


def _cut(header: tuple[int, ...], source: _Source, length: int) -> CutRecord:
    """Return the beginning of a record, and read past the rest."""
    head = _Head(source.take(min(length, MAX_RECORD_BYTES)))
    rest = length - len(head.data)
    head.at = 1  # attributes, which are unused
    timestamp_delta, offset_delta = head.varint(), head.varint()
    key, key_size = head.field()
    if head.at < len(head.data):
        start, value_size = head.begin()
        value: bytes | None = None if value_size < 0 else _hashed(head.data[start:], value_size, source, rest)
    else:  # all that was kept is the key
        value = CutValue.of(b"", length - key_size, "")
        source.skip(rest)
    if isinstance(key, bytes) and key_size > len(key):
        key = CutValue.of(key, key_size, "")
    is_append_time = bool(header[_ATTRIBUTES] & _LOG_APPEND_TIME)
    timestamp = header[8] if is_append_time else header[7] + timestamp_delta
    return CutRecord(header[0] + offset_delta, timestamp, int(is_append_time), key, value)


def _hashed(beginning: bytes, size: int, source: _Source, rest: int) -> bytes:
    """Return a value that is cut, hashed whole; ``rest``: what of the record is still to be read."""
    digest = hashlib.sha256(beginning[:size])
    left = max(0, size - len(beginning))
    for chunk in source.chunks(rest):
        digest.update(chunk[:left])
        left = max(0, left - len(chunk))
    whole = beginning[:size]
    return whole if len(whole) == size <= KEPT_BYTES else CutValue.of(whole[:KEPT_BYTES], size, digest.hexdigest())


class _Head:
    """Reads fields from the beginning of a record."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def varint(self) -> int:
        number = shift = 0
        while True:
            if self.at >= len(self.data):
                raise CorruptRecordException("a record ends within a number")
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return (number >> 1) ^ -(number & 1)
            shift += 7

    def field(self) -> tuple[bytes | None, int]:
        """Return a field's bytes, at most ``KEPT_BYTES`` of them, and its size."""
        start, size = self.begin()
        self.at = start + max(0, size)
        return (None if size < 0 else self.data[start : start + min(size, KEPT_BYTES)]), size

    def begin(self) -> tuple[int, int]:
        size = self.varint()
        return self.at, size


class _Source:
    """Bytes that come in chunks, read as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def varint(self) -> tuple[int, bytes]:
        """Return a number, and how it is spelled."""
        number = shift = 0
        spelled = bytearray()
        while True:
            if self._at >= len(self._chunk):
                self._next()
            byte = self._chunk[self._at]
            self._at += 1
            spelled.append(byte)
            number |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
        value = (number >> 1) ^ -(number & 1)
        if value < 0 or shift > 63:
            raise CorruptRecordException(f"a record of {value} bytes")
        return value, bytes(spelled)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._chunk):
            taken = self._chunk[self._at : end]
            self._at = end
            return taken
        return b"".join(self.chunks(size))

    def skip(self, size: int) -> None:
        for _ in self.chunks(size):
            pass

    def chunks(self, size: int) -> Iterator[bytes]:
        while size:
            if self._at >= len(self._chunk):
                self._next()
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            yield part

    def _next(self) -> None:
        for chunk in self._chunks:
            if chunk:
                self._chunk, self._at = chunk, 0
                return
        raise CorruptRecordException("a compressed batch ends within a record")


def _decompressed(codec: int, data: bytes) -> Iterator[bytes]:
    """Yield decompressed bytes, at most ``_STEP_BYTES`` at a time (of snappy, which can't expand much, all at once)."""
    if codec == _SNAPPY:
        yield snappy_decode(data)
        return
    if codec == _GZIP:
        inflate = zlib.decompressobj(wbits=31)
        left = data
        while left and not inflate.eof:
            yield inflate.decompress(left, _STEP_BYTES)
            left = inflate.unconsumed_tail
        yield inflate.flush()
        return
    frame: Any = lz4.frame.LZ4FrameDecompressor() if codec == _LZ4 else zstd.ZstdDecompressor()
    left = data
    while not frame.eof:
        if frame.needs_input and not left:
            raise CorruptRecordException("a compressed batch ends within a frame")
        yield frame.decompress(left, _STEP_BYTES)
        left = b""
