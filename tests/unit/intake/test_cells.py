"""Cells as people and programs write them: thousands, dollars, float noise, and the many words for nothing."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.intake.cells import number, reader_of, time_reader

TIMES = time_reader()


def read(field: str, text: str) -> object:
    return reader_of(field, TIMES)(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024", 1024),
        ("1,024", 1024),
        ("12,345,678", 12_345_678),
        ("+7", 7),
        ("374.0", 374),
        ("1,024.00", 1024),
        ("1e3", 1000),
        ("2.5E+2", 250),
        ("-4", -4),  # the contract refuses it, and names the field
    ],
)
def test_a_count_is_read_with_thousands_and_exponents(text: str, count: int) -> None:
    assert read("input_tokens", text) == count


@pytest.mark.parametrize("text", ["null", "None", "NULL", "NaN", "nan", "N/A", "NA", "<NA>", "\\N", "-"])
def test_a_word_for_nothing_is_absent_and_not_zero(text: str) -> None:
    assert read("input_tokens", text) is None
    assert read("gpu_seconds", text) is None
    assert read("provider_cost", text) is None
    assert read("occurred_at", text) is None


@pytest.mark.parametrize(("text", "value"), [("null", None), ("None", None), ("NA", "NA"), ("-", "-"), ("nan", "nan")])
def test_text_keeps_words_that_may_be_names(text: str, value: str | None) -> None:
    """NA is North America as often as it is nothing."""
    assert read("region", text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5", "'1,5' is ambiguous: write decimals with a point"),
        ("1.024,5", "ambiguous"),
        ("12,34", "ambiguous"),
        ("1,0244", "ambiguous"),
        ("1_000", "is not a whole number; expected e.g. 1024"),
        ("1 024", "is not a whole number"),
        ("0x10", "is not a whole number"),
        ("1.5", "'1.5' is not a whole number"),
        ("$15", "is an amount of money"),
        ("15 USD", "is an amount of money"),
        ("٣", "is not a whole number"),
        ("1e300", "is not a whole number"),
    ],
)
def test_a_count_that_could_mean_two_things_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + message.replace("$", r"\$")):
        read("input_tokens", text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("$15.82", "15.82"),
        ("US$15.82", "15.82"),
        ("15.82 USD", "15.82"),
        ("$1,240.50", "1240.5"),
        ("-$3", "-3"),
        ("($1,234.50)", "-1234.5"),
        ("(7)", "-7"),
        ("8E-7", "0.0000008"),
        ("0.48312120000000003", "0.4831212"),
        ("416.69151125", "416.69151125"),
        ("0.0000000000005", "0"),  # half a pico-dollar, to even
        ("0.0000000000015", "0.000000000002"),
        ("0", "0"),
        ("100", "100"),
    ],
)
def test_an_amount_loses_its_sign_and_the_noise_of_floats(text: str, amount: str) -> None:
    assert read("provider_cost", text) == amount


@pytest.mark.parametrize("text", ["€15.82", "15.82 EUR", "$", "$x", "1,5", "free"])
def test_an_amount_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ambiguous|is not a number"):
        read("provider_cost", text)


@given(st.integers(-(10**17), 10**17))
def test_thousands_change_no_number(value: int) -> None:
    assert number(f"{value:,}") == number(str(value)) == value


@given(st.floats(0, 1e6))
def test_an_amount_is_within_half_a_pico_dollar_of_what_is_written(value: float) -> None:
    written = json.dumps(value)
    assert abs(Decimal(str(read("provider_cost", written))) - Decimal(written)) <= Decimal("5e-13")
