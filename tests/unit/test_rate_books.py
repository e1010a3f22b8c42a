"""What a rate book is, and when edited card files become one."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spendstream.agents.rate_books import CardFiles
from spendstream.core.pricing import PriceBook, RateCardError
from spendstream.core.pricing.cards import read_cards
from spendstream.core.pricing.published import PublishedBook, keep
from spendstream.core.pricing.rate_book import MAX_PLAIN_BYTES, RateBook, package_prices
from tests.unit.conftest import CARDS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "infra/rates/example.yaml"


def book_of(folder: Path, text: str, name: str = "own.yaml") -> RateBook:
    file = folder / name
    file.write_text(text)
    return RateBook.load([file])


def card(model: str, usd: str = "1") -> str:
    rates = f"[{{from: 2026-01-01, source: test, usd_per_mtok: {{input: {usd}}}}}]"
    return f"  - {{provider: acme, model: {model}, rates: {rates}}}\n"


def test_a_book_from_the_topic_prices_as_the_files_do() -> None:
    """Everything that a card can say: the example has it all."""
    published = RateBook.decode(RateBook.load([EXAMPLE, ROOT / "streams/spendstream/demo/rates.yaml"]).encode())
    own = PriceBook.load([EXAMPLE, ROOT / "streams/spendstream/demo/rates.yaml"])
    assert [c for c in published.prices().cards() if c.source != "genai-prices"] == [
        c for c in own.cards() if c.source != "genai-prices"
    ]
    assert published.cards == len(read_cards([EXAMPLE, ROOT / "streams/spendstream/demo/rates.yaml"]))
    assert published.is_of_this_release


def test_comments_layout_and_names_of_files_are_no_part_of_a_book(tmp_path: Path) -> None:
    one = book_of(tmp_path, "cards:\n" + card("a"))
    other = book_of(tmp_path, "# prices of March\n\ncards:\n\n" + card("a"), "renamed.yaml")
    assert one.id == other.id
    assert one.id == RateBook.decode(one.encode()).id


@pytest.mark.parametrize("text", ["cards:\n" + card("a", "1.01"), "cards:\n" + card("b"), ""])
def test_whatever_changes_a_price_is_another_book(tmp_path: Path, text: str) -> None:
    assert book_of(tmp_path, text).id != book_of(tmp_path, "cards:\n" + card("a")).id


def test_the_order_of_files_is_part_of_a_book(tmp_path: Path) -> None:
    """Of two globs that match a call as well as each other, the first one prices it."""
    files = []
    for name in ("a*", "*a"):
        files.append(tmp_path / f"{len(files)}.yaml")
        files[-1].write_text("cards:\n" + card(f'"{name}"'))
    assert RateBook.load(files).id != RateBook.load(files[::-1]).id


@pytest.mark.parametrize("name", ["spendstream", "genai-prices", "data"])
def test_a_book_of_another_release_is_known_as_such(name: str) -> None:
    former = RateBook([], {**package_prices(), name: "0"})
    assert not former.is_of_this_release
    assert former.id != RateBook.load().id


def test_a_megabyte_of_cards_fits_a_record(tmp_path: Path) -> None:
    small = book_of(tmp_path, CARDS)
    large = book_of(tmp_path, "cards:\n" + "".join(card(f"model-{number}") for number in range(1500)))
    assert small.encode().startswith(b"{")
    assert len(large.encode()) < MAX_PLAIN_BYTES
    assert RateBook.decode(large.encode()) == large


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\x1f\x8bnonsense", b"null", b"\xff"])
def test_something_else_is_no_book(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a rate book"):
        RateBook.decode(value)


@pytest.fixture
def edit(tmp_path: Path) -> Callable[[str], Path]:
    """Write the card file, each time a second later."""
    file = tmp_path / "own.yaml"
    times = iter(range(1_000, 2_000))

    def write(text: str) -> Path:
        file.write_text(text)
        at = next(times)
        os.utime(file, (at, at))
        return file

    return write


def test_an_edit_is_read_once_it_has_stayed_the_same_for_two_checks(edit: Callable[[str], Path]) -> None:
    """A file that is being written may be valid and half of it: its first card alone."""
    files = CardFiles([edit("cards:\n" + card("a"))])
    before = files.book
    edit("cards:\n" + card("a", "2"))
    assert not files.check()
    edit("cards:\n" + card("a", "2") + card("b"))
    assert not files.check()
    assert files.book is before
    assert files.check()
    assert files.book.cards == 2
    assert files.modified_ms == 1_002_000
    assert not files.check()


def test_mistakes_change_nothing_are_said_once_and_end_with_the_next_edit(edit: Callable[[str], Path]) -> None:
    path = edit("cards:\n" + card("a"))
    files = CardFiles([path])
    before = files.book
    edit("cards:\n" + card("a", "much"))
    with capture_logs() as said:
        checks = [files.check() for _ in range(4)]
    assert (checks, files.valid, files.book) == ([False] * 4, False, before)
    (problem,) = [event["problem"] for event in said if event["event"] == "rates.invalid"]
    assert problem.startswith(f"{path}:2:")
    edit("cards:\n" + card("a", "2"))
    assert [files.check() for _ in range(2)] == [False, True]
    assert files.valid


def test_a_file_that_disappears_changes_nothing(edit: Callable[[str], Path]) -> None:
    path = edit("cards:\n" + card("a"))
    files = CardFiles([path])
    path.unlink()
    assert [files.check() for _ in range(3)] == [False] * 3
    assert (files.valid, files.book.cards) == (False, 1)


def test_a_file_that_joins_a_folder_is_an_edit(tmp_path: Path) -> None:
    files = CardFiles([tmp_path])
    assert files.book.cards == 0
    (tmp_path / "own.yaml").write_text("cards:\n" + card("a"))
    assert [files.check() for _ in range(2)] == [False, True]


def test_a_worker_does_not_start_with_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("cards:\n" + card("a", "much"))
    with pytest.raises(RateCardError):
        CardFiles([file])


def test_a_price_book_that_is_taken_is_an_edit(tmp_path: Path) -> None:
    """Workers follow the folder, which need not exist when they start."""
    folder = tmp_path / "books"
    files = CardFiles([], folder)
    before = files.book
    assert [files.check() for _ in range(2)] == [False, False]
    prices = {"input_mtok": "3"}
    models = [{"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": prices}]
    raw = [{"id": "openai", "name": "OpenAI", "api_pattern": "x", "models": models}]
    taken = keep(PublishedBook("999", date(2026, 12, 1), "0", raw), folder)
    assert [files.check() for _ in range(3)] == [False, True, False]
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert files.book.prices().explain("openai", "gpt-4o", at=at).usd_per_mtok["input"] == 3
    taken.write_text("{")
    with capture_logs() as said:
        assert [files.check() for _ in range(3)] == [False] * 3
    assert not files.valid
    assert [taken.name in event["problem"] for event in said] == [True]
    taken.unlink()
    assert [files.check() for _ in range(2)] == [False, True]
    assert (files.valid, files.book.id) == (True, before.id)
