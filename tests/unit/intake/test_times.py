"""Times in files become RFC 3339; one that could be read two ways is refused."""

import pytest

from spendstream.intake import time_reader


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2023-11-16 18:17:03.9799600", "2023-11-16T18:17:03.979960Z"),
        ("2023-11-16T18:17:03.979960123", "2023-11-16T18:17:03.979960Z"),
        ("2023-11-16 18:17:03,5", "2023-11-16T18:17:03.5Z"),
        ("2023-11-16 18:17", "2023-11-16T18:17:00Z"),
        ("2023-11-16T18:17:03Z", "2023-11-16T18:17:03Z"),
        ("2023-11-16 18:17:03 UTC", "2023-11-16T18:17:03Z"),
        ("2023-11-16 18:17:03 +0530", "2023-11-16T18:17:03+05:30"),
        ("2023-11-16T18:17:03-07", "2023-11-16T18:17:03-07:00"),
        ("2023-11-16T18:17:03+02:00", "2023-11-16T18:17:03+02:00"),
    ],
)
def test_iso_times_are_read_as_written(text: str, read: str) -> None:
    assert time_reader()(text) == read


@pytest.mark.parametrize(
    "text", ["2023-11-16", "16/11/2023 18:17", "18:17:03", "2023-11-16 18:17:03 CET", "now", "٢٠٢٣"]
)
def test_text_that_is_not_an_iso_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid time"):
        time_reader()(text)


def test_a_time_without_a_zone_is_refused_unless_utc_is_assumed() -> None:
    read = time_reader(assume_utc=False)
    assert read("2023-11-16T18:17:03Z") == "2023-11-16T18:17:03Z"
    with pytest.raises(ValueError, match="has no zone"):
        read("2023-11-16T18:17:03")


def test_a_bare_number_is_read_only_in_the_unit_that_was_stated() -> None:
    with pytest.raises(ValueError, match="give its unit"):
        time_reader()("1700158623")
    assert time_reader("epoch-s")("1700158623.5") == "2023-11-16T18:17:03.500000Z"
    assert time_reader("epoch-ms")("1700158623500") == "2023-11-16T18:17:03.500000Z"
    assert time_reader("epoch-us")("1700158623500000") == "2023-11-16T18:17:03.500000Z"


def test_milliseconds_given_as_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match="check the unit"):
        time_reader("epoch-s")("1700158623500")


def test_a_pattern_reads_local_forms() -> None:
    assert time_reader("%d/%m/%Y %H:%M")("16/11/2023 18:17") == "2023-11-16T18:17:00Z"
    assert time_reader("%d/%m/%Y %H:%M %z")("16/11/2023 18:17 +0100") == "2023-11-16T17:17:00Z"
    with pytest.raises(ValueError, match="does not fit"):
        time_reader("%d/%m/%Y %H:%M")("2023-11-16 18:17")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="epoch-ms"):
        time_reader("unix")
