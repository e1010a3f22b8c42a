"""Books of public prices that were published after the installed one: read, kept, applied from a day on."""

from __future__ import annotations

import copy
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import genai_prices.data
import pytest

from spendstream.core.pricing import BookUnreadable, PriceBook
from spendstream.core.pricing.changes import changes
from spendstream.core.pricing.public import PublicPrices
from spendstream.core.pricing.published import PublishedBook, keep, kept_files, read_book, read_kept
from spendstream.core.pricing.rate_book import RateBook
from spendstream.core.pricing.rates import SERVICE_TIERS, RateTable, midnight_us

SINCE = date(2026, 12, 1)
BEFORE, AFTER = datetime(2026, 11, 30, 23, 59, 59, 999_999, UTC), datetime(2026, 12, 1, tzinfo=UTC)
_SPEC = find_spec("genai_prices.data")
assert _SPEC is not None
assert _SPEC.origin is not None
DATA = Path(_SPEC.origin).read_text()


def wheel(folder: Path, data: str, of: str = "9.0", name: str = "genai-prices") -> Path:
    path = folder / f"genai_prices-{of}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("genai_prices/data.py", data)
        archive.writestr(f"genai_prices-{of}.dist-info/METADATA", f"Name: {name}\nVersion: {of}\n")
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> PublishedBook:
    """The installed book, as if it had been published now."""
    book, left_out = read_book(wheel(tmp_path_factory.mktemp("wheel"), DATA), SINCE)
    assert not left_out
    return book


@pytest.fixture
def newer(installed: PublishedBook) -> Callable[[Callable[[dict[str, Any]], None]], PublishedBook]:
    """Return the installed book after an edit of its providers by id."""

    def edited(edit: Callable[[dict[str, Any]], None]) -> PublishedBook:
        raw = copy.deepcopy(list(installed.raw))
        edit({provider["id"]: provider for provider in raw})
        return replace(installed, raw=raw)

    return edited


def model(providers: dict[str, Any], provider: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(m for m in providers[provider]["models"] if m["id"] == name)
    return found


def dearer(providers: dict[str, Any]) -> None:
    model(providers, "openai", "gpt-4o")["prices"]["input_mtok"] = "7.25"


def gone(providers: dict[str, Any]) -> None:
    providers["openai"]["models"].remove(model(providers, "openai", "gpt-4o"))


def test_a_wheel_is_read_as_the_package_itself_would_be(installed: PublishedBook) -> None:
    """Every provider, name, price and constraint; the code is not run."""
    assert len(installed.providers) == len(genai_prices.data.providers)
    for read, imported in zip(installed.providers, genai_prices.data.providers, strict=True):
        assert (read.id, read.model_match, read.provider_match) == (
            imported.id,
            imported.model_match,
            imported.provider_match,
        )
        assert (read.pricing_urls, read.fallback_model_providers) == (
            imported.pricing_urls,
            imported.fallback_model_providers,
        )
        assert [(m.id, m.match, m.prices, m.price_variants) for m in read.models] == [
            (m.id, m.match, m.prices, m.price_variants) for m in imported.models
        ]


def test_json_and_a_source_archive_say_what_the_wheel_says(tmp_path: Path, installed: PublishedBook) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(installed.raw))
    book, _ = read_book(file, SINCE)
    assert book.raw == installed.raw
    assert book.version.startswith(version("genai-prices") + "+")
    archive = tmp_path / "genai_prices-9.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("genai_prices/data.py", DATA), ("PKG-INFO", "Name: genai-prices\nVersion: 9.0\n")):
            info = tarfile.TarInfo(f"genai_prices-9.0/{name}")
            info.size = len(text.encode())
            tar.addfile(info, BytesIO(text.encode()))
    assert read_book(archive, SINCE)[0] == installed


def test_numbers_of_published_json_are_exact(tmp_path: Path, installed: PublishedBook) -> None:
    """A price is a number there: 0.1 is a tenth, not the float next to it."""
    raw: Any = copy.deepcopy(list(installed.raw))
    model({p["id"]: p for p in raw}, "openai", "gpt-4o")["prices"] = {"input_mtok": 0.1, "output_mtok": 3}
    file = tmp_path / "data.json"
    file.write_text(json.dumps(raw))
    book, _ = read_book(file, SINCE)
    (found,) = [m for p in book.providers for m in p.models if (p.id, m.id) == ("openai", "gpt-4o")]
    assert vars(found.prices) == {"input_mtok": Decimal("0.1"), "output_mtok": Decimal(3)}


def test_a_book_with_the_prices_that_apply_already_changes_nothing(installed: PublishedBook) -> None:
    """Every tier of every 23rd model: rates, first days, doubts and ids of cards, at all times."""
    table = RateTable()
    for since in (date(2025, 6, 1), SINCE):
        prices = PublicPrices(table, kept=[replace(installed, since=since)])
        assert prices.before is not None
        for key in sorted(prices.listed())[::23]:
            for tier in SERVICE_TIERS:
                before = prices.before.timeline(prices.before.names(*key), tier)
                assert prices.timeline(prices.names(*key), tier) == (before and before.compact()), (key, tier)
    assert not changes([], installed)


def test_calls_before_the_first_day_keep_price_and_card(newer: Callable[..., PublishedBook]) -> None:
    old, new = PriceBook(), PriceBook(kept=[newer(dearer)])
    before = new.explain("openai", "gpt-4o", at=BEFORE)
    after = new.explain("openai", "gpt-4o", at=AFTER)
    assert before.card == old.explain("openai", "gpt-4o", at=BEFORE).card
    assert before.valid_until == AFTER
    assert after.usd_per_mtok["input"] == Decimal("7.25")
    assert (after.card and after.card.valid_from) == AFTER
    assert after.usd_per_mtok["output"] == before.usd_per_mtok["output"]
    same = "anthropic", "claude-haiku-4-5"
    assert new.explain(*same, at=AFTER) == old.explain(*same, at=AFTER)


def test_every_change_of_a_model_is_listed_with_its_first_day(newer: Callable[..., PublishedBook]) -> None:
    def dated(providers: dict[str, Any]) -> None:
        prices = model(providers, "openai", "gpt-4o")["prices"]
        later = {**prices, "output_mtok": "99"}
        model(providers, "openai", "gpt-4o")["prices"] = [
            {"prices": {**prices, "input_mtok": "7.25"}},
            {"constraint": {"start_date": "2027-02-01"}, "prices": later},
        ]

    found = changes([], newer(dated))
    listed = [(c.rate, c.old, c.new, c.since) for c in found.rates if c.service_tier == "standard"]
    assert {(c.provider, c.model) for c in found.rates} == {("openai", "gpt-4o")}
    assert ("input", Decimal("2.5"), Decimal("7.25"), SINCE) in listed
    assert ("output", Decimal(10), Decimal(99), date(2027, 2, 1)) in listed
    assert (found.added, found.gone, found.names, found.unusable) == ((), (), 0, ())


def test_a_model_that_is_gone_keeps_its_price_as_an_estimate(newer: Callable[..., PublishedBook]) -> None:
    """Also where the newer book would take its name for another model's."""
    book = newer(gone)
    prices = PriceBook(kept=[book])
    before, after = (prices.explain("openai", "gpt-4o", at=at) for at in (BEFORE, AFTER))
    assert before.card == after.card
    assert before.notes == ()
    assert after.notes == ("estimated: genai-prices 9.0 has no price for it: the one before applies still",)
    assert changes([], book).gone == (("openai", "gpt-4o"),)


def test_a_new_model_has_a_price_from_the_first_day_only(newer: Callable[..., PublishedBook]) -> None:
    def added(providers: dict[str, Any]) -> None:
        prices = {"input_mtok": "1", "output_mtok": "2"}
        providers["openai"]["models"].insert(0, {"id": "zz-9", "match": {"equals": "zz-9"}, "prices": prices})

    book = newer(added)
    prices = PriceBook(kept=[book])
    assert prices.explain("openai", "zz-9", at=BEFORE).card is None
    assert prices.explain("openai", "zz-9", at=AFTER).usd_per_mtok["output"] == 2
    assert changes([], book).added == (("openai", "zz-9"),)


def test_a_later_book_goes_over_those_before_from_its_day_on(newer: Callable[..., PublishedBook]) -> None:
    def dearest(providers: dict[str, Any]) -> None:
        model(providers, "openai", "gpt-4o")["prices"]["input_mtok"] = "8"

    first, second = newer(dearer), replace(newer(dearest), since=date(2026, 12, 3))
    days = [datetime(2026, 12, day, tzinfo=UTC) for day in (1, 2, 3, 4)]

    def prices(*kept: PublishedBook) -> list[Decimal]:
        return [PriceBook(kept=kept).explain("openai", "gpt-4o", at=at).usd_per_mtok["input"] for at in days]

    assert prices(first, second) == [Decimal("7.25"), Decimal("7.25"), 8, 8]
    assert prices(second, first) == [Decimal("7.25")] * 4, "taken later, from an earlier day"
    listed = [c for c in PriceBook(kept=[first, second]).cards() if (c.provider, c.model) == ("openai", "gpt-4o")]
    days_listed = {c.valid_from.date() for c in listed if c.valid_from and c.tier_applied == "standard"}
    assert {SINCE, date(2026, 12, 3)} <= days_listed


def test_kept_books_are_read_back_in_order_and_travel_with_the_rate_book(
    tmp_path: Path, newer: Callable[..., PublishedBook]
) -> None:
    folder = tmp_path / "deep" / "books"
    assert read_kept(folder) == []
    plain = RateBook.load([], folder)
    assert plain == RateBook.load()
    books = [newer(dearer), replace(newer(gone), since=date(2026, 12, 3))]
    files = [keep(book, folder) for book in books]
    assert [file.name for file in files] == [
        "0001-genai-prices-9.0-from-2026-12-01.json",
        "0002-genai-prices-9.0-from-2026-12-03.json",
    ]
    assert kept_files(folder) == files
    assert sorted(folder.iterdir()) == files
    assert read_kept(folder) == books
    loaded = RateBook.load([], folder)
    assert loaded.id != plain.id
    published = RateBook.decode(loaded.encode())
    assert published.id == loaded.id
    assert len(loaded.encode()) < 100_000
    assert published.prices().explain("openai", "gpt-4o", at=AFTER).usd_per_mtok["input"] == Decimal("7.25")


def test_a_book_ends_with_a_newer_package(monkeypatch: pytest.MonkeyPatch, installed: PublishedBook) -> None:
    """Of a release that ships a newer one than was taken, its own prices apply."""
    module = "spendstream.core.pricing.published.installed_version"
    for now, applies in (("0.2.3", True), ("0.2.4", True), ("0.2.10", True), ("0.2.11", False), ("1.0", False)):
        monkeypatch.setattr(module, lambda _, now=now: now)
        assert replace(installed, version="0.2.10", over="0.2.3").applies is applies, now
        assert replace(installed, version="0.1.0", over="0.2.10").applies is applies, now
    monkeypatch.setattr(module, lambda _: "0.2.3")
    assert replace(installed, version="0.2.3+20261127", over="0.2.3").applies
    monkeypatch.setattr(module, lambda _: "0.2.4")
    assert not replace(installed, version="0.2.3+20261127", over="0.2.3").applies


PROVIDER = "providers = [Provider(id='a', name='A', api_pattern='x', models=[{}])]"
MODEL = "ModelInfo(id='m', match=ClauseEquals(equals='m'), prices=ModelPrice(input_mtok=Decimal('1')))"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "has no providers"),
        ("providers = []", "lists no model"),
        ("providers = 1", "not a list of providers"),
        ("providers = [", "never closed"),
        ("providers = [__import__('os').system('true')]", "line 1: not data: __import__"),
        ("providers = [open('x', 'w')]", "not data: open"),
        ("providers = [p for p in ()]", "not data"),
        ("providers = other", "not data: other"),
        ("providers = " + "[" * 5_000 + "]" * 5_000, "data.py"),
        (PROVIDER.format("ModelInfo('m')"), "not data: ModelInfo"),
        (PROVIDER.format("ModelInfo(**x)"), "not data: ModelInfo"),
        (PROVIDER.format("ModelInfo(id=1)"), "a has no list of models"),
        (PROVIDER.format("ModelInfo(id='m')"), "a m match"),
        (PROVIDER.format(f"{MODEL}, {MODEL}"), "lists a m twice"),
        (PROVIDER.format(MODEL.replace("ClauseEquals(equals='m')", "ClauseRegex(regex='(')")), "not a pattern: '\\('"),
        (PROVIDER.format(MODEL.replace("ModelPrice(", "ModelPrice(x=datetime.date(2026, 13, 1), ")), "month"),
    ],
)
def test_a_package_with_something_else_is_refused_and_not_run(tmp_path: Path, data: str, why: str) -> None:
    with pytest.raises(BookUnreadable, match=why):
        read_book(wheel(tmp_path, data), SINCE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither JSON, nor a wheel"),
        ("{}", "not a list of providers"),
        ("[1]", "not a list of providers"),
        ('[{"id": "a"}]', "a has no list of models"),
        ('[{"id": "a", "models": [{"id": "m"}]}]', "a name: Field required .*mistakes"),
        ("[" * 100_000, "neither JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(text)
    with pytest.raises(BookUnreadable, match=why):
        read_book(file, SINCE)


def test_another_package_and_a_broken_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BookUnreadable, match="not a package of genai-prices"):
        read_book(wheel(tmp_path, "providers = []", name="other"), SINCE)
    whole = wheel(tmp_path, DATA).read_bytes()
    at = whole.index(b"providers")
    (tmp_path / "broken.whl").write_bytes(whole[:at] + b"PROVIDERS" + whole[at + 9 :])
    with pytest.raises(BookUnreadable, match="can't be unpacked: Bad CRC"):
        read_book(tmp_path / "broken.whl", SINCE)


@pytest.mark.parametrize(
    ("price", "why"),
    [
        ({"input_mtok": "1", "telepathy_mtok": "2"}, "prices of an unknown kind: telepathy_mtok"),
        ({"input_mtok": "-1"}, "not a price: input_mtok -1"),
        ({"input_mtok": float("nan")}, "not a price: input_mtok NaN"),
        ({"input_mtok": {"base": "1", "tiers": [{"start": 1, "price": "much"}]}}, "not a price: input_mtok much"),
    ],
)
def test_a_model_with_prices_of_another_kind_keeps_the_price_before(
    tmp_path: Path, installed: PublishedBook, price: dict[str, Any], why: str
) -> None:
    """Half of a model's prices would be a wrong amount."""
    raw: Any = copy.deepcopy(list(installed.raw))
    model({p["id"]: p for p in raw}, "openai", "gpt-4o")["prices"] = price
    file = tmp_path / "data.json"
    file.write_text(json.dumps(raw))
    book, left_out = read_book(file, SINCE)
    assert left_out == (f"openai gpt-4o: {why}",)
    after = PriceBook(kept=[book]).explain("openai", "gpt-4o", at=AFTER)
    assert after.usd_per_mtok["input"] == Decimal("2.5")
    assert after.notes[0].startswith("estimated: ")


def test_a_kept_file_that_is_damaged_is_named(tmp_path: Path, installed: PublishedBook) -> None:
    file = keep(installed, tmp_path)
    for text in ("", "[]", '{"version": "1", "from": "soon", "over": "1", "providers": []}'):
        file.write_text(text)
        with pytest.raises(BookUnreadable, match=file.name):
            read_kept(tmp_path)


def test_midnight_begins_the_first_day(newer: Callable[..., PublishedBook]) -> None:
    prices = PublicPrices(RateTable(), kept=[newer(dearer)])
    timeline = prices.timeline(prices.names("openai", "gpt-4o"), "standard")
    assert timeline is not None
    start = midnight_us(SINCE)
    assert timeline.at(start - 1) != timeline.at(start) == timeline.at(start + 1)
