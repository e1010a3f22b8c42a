from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendstream.core.detect.budget.calendar import Calendar, period_of
from spendstream.core.timestamps import epoch_us, from_epoch_us
from tests.unit.detect.spending import DAY, HOUR, MINUTE, at


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-11-01", "America/New_York", 25),
        ("2026-03-08", "America/New_York", 23),
        ("2018-11-04", "America/Sao_Paulo", 23),  # midnight does not exist
        ("2018-02-17", "America/Sao_Paulo", 25),  # its last hour exists twice
        ("2022-03-27", "Asia/Beirut", 23),  # midnight does not exist
        ("2021-11-07", "America/Havana", 25),  # midnight exists twice
        ("2026-06-01", "Asia/Kolkata", 24),
    ],
)
def test_a_day_has_as_many_hours_as_its_clocks_show(day: str, zone: str, hours: int) -> None:
    opened, closed = period_of(at(f"{day} 12:00", zone), "day", zone)
    assert closed - opened == hours * HOUR


def test_a_day_without_midnight_begins_with_its_first_instant() -> None:
    opened, _ = period_of(at("2018-11-04 12:00", "America/Sao_Paulo"), "day", "America/Sao_Paulo")
    assert from_epoch_us(opened).astimezone(ZoneInfo("America/Sao_Paulo")).hour == 1
    assert opened == at("2018-11-04 03:00")


def test_a_day_with_two_midnights_begins_with_the_first() -> None:
    opened, _ = period_of(at("2021-11-07 12:00", "America/Havana"), "day", "America/Havana")
    assert opened == at("2021-11-07 04:00")


def test_a_midnight_skipped_by_a_change_before_it_begins_with_the_change() -> None:
    opened, _ = period_of(at("1919-03-31 12:00", "America/Toronto"), "day", "America/Toronto")
    assert opened == at("1919-03-31 04:30")


def test_an_hour_before_midnight_that_comes_again_belongs_to_the_day_that_began() -> None:
    # St. John's set its clocks back from 00:01 to 23:01 of the day before.
    sunday = period_of(at("2006-10-29 12:00", "America/St_Johns"), "day", "America/St_Johns")
    again = at("2006-10-29 03:00")  # 23:30 on Saturday, for the second time
    assert period_of(again, "day", "America/St_Johns") == sunday


def test_months_of_a_clock_change_are_an_hour_shorter_or_longer() -> None:
    march = period_of(at("2026-03-15 00:00"), "month", "Europe/Berlin")
    october = period_of(at("2026-10-15 00:00"), "month", "Europe/Berlin")
    assert march == (at("2026-02-28 23:00"), at("2026-03-31 22:00"))
    assert march[1] - march[0] == 31 * DAY - HOUR
    assert october[1] - october[0] == 31 * DAY + HOUR


def test_a_week_begins_on_monday() -> None:
    opened, closed = period_of(at("2026-11-01 12:00", "America/New_York"), "week", "America/New_York")
    assert opened == at("2026-10-26 00:00", "America/New_York")
    assert closed == at("2026-11-02 00:00", "America/New_York")


def test_times_beyond_any_calendar_have_a_period() -> None:
    for time in (-(2**62), 2**62):
        opened, closed = period_of(time, "month", "Pacific/Auckland")
        assert opened < closed


ZONES = [
    "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Beirut", "America/Havana", "America/St_Johns",
    "Pacific/Apia", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Gaza", "UTC",
]  # fmt: skip
minutes = st.integers(epoch_us(datetime(1950, 1, 1, tzinfo=UTC)) // MINUTE, at("2035-01-01 00:00") // MINUTE)


@given(minute=minutes, zone=st.sampled_from(ZONES), period=st.sampled_from(["day", "week", "month"]))
def test_periods_join_and_contain_their_minute(minute: int, zone: str, period: str) -> None:
    opened, closed = period_of(minute * MINUTE, period, zone)  # type: ignore[arg-type]
    assert opened <= minute * MINUTE < closed
    assert period_of(opened, period, zone) == (opened, closed)  # type: ignore[arg-type]
    assert period_of(closed, period, zone)[0] == closed  # type: ignore[arg-type]
    assert period_of(opened - 1, period, zone)[1] == opened  # type: ignore[arg-type]
    shown = from_epoch_us(opened).astimezone(ZoneInfo(zone))
    before = from_epoch_us(opened - 1).astimezone(ZoneInfo(zone))
    assert before.date() < shown.date()
    assert timedelta(hours=21) < timedelta(microseconds=closed - opened) < timedelta(days=32)


@given(st.lists(minutes, max_size=40), st.sampled_from(ZONES), st.sampled_from(["day", "week", "month"]))
def test_many_minutes_at_once_have_the_periods_of_each(several: list[int], zone: str, period: str) -> None:
    calendar = Calendar(period, zone)  # type: ignore[arg-type]
    times = np.array(several, dtype=np.int64) * MINUTE
    expected = [period_of(time, period, zone)[0] for time in times.tolist()]  # type: ignore[arg-type]
    assert calendar.opens(times).tolist() == expected
    assert calendar.opens(times[::-1]).tolist() == expected[::-1]
