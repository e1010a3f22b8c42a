"""The world of the unit tests: a small price book, and makers of events and logs (see ``tests.unit.log``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spendstream.core.pricing import PriceBook
from tests.unit import log

Cards = Callable[[str], PriceBook]

CARDS = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2026-01-01
        source: test
        usd_per_mtok: {input: 3, cache_read: 0.3, cache_write: 3.75, output: 15}
        tiers:
          - {above_input_tokens: 1000, usd_per_mtok: {input: 6, output: 22.5}}
        service_tiers:
          batch: {multiplier: 0.5}
  - provider: acme
    model: acme-mini
    rates:
      - from: 2026-01-01
        until: 2026-03-04
        source: test
        usd_per_mtok: {input: 0.1, output: 0.4}
      - from: 2026-03-04
        source: test
        usd_per_mtok: {input: 0.15, output: 0.6}
"""


@pytest.fixture(scope="session")
def acme_book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    """Two models of one provider, with a tier, a batch price and a price that changes on 2026-03-04."""
    file = tmp_path_factory.mktemp("cards") / "acme.yaml"
    file.write_text(CARDS)
    return PriceBook.load([file])


@pytest.fixture
def make_usage_event() -> Callable[..., dict[str, Any]]:
    return log.make_usage_event


@pytest.fixture
def source_log() -> log.Log:
    return log.Log()


@pytest.fixture
def book_of_cards(tmp_path: Path) -> Cards:
    """Return a maker of price books with own cards from YAML text."""

    def make(text: str) -> PriceBook:
        file = tmp_path / "own.yaml"
        file.write_text(text)
        return PriceBook.load([file])

    return make
