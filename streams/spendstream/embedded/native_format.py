"""ClickHouse's Native format as a protocol version words it, made from the engine's own, which is of version 0.

A block of version 0 is: number of columns, number of rows, and of each column its name, type and data. From version 1
on, eight bytes of information precede the block. From 54454 on, a byte after each type says how the data is serialized,
0 for the usual way; to know where it goes, every column before it is measured by its type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from spendstream.embedded.clickhouse_engine import refusal

SERIALIZATION_KINDS_VERSION: Final = 54454
"""From this version on, a byte says how a column is serialized."""

# Field 1, not an overflow row; field 2, bucket -1; end.
_BLOCK_INFO: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_NO_SPECIAL_SERIALIZATION: Final = b"\x00"

_SIZES: Final = {
    **dict.fromkeys(("Int8", "UInt8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("Int16", "UInt16", "Date", "Enum16", "BFloat16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "Date32", "DateTime", "IPv4", "Decimal32", "Time"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64", "DateTime64", "Decimal64", "Time64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("Int256", "UInt256", "Decimal256"), 32),
}
"""The bytes of a value, of the types where every value has as many."""

_ALIASES: Final = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_DECIMAL_BYTES: Final = ((9, 4), (18, 8), (38, 16), (76, 32))

# Of a LowCardinality column's index type: its low byte is the index's width, then these flags.
_HAS_GLOBAL_DICTIONARY: Final = 1 << 8
_HAS_ADDITIONAL_KEYS: Final = 1 << 9

_NAME: Final = re.compile(r"\w+")
# A part of a type's arguments that holds no comma of its own: a quoted string or name, or a single character.
_ARGUMENT_PIECE: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|.", re.DOTALL)
_FIELD_NAME: Final = re.compile(r"(?:`(?:[^`\\]|\\.)*`|\w+) ")


class UnknownLength(Exception):
    """A column has a type whose data can't be measured."""


def at_version(blocks: Iterable[bytes], version: int) -> Iterator[bytes]:
    """Yield Native blocks of version 0, of which each piece holds whole ones, as ``version`` words them.

    Raises: EngineError, when version 54454 or later is asked for and a column's data can't be measured (JSON, Dynamic,
    Variant, AggregateFunction).
    """
    for piece in blocks:
        at = 0
        while at < len(piece):
            try:
                end, type_ends = _measure(piece, at)
            except UnknownLength as error:
                if version >= SERIALIZATION_KINDS_VERSION:
                    raise refusal(
                        48, f"{error} can't be sent with client_protocol_version={version}: cast it", "NOT_IMPLEMENTED"
                    ) from None
                end, type_ends = len(piece), []  # the engine hands out one block at a time
            parts = [_BLOCK_INFO]
            if version >= SERIALIZATION_KINDS_VERSION:
                for type_end in type_ends:
                    parts += piece[at:type_end], _NO_SPECIAL_SERIALIZATION
                    at = type_end
            yield b"".join((*parts, piece[at:end]))
            at = end


def _measure(data: bytes, at: int) -> tuple[int, list[int]]:
    """Where the block that begins at ``at`` ends, and where each column's type ends."""
    ruler = _Ruler(data, at)
    columns, rows = ruler.number(), ruler.number()
    type_ends = []
    for _ in range(columns):
        name, kind = ruler.text(), ruler.text()
        type_ends.append(ruler.at)
        parsed = _parse(kind, f"column {name} of type {kind}")
        if rows:
            ruler.skip_prefix(parsed)
            ruler.skip(parsed, rows)
    if ruler.at > len(data):
        raise ValueError(f"a block of {columns} columns and {rows} rows is cut short")
    return ruler.at, type_ends


@dataclass(frozen=True)
class _Type:
    """``size``: bytes of a value, None where values differ. ``parts``: the types within."""

    name: str
    size: int | None = None
    parts: tuple[_Type, ...] = ()


def _parse(text: str, column: str) -> _Type:
    text = text.strip()
    found = _NAME.match(text)
    name = found.group() if found else ""
    arguments = _split(text[len(name) + 1 : -1]) if text.endswith(")") else []
    if name in _ALIASES:
        return _parse(_ALIASES[name], column)
    if name in _SIZES:
        return _Type(name, _SIZES[name])
    if name.startswith("Interval"):
        return _Type(name, 8)
    if name == "FixedString":
        return _Type(name, int(arguments[0]))
    if name == "Decimal":
        return _Type(name, next(size for digits, size in _DECIMAL_BYTES if int(arguments[0]) <= digits))
    if name == "String":
        return _Type(name)
    if name == "SimpleAggregateFunction":
        return _parse(arguments[1], column)
    if name in ("Nullable", "Array", "LowCardinality"):
        return _Type(name, parts=(_parse(arguments[0], column),))
    if name in ("Map", "Nested"):
        fields = tuple(_parse(_FIELD_NAME.sub("", each, count=1), column) for each in arguments)
        return _Type("Array", parts=(_Type("Tuple", parts=fields),))
    if name == "Tuple" and arguments:
        return _Type(name, parts=tuple(_parse(_FIELD_NAME.sub("", each, count=1), column) for each in arguments))
    raise UnknownLength(column)


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for match in _ARGUMENT_PIECE.finditer(text):
        piece = match.group()
        if piece == "," and depth == 0:
            parts.append("")
            continue
        depth += (piece == "(") - (piece == ")")
        parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


class _Ruler:
    """A position in a block that moves past what is there."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def number(self) -> int:
        """Read a number of variable length."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def text(self) -> str:
        """Read a name or a type."""
        size = self.number()
        self.at += size
        return self.data[self.at - size : self.at].decode(errors="surrogateescape")

    def fixed(self) -> int:
        """Read a number of eight bytes."""
        self.at += 8
        return int.from_bytes(self.data[self.at - 8 : self.at], "little")

    def skip_prefix(self, kind: _Type) -> None:
        """Move past what precedes a column's data: the version of each LowCardinality within."""
        if kind.name == "LowCardinality":
            self.at += 8
            return
        for part in kind.parts:
            self.skip_prefix(part)

    def skip(self, kind: _Type, rows: int) -> None:
        """Move past ``rows`` values."""
        if kind.size is not None:
            self.at += kind.size * rows
        elif kind.name == "String":
            self._skip_strings(rows)
        elif kind.name == "Nullable":
            self.at += rows
            self.skip(kind.parts[0], rows)
        elif kind.name == "Array":
            self.at += 8 * (rows - 1)
            self.skip(kind.parts[0], self.fixed() if rows else 0)
        elif kind.name == "Tuple":
            for part in kind.parts:
                self.skip(part, rows)
        else:
            self._skip_low_cardinality(kind.parts[0], rows)

    def _skip_strings(self, rows: int) -> None:
        data, at = self.data, self.at
        for _ in range(rows):
            size = data[at]
            at += 1
            if size > 127:
                self.at = at - 1
                size = self.number()
                at = self.at
            at += size
        self.at = at

    def _skip_low_cardinality(self, kind: _Type, rows: int) -> None:
        if not rows:
            return
        flags = self.fixed()
        keys = kind.parts[0] if kind.name == "Nullable" else kind
        for flag in (_HAS_GLOBAL_DICTIONARY, _HAS_ADDITIONAL_KEYS):
            if flags & flag:
                self.skip(keys, self.fixed())
        indexes = self.fixed()
        self.at += indexes << (flags & 0xFF)
