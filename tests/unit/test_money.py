"""Money: exact between pico-dollars, text and decimal128, at every size that 64 bits hold."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.money import PUSD, dollars, exact_dollars, pusd_from_text, usd_column, usd_text
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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "$0.00"),
        (-0.0, "$0.00"),
        (1e-15, "$0.0000000000000010"),
        (0.000004321, "$0.0000043"),
        (0.0042, "$0.0042"),
        (0.00996, "$0.010"),
        (0.0512, "$0.051"),
        (0.0994, "$0.099"),
        (0.0996, "$0.10"),
        (-41.2, "-$41.20"),
        (999.99, "$999.99"),
        (999.996, "$1,000"),
        (1240, "$1,240"),
        (1240.4, "$1,240"),
        (Decimal("1240.00"), "$1,240"),
        (Decimal("0.00996"), "$0.010"),
        (Decimal("92233720368547758.071"), "$92,233,720,368,547,758"),
        (float("nan"), "an unknown amount"),
        (Decimal("Infinity"), "an unknown amount"),
    ],
)
def test_dollars_are_short_and_never_vanish(value: Decimal | float, shown: str) -> None:
    assert dollars(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False) | PICO.map(lambda pusd: Decimal(usd_text(pusd))))
def test_what_dollars_show_is_within_a_twentieth_of_the_amount(value: Decimal | float) -> None:
    shown = Decimal(dollars(value).replace("$", "").replace(",", ""))
    assert abs(shown - Decimal(value)) <= abs(Decimal(value)) / 20


@pytest.mark.parametrize(
    ("value", "places", "shown"),
    [
        (Decimal("1234567.899"), 2, "$1,234,567.90"),
        (Decimal("0.01"), 2, "$0.01"),
        (Decimal("0.0099"), 2, "< $0.01"),
        (Decimal("0.0099"), 4, "$0.0099"),
        (Decimal("0.00009"), 4, "< $0.0001"),
        (Decimal("-0.0099"), 2, "> -$0.01"),
        (Decimal(0), 4, "$0.0000"),
    ],
)
def test_dollars_of_one_column_have_the_same_decimals(value: Decimal, places: int, shown: str) -> None:
    assert dollars(value, places) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("5000", "$5,000"),
        ("5000.00", "$5,000"),
        ("0.5", "$0.50"),
        ("1234.567", "$1,234.567"),
        ("1E-12", "$0.000000000001"),
        ("-0.036", "-$0.036"),
        ("0E-12", "$0"),
    ],
)
def test_exact_dollars_keep_every_digit(value: str, shown: str) -> None:
    assert exact_dollars(Decimal(value)) == shown


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
