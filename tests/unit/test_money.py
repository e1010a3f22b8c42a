"""Money: exact between pico-dollars, text and decimal128, at every size that 64 bits hold."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.money import PUSD, pusd_from_text, usd_column, usd_text
from spendstream.schemas.priced import USD

PICO = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("pusd", "text"),
    [
        (36_000_000_000, "0.036"),
        (0, "0"),
        (1, "0.000000000001"),
        (-1, "-0.000000000001"),
        (PUSD, "1"),
        (10 * PUSD, "10"),
        (100 * PUSD + 10, "100.00000000001"),
        (2**63 - 1, "9223372.036854775807"),
    ],
)
def test_pico_dollars_are_written_as_decimal_dollars(pusd: int, text: str) -> None:
    assert usd_text(pusd) == text
    assert pusd_from_text(text) == pusd


@given(PICO)
def test_text_brings_every_amount_back(pusd: int) -> None:
    assert pusd_from_text(usd_text(pusd)) == pusd
    assert Decimal(usd_text(pusd)) * PUSD == pusd


@pytest.mark.parametrize("text", ["0.0000000000001", "1.5E-12"])
def test_an_amount_finer_than_a_pico_dollar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="finer than a pico-dollar"):
        pusd_from_text(text)


@given(st.lists(st.tuples(PICO, st.booleans()), max_size=40))
def test_a_column_holds_the_exact_amounts_and_null_where_unknown(rows: list[tuple[int, bool]]) -> None:
    amounts = np.array([pusd for pusd, _ in rows], dtype=np.int64)
    known = np.array([is_known for _, is_known in rows], dtype=np.bool_)
    column = usd_column(amounts, known)
    column.validate(full=True)
    assert column.type == USD
    assert column.to_pylist() == [Decimal(pusd).scaleb(-12) if is_known else None for pusd, is_known in rows]
    assert column.null_count == int((~known).sum())
    assert usd_column(amounts).null_count == 0
