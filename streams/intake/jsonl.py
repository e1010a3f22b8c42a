"""JSONL: one usage event a line, published as it stands."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from streams.intake.row import Row, check, lines

_BOM: Final = b"\xef\xbb\xbf"


def read_jsonl(source: BinaryIO | Iterable[bytes]) -> Iterator[Row]:
    """Yield a row for each line that is not blank: an event with the line's own bytes, or an error. Never raises."""
    for number, text in enumerate(lines(source), start=1):
        value = text.removeprefix(_BOM).strip() if number == 1 else text.strip()
        if value:
            yield check(number, value)
