"""A rate book: everything that determines prices, as one document with an id. Workers publish it before they use it.

Your own cards and aliases, and the price books that you took, are in the document. What the package brings (the public
prices, its data files, and the code that prices) is named by version and hash: only a worker that has the same can
rebuild the prices.
"""

import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final, Self, get_args

from spendstream.core.pricing.book import PriceBook
from spendstream.core.pricing.cards import Entry, read_cards
from spendstream.core.pricing.published import PublishedBook, read_kept
from spendstream.schemas.rate_card import RateCards

MAX_PLAIN_BYTES: Final = 100_000
"""A larger document is compressed: several price books take little more than one then."""

_XZ: Final = b"\xfd7zXZ\x00"
_FIELDS: Final[dict[type, str]] = {
    get_args(field.annotation)[0]: name for name, field in RateCards.model_fields.items()
}


@lru_cache(maxsize=1)
def package_prices() -> dict[str, str]:
    """Return what prices calls beside your own cards, by name: versions, and the hash of the package's data files."""
    data = hashlib.sha256()
    for file in sorted(resources.files("spendstream.core.pricing").iterdir(), key=lambda file: file.name):
        if file.is_file() and not file.name.endswith((".py", ".pyc")):
            data.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return {
        "spendstream": version("spendstream"),
        "genai-prices": version("genai-prices"),
        "data": data.hexdigest()[:32],
    }


@dataclass(frozen=True)
class RateBook:
    """``own``: your cards and aliases as JSON documents in order; comments and layout of the files are not part of it.

    ``package``: what the package brings, as ``package_prices``. ``kept``: published books that apply over it, in the
    order in which they were taken, as ``PublishedBook.document``.
    """

    own: Sequence[dict[str, Any]]
    package: dict[str, str]
    kept: Sequence[dict[str, Any]] = ()

    @classmethod
    def load(cls, paths: Sequence[Path] = (), kept: Path | None = None) -> Self:
        """Return the book of this release, the card files of ``paths``, or of directories, and the books of a folder.

        Raises: RateCardError; BookUnreadable.
        """
        documents: list[dict[str, Any]] = []
        for field, entries in groupby(read_cards(paths), key=lambda entry: _FIELDS[type(entry)]):
            cards = RateCards.model_validate({field: list(entries)})
            documents.append(cards.model_dump(mode="json", by_alias=True, exclude_unset=True))
        return cls(documents, package_prices(), [book.document for book in read_kept(kept)])

    @cached_property
    def id(self) -> str:
        """The hash of the contents, 32 hexadecimal digits."""
        return hashlib.sha256(self._json).hexdigest()[:32]

    @property
    def cards(self) -> int:
        """How many cards and aliases of your own it has."""
        return sum(len(listed) for document in self.own for listed in document.values())

    @property
    def is_of_this_release(self) -> bool:
        """Whether this package can rebuild its prices."""
        return self.package == package_prices()

    def prices(self) -> PriceBook:
        """Return the prices. Only a book of this release has the same as where it was published."""
        entries: list[Entry] = []
        for document in self.own:
            cards = RateCards.model_validate(document)
            entries += chain.from_iterable(getattr(cards, name) for name in _FIELDS.values())
        return PriceBook.of(entries, [PublishedBook.of(document) for document in self.kept])

    def encode(self) -> bytes:
        """Return the book as bytes: JSON, compressed if it is large."""
        return self._json if len(self._json) <= MAX_PLAIN_BYTES else lzma.compress(self._json)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Return the book of ``encode``. Raises: ValueError, if ``value`` is something else."""
        try:
            content = json.loads(lzma.decompress(value) if value.startswith(_XZ) else value)
            return cls(content["own"], content["package"], content.get("kept", []))
        except (lzma.LZMAError, EOFError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a rate book: {error!r}") from error

    @cached_property
    def _json(self) -> bytes:
        content = {"own": list(self.own), "package": self.package}
        if self.kept:
            content["kept"] = list(self.kept)
        return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
