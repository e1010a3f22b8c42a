"""JSONL: one usage event a line, published as it stands."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from spendstream.intake.row import Line, lines

_BOM: Final = b"\xef\xbb\xbf"


def read_jsonl(source: BinaryIO | Iterable[bytes]) -> Iterator[Line]:
    """Yield each line that is not blank, trimmed, and not judged. Never raises."""
    for number, text in enumerate(lines(source), start=1):
        value = text.removeprefix(_BOM).strip() if number == 1 else text.strip()
        if value:
            yield Line(number, value)
