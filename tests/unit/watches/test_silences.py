"""Which silence or maintenance window suppresses an alert, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from spendstream.core.detect.lifecycle import Silences
from spendstream.schemas.alert import Silence
from spendstream.schemas.watch import Maintenance
from spendstream.watches.silences import decode, encode

TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
SEARCH = {"team": "search", "feature": "answer"}


def silence(silence_id: str = "3f2a9c01", watch: str | None = None, hours: float = 2, **group: str) -> Silence:
    return Silence(silence_id=silence_id, starts_at=TEN, ends_at=TEN + hours * HOUR, watch=watch, group=group)


def silences(*held: Silence) -> Silences:
    found = Silences()
    for each in held:
        found.put(each)
    return found


def test_a_silence_is_active_from_its_start_until_just_before_its_end() -> None:
    found = silences(silence())
    tick = timedelta(microseconds=1)
    held = [found.quiet("cost", SEARCH, at) for at in (TEN - tick, TEN, TEN + 2 * HOUR - tick, TEN + 2 * HOUR)]
    assert held == [None, "silence 3f2a9c01", "silence 3f2a9c01", None]


def test_a_silence_of_one_watch_does_not_silence_the_others() -> None:
    found = silences(silence(watch="cost"))
    assert found.quiet("cost", {}, TEN) == "silence 3f2a9c01"
    assert found.quiet("costs", {}, TEN) is None


@pytest.mark.parametrize(
    ("group", "is_quiet"),
    [
        ({"team": "search"}, True),
        ({"team": "search", "feature": "answer"}, True),
        ({"team": "search", "feature": "index"}, False),
        ({"team": "legal"}, False),
        ({"team": "search", "model": "gpt-5"}, False),  # the alert may be of another model
    ],
)
def test_every_dimension_of_a_silence_must_match(group: dict[str, str], is_quiet: bool) -> None:
    assert (silences(silence(**group)).quiet("cost", SEARCH, TEN) is not None) == is_quiet


def test_a_dimension_is_known_if_the_scope_of_the_watch_fixes_it() -> None:
    found = silences(silence(team="search"))
    group = {"feature": "answer"}
    assert found.quiet("cost", group, TEN, {"team": ("search",)}) is not None
    assert found.quiet("cost", group, TEN, {"team": ("search", "legal")}) is None
    assert found.quiet("cost", {"team": "legal"}, TEN, {"team": ("search",)}) is None


def test_a_newer_record_of_a_silence_replaces_it() -> None:
    found = silences(silence(), silence(hours=0.5))
    assert len(list(found)) == 1
    assert found.quiet("cost", SEARCH, TEN + HOUR) is None


def test_of_several_silences_the_one_that_ends_last_is_named() -> None:
    found = silences(silence("b", hours=3), silence("a", hours=2), silence("c", hours=1))
    assert found.quiet("cost", SEARCH, TEN) == "silence b"


def test_a_maintenance_window_applies_to_its_watches_and_scope() -> None:
    planned = Maintenance(
        name="reindex", starts_at=TEN, ends_at=TEN + HOUR, watches=("cost",), scope={"team": ("search", "legal")}
    )
    found = Silences([planned])
    assert found.quiet("cost", SEARCH, TEN) == "maintenance reindex"
    assert found.quiet("cost", {"team": "growth"}, TEN) is None
    assert found.quiet("cost", {}, TEN, {"team": ("legal", "search")}) == "maintenance reindex"
    assert found.quiet("cache", SEARCH, TEN) is None
    assert found.quiet("cost", SEARCH, TEN + HOUR) is None


def test_edited_watches_replace_the_maintenance_windows_and_keep_the_silences() -> None:
    found = Silences([Maintenance(name="reindex", starts_at=TEN, ends_at=TEN + HOUR)])
    found.put(silence(hours=0.5))
    assert found.quiet("cost", SEARCH, TEN) == "maintenance reindex"
    found.plan([])
    assert found.quiet("cost", SEARCH, TEN) == "silence 3f2a9c01"


def test_a_silence_is_decoded_from_its_record_and_anything_else_is_not() -> None:
    written = encode(silence(watch="cost", team="search"))
    assert (written.key, written.partition) == (b"3f2a9c01", 0)
    assert decode(written.value) == silence(watch="cost", team="search")
    assert decode(b"{}") is None
    assert decode(None) is None
