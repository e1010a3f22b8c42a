"""What compresses requests and answers: HTTP's ``Content-Encoding``, and ClickHouse's own frames (``compress=1``).

A frame is a checksum of 16 bytes over the rest, a byte for the method, two numbers of four bytes (the frame's size
without the checksum, and the size of what it holds), and the compressed data.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Final, Protocol

import lz4.block  # type: ignore[import-untyped]
import lz4.frame  # type: ignore[import-untyped]

from spendstream.embedded.clickhouse_engine import refusal

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from backports import zstd  # type: ignore[no-redef,unused-ignore]

MAX_FRAME_BYTES: Final = 1 << 20
"""What one frame of an answer holds at most, as in ClickHouse."""


class Compressor(Protocol):
    """Compresses an answer piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Return what is ready to be sent, which may be nothing yet."""

    def flush(self) -> bytes:
        """Return what is left, and end the stream."""


class _Lz4:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        head: bytes = b"" if self._begun else self._frame.begin()
        self._begun = True
        return head + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return (b"" if self._begun else self._frame.begin()) + bytes(self._frame.flush())


class Frames:
    """ClickHouse's own frames, compressed with ``method``: LZ4, ZSTD or NONE."""

    def __init__(self, method: str) -> None:
        self._method, self._squeeze, _ = _METHODS_BY_NAME.get(method.upper(), _METHODS_BY_NAME["LZ4"])

    def compress(self, data: bytes, /) -> bytes:
        """Return whole frames."""
        return b"".join(
            self._frame(data[start : start + MAX_FRAME_BYTES]) for start in range(0, len(data), MAX_FRAME_BYTES)
        )

    def flush(self) -> bytes:
        """Return nothing: every frame is whole."""
        return b""

    def _frame(self, data: bytes) -> bytes:
        packed = self._squeeze(data)
        rest = _FRAME_HEAD.pack(self._method, _FRAME_HEAD.size + len(packed), len(data)) + packed
        return checksum(rest) + rest


def read_frames(body: bytes) -> bytes:
    """Return what a sequence of frames holds. Raises: EngineError, when one is damaged or of another method."""
    pieces = []
    at = 0
    while at < len(body):
        head = body[at + CHECKSUM_BYTES : at + CHECKSUM_BYTES + _FRAME_HEAD.size]
        if len(head) < _FRAME_HEAD.size:
            raise _damaged(f"the last frame, at byte {at}, is cut short")
        method, size, plain_size = _FRAME_HEAD.unpack(head)
        end = at + CHECKSUM_BYTES + size
        if size < _FRAME_HEAD.size or end > len(body):
            raise _damaged(
                f"the frame at byte {at} has a size of {size}, and {len(body) - at - CHECKSUM_BYTES} bytes follow"
            )
        rest = body[at + CHECKSUM_BYTES : end]
        if checksum(rest) != body[at : at + CHECKSUM_BYTES]:
            raise refusal(
                40, f"Checksum doesn't match: corrupted data in the frame at byte {at}", "CHECKSUM_DOESNT_MATCH"
            )
        if method not in _METHODS:
            raise refusal(89, f"Unknown compression method {method:#x}", "UNKNOWN_COMPRESSION_METHOD")
        if plain_size > MAX_PLAIN_FRAME_BYTES:
            raise _damaged(f"the frame at byte {at} holds {plain_size} bytes, more than {MAX_PLAIN_FRAME_BYTES}")
        try:
            plain = _METHODS[method](rest[_FRAME_HEAD.size :], plain_size)
        except Exception as error:  # each codec has an error tree of its own
            raise _damaged(f"the frame at byte {at}: {error}") from None
        if len(plain) != plain_size:
            raise _damaged(f"the frame at byte {at} holds {len(plain)} bytes, not the {plain_size} it says")
        pieces.append(plain)
        at = end
    return b"".join(pieces)


MAX_PLAIN_FRAME_BYTES: Final = 1 << 30
CHECKSUM_BYTES: Final = 16
_FRAME_HEAD: Final = struct.Struct("<BII")


def _damaged(what: str) -> Exception:
    return refusal(271, f"Can't decompress the body: {what}", "CANNOT_DECOMPRESS")


def _zstd_plain(data: bytes, size: int) -> bytes:
    plain: bytes = zstd.ZstdDecompressor().decompress(data, size + 1)
    return plain


_METHODS_BY_NAME: Final[dict[str, tuple[int, Callable[[bytes], bytes], Callable[[bytes, int], bytes]]]] = {
    "NONE": (0x02, lambda data: data, lambda data, size: data),
    "LZ4": (
        0x82,
        lambda data: bytes(lz4.block.compress(data, store_size=False)),
        lambda data, size: bytes(lz4.block.decompress(data, uncompressed_size=size)) if size else b"",
    ),
    "ZSTD": (0x90, lambda data: bytes(zstd.compress(data, 1)), _zstd_plain),
}
_METHODS: Final = {method: undo for method, _, undo in _METHODS_BY_NAME.values()}


# In ClickHouse's order of preference, without what the standard library and our dependencies don't have.
_ENCODINGS: Final[dict[str, Callable[[], Compressor]]] = {
    "lz4": _Lz4,
    "gzip": lambda: zlib.compressobj(wbits=zlib.MAX_WBITS | 16),
    "deflate": lambda: zlib.compressobj(),
    "zstd": lambda: zstd.ZstdCompressor(3),
}


def accepted_encoding(header: str) -> str | None:
    """The encoding to answer with, of those that an ``Accept-Encoding`` header names; None for none of ours."""
    wanted = set()
    for each in header.lower().split(","):
        name, _, parameters = each.partition(";")
        if parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.add(name.strip())
    return next((name for name in _ENCODINGS if name in wanted), None)


def compressor(encoding: str) -> Compressor:
    """Return what compresses an answer with one of HTTP's encodings."""
    return _ENCODINGS[encoding]()


def decompress(body: bytes, encoding: str) -> bytes:
    """Undo ``Content-Encoding``: gzip, deflate, lz4 or zstd, each in any number of frames. Raises: EngineError."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    undo = _DECOMPRESSORS.get(name)
    if undo is None:
        offered = ", ".join(_DECOMPRESSORS)
        raise refusal(89, f"Unknown Content-Encoding {encoding!r}, known are {offered}", "UNKNOWN_COMPRESSION_METHOD")
    try:
        return undo(body)
    except Exception as error:  # each codec has an error tree of its own
        raise refusal(271, f"Can't decompress the body as {name}: {error}", "CANNOT_DECOMPRESS") from None


def _lz4(body: bytes) -> bytes:
    # clickhouse-connect sends a frame per block of rows, and lz4.frame.decompress stops after the first.
    pieces = []
    while body:
        decompressor = lz4.frame.LZ4FrameDecompressor()
        pieces.append(decompressor.decompress(body))
        if not decompressor.eof:
            raise ValueError("the last frame is cut short")
        body = decompressor.unused_data or b""
    return b"".join(pieces)


def _deflate(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error:
        return zlib.decompress(body, -zlib.MAX_WBITS)  # some clients leave zlib's header out


def _zstd(body: bytes) -> bytes:
    plain: bytes = zstd.decompress(body)
    return plain


_DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": _deflate,
    "lz4": _lz4,
    "zstd": _zstd,
}

# CityHash128 as ClickHouse froze it (1.0.2); the names are those of its source.
_MASK: Final = (1 << 64) - 1
_K0: Final = 0xC3A5C85C97CB3127
_K1: Final = 0xB492B66FBE98F273
_K2: Final = 0x9AE16A3B2F90404F
_K3: Final = 0xC949D7C7509E6557
_MULTIPLIER: Final = 0x9DDFEA08EB382D69
_ROUND_BYTES: Final = 128
_WORDS: Final = struct.Struct("<8Q")


def checksum(data: bytes) -> bytes:
    """Return a frame's checksum: the 16 bytes of ClickHouse's CityHash128. About 10 MB a second."""
    if len(data) >= 16:
        low, high = _hash_with_seed(data[16:], _word(data, 0) ^ _K3, _word(data, 8))
    elif len(data) >= 8:
        low, high = _hash_with_seed(b"", _word(data, 0) ^ (len(data) * _K0 & _MASK), _word(data, len(data) - 8) ^ _K1)
    else:
        low, high = _hash_with_seed(data, _K0, _K1)
    return struct.pack("<QQ", low, high)


def _hash_with_seed(s: bytes, x: int, y: int) -> tuple[int, int]:
    if len(s) < _ROUND_BYTES:
        return _murmur(s, x, y)
    z = len(s) * _K1 & _MASK
    v0 = (_rotate(y ^ _K1, 49) * _K1 + _word(s, 0)) & _MASK
    v1 = (_rotate(v0, 42) * _K1 + _word(s, 8)) & _MASK
    w0 = (_rotate((y + z) & _MASK, 35) * _K1 + x) & _MASK
    w1 = _rotate((x + _word(s, 88)) & _MASK, 53) * _K1 & _MASK
    rest = len(s) % _ROUND_BYTES
    # The source does two of these steps a round. They are written out because a call would cost more than it does.
    for s0, s1, s2, s3, s4, s5, s6, s7 in _WORDS.iter_unpack(memoryview(s)[: len(s) - rest]):
        a = (x + y + v0 + s2) & _MASK
        x = ((a >> 37 | a << 27) & _MASK) * _K1 & _MASK ^ w1
        a = (y + v1 + s6) & _MASK
        y = ((a >> 42 | a << 22) & _MASK) * _K1 & _MASK ^ v0
        a = z ^ w0
        z = (a >> 33 | a << 31) & _MASK
        a = (v1 * _K1 + s0) & _MASK
        b = (x + w0 + a + s3) & _MASK
        c = a
        a = (a + s1 + s2) & _MASK
        v0 = (a + s3) & _MASK
        v1 = ((b >> 21 | b << 43) + (a >> 44 | a << 20) + c) & _MASK
        a = (z + w1 + s4) & _MASK
        b = (y + a + s7) & _MASK
        c = a
        a = (a + s5 + s6) & _MASK
        w0 = (a + s7) & _MASK
        w1 = ((b >> 21 | b << 43) + (a >> 44 | a << 20) + c) & _MASK
        z, x = x, z
    y = (y + _rotate(w0, 37) * _K0 + z) & _MASK
    x = (x + _rotate((v0 + z) & _MASK, 49) * _K0) & _MASK
    for done in range(32, rest + 32, 32):
        y = (_rotate((y - x) & _MASK, 42) * _K0 + v1) & _MASK
        tail = len(s) - done
        w0 = (w0 + _word(s, tail + 16)) & _MASK
        x = (_rotate(x, 49) * _K0 + w0) & _MASK
        w0 = (w0 + v0) & _MASK
        v0, v1 = _weak_hash_32(s, tail, v0, v1)
    x = _hash_16(x, v0)
    y = _hash_16(y, w0)
    return (_hash_16((x + v1) & _MASK, w1) + y) & _MASK, _hash_16((x + w1) & _MASK, (y + v1) & _MASK)


def _murmur(s: bytes, a: int, b: int) -> tuple[int, int]:
    if len(s) <= 16:
        a = _shift_mix(a * _K1 & _MASK) * _K1 & _MASK
        c = (b * _K1 + _hash_0_to_16(s)) & _MASK
        d = _shift_mix((a + (_word(s, 0) if len(s) >= 8 else c)) & _MASK)
    else:
        c = _hash_16((_word(s, len(s) - 8) + _K1) & _MASK, a)
        d = _hash_16((b + len(s)) & _MASK, (c + _word(s, len(s) - 16)) & _MASK)
        a = (a + d) & _MASK
        for start in range(0, len(s) - 16, 16):
            a = (a ^ _shift_mix(_word(s, start) * _K1 & _MASK) * _K1) * _K1 & _MASK
            b ^= a
            c = (c ^ _shift_mix(_word(s, start + 8) * _K1 & _MASK) * _K1) * _K1 & _MASK
            d ^= c
    a = _hash_16(a, c)
    b = _hash_16(d, b)
    return a ^ b, _hash_16(b, a)


def _hash_0_to_16(s: bytes) -> int:
    size = len(s)
    if size > 8:
        last = _word(s, size - 8)
        return _hash_16(_word(s, 0), _rotate((last + size) & _MASK, size)) ^ last
    if size >= 4:
        return _hash_16((size + (_half(s, 0) << 3)) & _MASK, _half(s, size - 4))
    if size:
        y, z = s[0] + (s[size >> 1] << 8), size + (s[-1] << 2)
        return _shift_mix((y * _K2 ^ z * _K3) & _MASK) * _K2 & _MASK
    return _K2


def _weak_hash_32(s: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    s0, s1, s2, s3 = struct.unpack_from("<4Q", s, at)
    a = (a + s0) & _MASK
    b = _rotate((b + a + s3) & _MASK, 21)
    c = a
    a = (a + s1 + s2) & _MASK
    return (a + s3) & _MASK, (b + _rotate(a, 44) + c) & _MASK


def _hash_16(u: int, v: int) -> int:
    a = (u ^ v) * _MULTIPLIER & _MASK
    a ^= a >> 47
    b = (v ^ a) * _MULTIPLIER & _MASK
    b ^= b >> 47
    return b * _MULTIPLIER & _MASK


def _shift_mix(value: int) -> int:
    return value ^ value >> 47


def _rotate(value: int, by: int) -> int:
    return (value >> by | value << 64 - by) & _MASK


def _word(s: bytes, at: int) -> int:
    return int.from_bytes(s[at : at + 8], "little")


def _half(s: bytes, at: int) -> int:
    return int.from_bytes(s[at : at + 4], "little")
