"""Books of public prices that were published after the installed one, kept in a folder, each applied from a day on.

A book is read from genai-prices' published JSON, or from a wheel or source archive of it, whose code is never run: its
data is a literal of constructor calls. What is kept is one JSON file a book, of what determines prices alone; the names
of the files give the order in which they were taken. A later one goes over those before, from its day on.
"""

from __future__ import annotations

import ast
import json
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from email.parser import Parser
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from spendstream.errors import SpendstreamError

if TYPE_CHECKING:
    from genai_prices.types import Provider

PACKAGE: Final = "genai-prices"
MAX_BYTES: Final = 100_000_000
"""More than any book has: the limit of what is unpacked."""

_DATA: Final = "genai_prices/data.py"
_PROVIDER: Final = (
    *("id", "name", "api_pattern", "pricing_urls", "model_match", "provider_match", "fallback_model_providers"),
    "models",
)
_MODEL: Final = ("id", "match", "prices", "price_variants")
_CALLS: Final = frozenset(
    {
        *("Provider", "ModelInfo", "ModelPrice", "ConditionalPrice", "PriceVariant", "TieredPrices", "Tier"),
        *("StartDateConstraint", "TimeOfDateConstraint", "UsageExtractor", "UsageExtractorMapping", "ArrayMatch"),
        *("ClauseOr", "ClauseAnd", "ClauseEquals", "ClauseStartsWith", "ClauseEndsWith", "ClauseContains"),
        "ClauseRegex",
    }
)
"""What the data of a package may construct."""


class BookUnreadable(SpendstreamError):
    """A file that is no book of genai-prices, or one that this release can't use. Says why."""


@dataclass(frozen=True)
class PublishedBook:
    """A published book and the day from which it applies. Raises: BookUnreadable, if its prices can't be read."""

    version: str
    """The package's. Of a JSON file, which states none: the installed version and the day on which it was taken."""
    since: date
    """First day (UTC) of the calls that it prices."""
    over: str
    """The version of genai-prices that was installed when it was taken."""
    raw: Sequence[Mapping[str, Any]]
    """The providers, as JSON values; prices are decimal texts in USD."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the book of a kept file's contents. Raises: BookUnreadable."""
        try:
            since = date.fromisoformat(document["from"])
            return cls(str(document["version"]), since, str(document["over"]), document["providers"])
        except (KeyError, TypeError, ValueError) as error:
            raise BookUnreadable(f"not a kept price book: {error!r}") from error

    @property
    def document(self) -> dict[str, Any]:
        """The contents of a kept file."""
        return {"version": self.version, "from": str(self.since), "over": self.over, "providers": self.raw}

    @property
    def is_older(self) -> bool:
        """Whether the installed package is newer."""
        return _order(self.version) < _order(installed_version(PACKAGE))

    @property
    def applies(self) -> bool:
        """Whether the installed package is no newer than the book, or the same as when the book was taken."""
        return _order(installed_version(PACKAGE)) <= max(_order(self.version), _order(self.over))

    @cached_property
    def providers(self) -> list[Provider]:
        """The providers, as the installed package's types."""
        from genai_prices.types import _providers_from_raw
        from pydantic import ValidationError

        try:
            return _providers_from_raw(self.raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = _place(self.raw, first["loc"])
            more = f" ({error.error_count():,} mistakes in all)" if error.error_count() > 1 else ""
            raise BookUnreadable(f"{where}: {first['msg']}{more}") from error


def read_book(path: Path, since: date) -> tuple[PublishedBook, tuple[str, ...]]:
    """Return the book of a published JSON file, a wheel or a source archive; and what of it this release can't use.

    A model with a kind of price that the installed package doesn't know is left out: its price would be a part of the
    truth. Raises: BookUnreadable; OSError.
    """
    installed = installed_version(PACKAGE)
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        version, source = _unpack(path)
        found = _literal(source)
    else:
        version, found = f"{installed}+{datetime.now(UTC):%Y%m%d}", _read_json(path)
    providers, unusable = _usable(_canonical(found))
    book = PublishedBook(version, since, installed, providers)
    for provider in book.providers:
        _check_patterns(provider.id, provider)
    return book, tuple(unusable)


def kept_files(folder: Path | None) -> list[Path]:
    """Return the files of the kept books in the order in which they were taken; none without the folder."""
    return sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else []


def read_kept(folder: Path | None) -> list[PublishedBook]:
    """Return the kept books that apply, in the order in which they were taken. Raises: BookUnreadable; OSError."""
    books = []
    for file in kept_files(folder):
        try:
            book = PublishedBook.of(json.loads(file.read_bytes()))
            _ = book.providers
        except (BookUnreadable, ValueError, RecursionError) as error:
            raise BookUnreadable(f"{file}: {error}") from error
        if book.applies:
            books.append(book)
    return books


def keep(book: PublishedBook, folder: Path) -> Path:
    """Write a book into the folder, after those that are there; whole, or not at all. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=folder, suffix=".part", delete=False) as part:
        part.write(json.dumps(book.document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode())
        part.flush()
        os.fsync(part.fileno())
    os.chmod(part.name, 0o644)
    try:
        while True:
            numbers = [int(match[1]) for file in kept_files(folder) if (match := re.match(r"(\d+)-", file.name))]
            version = re.sub(r"[^\w.+-]", "_", book.version)
            file = folder / f"{max(numbers, default=0) + 1:04}-{PACKAGE}-{version}-from-{book.since}.json"
            try:
                os.link(part.name, file)  # fails if another command took the name
            except FileExistsError:
                continue
            return file
    finally:
        os.unlink(part.name)


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _unpack(path: Path) -> tuple[str, str]:
    """Return the version that a wheel or a source archive states, and the text of its data. Runs nothing."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel:
                sizes = {info.filename: info.file_size for info in wheel.infolist()}
                texts = {name: wheel.read(name).decode() for name in _wanted(sizes)}
        else:
            with tarfile.open(path) as archive:
                members = {member.name: member for member in archive.getmembers() if member.isfile()}
                wanted = _wanted({name: member.size for name, member in members.items()})
                files = {name: archive.extractfile(members[name]) for name in wanted}
                texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, UnicodeDecodeError, NotImplementedError) as error:
        raise BookUnreadable(f"can't be unpacked: {error}") from error
    data = next((text for name, text in texts.items() if name.endswith(_DATA)), None)
    metadata = next((Parser().parsestr(text) for name, text in texts.items() if not name.endswith(_DATA)), None)
    if data is None or metadata is None or metadata["Name"] != PACKAGE or not metadata["Version"]:
        raise BookUnreadable(f"not a package of {PACKAGE} with prices")
    return str(metadata["Version"]), data


def _wanted(sizes: Mapping[str, int]) -> list[str]:
    wanted = [
        name for name in sizes if re.fullmatch(rf"(?:[^/]+/)?{_DATA}|[^/]+\.dist-info/METADATA|[^/]+/PKG-INFO", name)
    ]
    if sum(sizes[name] for name in wanted) > MAX_BYTES:
        raise BookUnreadable(f"has more than {MAX_BYTES:,} bytes of prices")
    return wanted


def _literal(source: str) -> Any:
    """Return the value of ``providers`` in the text of a package's data, as JSON values."""
    try:
        tree = ast.parse(source)
        assigned = {
            target.id: statement.value
            for statement in tree.body
            if isinstance(statement, ast.Assign | ast.AnnAssign)
            for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
            if isinstance(target, ast.Name)
        }
        providers = assigned.get("providers")
        if providers is None:
            raise BookUnreadable(f"{_DATA} has no providers")
        return _value(providers)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BookUnreadable(f"{_DATA}: {error}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(node.keys):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if called in ("Decimal", "datetime.date", "datetime.time") and len(constants) == len(node.args):
            if called == "Decimal" and len(constants) == 1:
                return Decimal(str(constants[0]))
            numbers = [value for value in constants if isinstance(value, int)]
            if called == "datetime.date":
                return str(date(*numbers))
            if called == "datetime.time" and 2 <= len(numbers) <= 3:
                zone = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if zone in ({}, {"tzinfo": "datetime.timezone.utc"}, {"tzinfo": "datetime.UTC"}):
                    return ":".join(f"{part:02}" for part in (*numbers, 0)[:3]) + ("Z" if zone else "")
        if called in _CALLS and not node.args and all(word.arg for word in node.keywords):
            return {str(word.arg).rstrip("_"): _value(word.value) for word in node.keywords}
    raise BookUnreadable(f"line {node.lineno}: not data: {ast.unparse(node)[:80]}")


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise BookUnreadable(f"has more than {MAX_BYTES:,} bytes")
    try:
        return json.loads(path.read_bytes(), parse_float=Decimal, parse_constant=Decimal)
    except (ValueError, RecursionError) as error:
        raise BookUnreadable(f"neither JSON, nor a wheel or a source archive of {PACKAGE}: {error}") from error


def _canonical(found: Any) -> list[dict[str, Any]]:
    """Return what determines prices, with numbers that have a point as text."""
    if not isinstance(found, list) or not all(isinstance(p, dict) and isinstance(p.get("id"), str) for p in found):
        raise BookUnreadable(f"not a list of providers, as {PACKAGE} publishes it")
    providers = []
    for provider in found:
        models = provider.get("models")
        if not isinstance(models, list) or not all(
            isinstance(m, dict) and isinstance(m.get("id"), str) for m in models
        ):
            raise BookUnreadable(f"{provider['id']} has no list of models")
        kept = {name: _plain(provider[name]) for name in _PROVIDER if provider.get(name) is not None}
        kept["models"] = [{n: _plain(m[n]) for n in _MODEL if m.get(n) is not None} for m in models]
        providers.append(kept)
    ids = [(provider["id"], model["id"]) for provider in providers for model in provider["models"]]
    if not ids:
        raise BookUnreadable("lists no model")
    if twice := next((key for key in ids if ids.count(key) > 1), None) if len(set(ids)) < len(ids) else None:
        raise BookUnreadable(f"lists {' '.join(twice)} twice")
    return providers


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value.is_finite() else str(value)
    return value


def _usable(providers: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the providers with the models whose prices can be used, and why the others can't."""
    from genai_prices.data_units import unit_data
    from genai_prices.units import UnitRegistry

    known = {unit.price_key for unit in UnitRegistry(unit_data).units.values()}
    unusable: list[str] = []
    for provider in providers:
        models = []
        for model in provider["models"]:
            stated = list(_price_sets(model))
            strange = sorted({key for prices in stated for key in prices if key not in known})
            wrong = [
                f"{key} {amount}" for prices in stated for key, amount in _amounts(prices) if not _is_price(amount)
            ]
            if strange or wrong:
                why = f"prices of an unknown kind: {', '.join(strange)}" if strange else f"not a price: {wrong[0]}"
                unusable.append(f"{provider['id']} {model['id']}: {why}")
            else:
                models.append(model)
        provider["models"] = models
    return list(providers), unusable


def _price_sets(model: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    prices = model.get("prices", [])
    variants = model.get("price_variants")
    entries = [*(prices if isinstance(prices, list) else [{"prices": prices}])]
    entries += variants if isinstance(variants, list) else []
    return (e["prices"] for e in entries if isinstance(e, dict) and isinstance(e.get("prices"), dict))


def _amounts(prices: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, price in prices.items():
        steps = [price]
        if isinstance(price, dict):
            steps = [price.get("base"), *(t.get("price") for t in price.get("tiers") or () if isinstance(t, dict))]
        yield from ((key, step) for step in steps)


def _is_price(amount: Any) -> bool:
    try:
        return Decimal(str(amount)) >= 0 and Decimal(str(amount)).is_finite()
    except InvalidOperation:
        return False


def _check_patterns(where: str, value: Any) -> None:
    """Raise BookUnreadable for a pattern of names that is no regular expression."""
    if isinstance(value, list):
        for inner in value:
            _check_patterns(where, inner)
    elif type(value).__name__ == "ClauseRegex":
        try:
            re.compile(value.regex)
        except re.error as error:
            raise BookUnreadable(f"{where}: not a pattern: {value.regex!r}: {error}") from error
    elif hasattr(value, "__dataclass_fields__"):
        for inner in vars(value).values():
            _check_patterns(where, inner)


def _place(raw: Sequence[Mapping[str, Any]], path: Sequence[Any]) -> str:
    """Return where a mistake is, by ids: ``anthropic claude-x prices``."""
    words: list[str] = []
    at: Any = raw
    for part in path:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            words += [str(part)] if isinstance(part, str) and part.islower() else []
            continue
        words.append(str(at["id"]) if isinstance(at, dict) and "id" in at else str(part))
    return " ".join(word for word in words if word != "models") or "the book"
