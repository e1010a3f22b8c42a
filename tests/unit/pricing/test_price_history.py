"""Prices of the past: what releases of the price book say of them, which of it is true, and what a call cost then."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data import providers

from spendstream.core.documents import DocumentError
from spendstream.core.pricing import PriceBook
from spendstream.core.pricing.history import History, packaged_history
from spendstream.price_history.__main__ import HISTORY, VERDICTS, _openrouter, _text
from spendstream.price_history.compare import (
    Release,
    Result,
    UnknownModel,
    Verdicts,
    find_differences,
    history_of,
    read_release,
    read_verdicts,
    release_of,
)
from spendstream.schemas.measures import ESTIMATED, EXACT
from tests.unit.pricing.conftest import call, frame

DAYS = (date(2025, 7, 11), date(2025, 11, 5), date(2026, 3, 20), date(2026, 10, 29))


def prices(inp: str, out: str = "8", **others: str) -> dict[str, Any]:
    return {f"{rate}_mtok": Decimal(price) for rate, price in {"input": inp, "output": out, **others}.items()}


def dated(start: date | None, inp: str, out: str = "8") -> dict[str, Any]:
    constraint = None if start is None else {"start_date": start}
    return {"constraint": constraint, "prices": prices(inp, out)}


def at_night(inp: str, start: str = "16:30", end: str = "00:30") -> dict[str, Any]:
    return {"constraint": {"start_time": start, "end_time": end}, "prices": prices(inp)}


def releases(*stated: Any, model: str = "m-1") -> list[Release]:
    """Return a release for each of the prices of one model, newest last; None: the model isn't listed."""
    made = []
    for number, price in enumerate(stated):
        models = [] if price is None else [{"id": model, "prices": price}]
        made.append(release_of([{"id": "acme", "models": models}], f"0.{number}", DAYS[number]))
    return made


def derive(made: list[Release], *verdicts: dict[str, Any], **sections: Any) -> Result:
    entries = [{"provider": "acme", "models": ["*"], "source": "a page", **verdict} for verdict in verdicts]
    return history_of(made, Verdicts.model_validate({"verdicts": entries, **sections}), {}, lambda key: None)


# --- what differs ---


def test_a_price_that_a_later_release_states_otherwise_is_a_difference() -> None:
    (found,) = find_differences(releases(prices("3"), prices("3"), prices("2")))
    assert str(found) == "acme m-1 input_mtok: 3 in 0.0 to 0.1 (2025-07-11 to 2025-11-05), now 2"
    assert found.before is None
    assert found.next.version == "0.2"


def test_equal_prices_written_otherwise_do_not_differ() -> None:
    assert not find_differences(releases(prices("3"), prices("3.00", cache_read="0.3")))


def test_a_change_that_the_newest_release_dates_is_no_difference() -> None:
    """A release after the change that still has the old price was late; it says nothing about the past."""
    change = [dated(None, "3"), dated(date(2025, 11, 1), "2")]
    assert not find_differences(releases(prices("3"), prices("3"), prices("2"), change))


def test_each_price_of_a_model_that_changed_twice_is_a_difference() -> None:
    found = find_differences(releases(prices("3"), prices("2"), prices("1")))
    assert [(d.stated[""], d.last.version) for d in found] == [("3", "0.0"), ("2", "0.1")]


def test_a_rate_that_the_newest_release_no_longer_has_is_a_difference() -> None:
    (found,) = find_differences(releases(prices("3", input_audio="5"), prices("3")))
    assert (found.rate, found.stated, found.today) == ("input_audio_mtok", {"": "5"}, {"": None})


def test_a_flat_price_differs_from_the_hours_that_are_dearer_now() -> None:
    (found,) = find_differences(releases(prices("3"), [dated(None, "3"), at_night("5")]))
    assert found.stated == {"16:30-00:30": "3"}
    assert found.slots == ("", "16:30-00:30")


def test_a_release_is_read_without_running_it(tmp_path: Path) -> None:
    wheel = tmp_path / "genai_prices-0.1-py3-none-any.whl"
    source = """
        import no_such_module
        providers: list = [Provider(id='acme', models=[
            ModelInfo(id='m-1', prices=ModelPrice(input_mtok=Decimal('3'), requests_kcount=None)),
            ModelInfo(id='m-2', prices=[
                ConditionalPrice(prices=ModelPrice(input_mtok=TieredPrices(
                    base=Decimal('1.250'), tiers=[Tier(start=200000, price=Decimal('2.5'))]))),
                ConditionalPrice(
                    constraint=TimeOfDateConstraint(
                        start_time=datetime.time(0, 30, tzinfo=datetime.UTC), end_time=datetime.time(16, 30)),
                    prices=ModelPrice(input_mtok=Decimal('4'))),
                ConditionalPrice(
                    constraint=StartDateConstraint(start_date=datetime.date(2025, 6, 10)),
                    prices=ModelPrice(input_mtok=Decimal('5'))),
            ]),
        ])]
    """
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("genai_prices/data.py", "\n".join(line[8:] for line in source.splitlines()))
    release = read_release(wheel, "0.1", DAYS[0])
    assert [entry.rates for entry in release.models["acme", "m-1"]] == [{"input_mtok": "3"}]
    tiered, daily, later = release.models["acme", "m-2"]
    assert tiered.rates == {"input_mtok": {"base": "1.25", "tiers": {"200000": "2.5"}}}
    assert (daily.slot, daily.rates) == ("00:30-16:30", {"input_mtok": "4"})
    assert (later.start, later.rates) == (date(2025, 6, 10), {"input_mtok": "5"})


# --- what verdicts make of it ---


def test_a_change_ends_on_the_day_that_its_source_states() -> None:
    result = derive(releases(prices("3"), prices("3"), prices("2")), {"verdict": "change", "on": "2025-12-01"})
    (period,) = result.document["periods"]
    assert period == {
        "provider": "acme",
        "model": "m-1",
        "until": "2025-12-01",
        "rates": {"": {"input_mtok": "3"}},
        "source": "a page",
    }
    assert result.counts == {"change": 1, "correction": 0, "unknown": 0}


def test_a_correction_leaves_today_s_price_to_the_past() -> None:
    result = derive(releases(prices("10", "40"), prices("2")), {"verdict": "correction"})
    assert result.document["periods"] == []
    assert result.counts["correction"] == 2


def test_an_unknown_change_is_between_the_last_release_that_had_the_price_and_the_next() -> None:
    result = derive(releases(prices("3"), prices("3"), prices("2")), {"verdict": "unknown"})
    (period,) = result.document["periods"]
    assert (period["certain_until"], period["until"]) == ("2025-11-05", "2026-03-20")


def test_days_on_which_the_price_was_seen_narrow_an_unknown_change() -> None:
    narrow = {"verdict": "unknown", "checked": "2025-07-05", "seen": "2025-10-31"}
    (period,) = derive(releases(prices("3"), prices("3"), prices("2")), narrow).document["periods"]
    assert (period["certain_until"], period["until"]) == ("2025-07-05", "2025-10-31")


def test_a_second_price_follows_the_first_without_a_gap() -> None:
    first, second = derive(
        releases(prices("3"), prices("2"), prices("1")),
        {"verdict": "change", "on": "2025-09-01", "last": "0.0"},
        {"verdict": "change", "on": "2026-01-01", "last": "0.1"},
    ).document["periods"]
    assert (first["until"], second["since"], second["until"]) == ("2025-09-01", "2025-09-01", "2026-01-01")


def test_a_price_between_two_of_today_s_starts_between_two_releases() -> None:
    """Nobody knows when a discount began that only one release saw."""
    result = derive(releases(prices("3"), prices("2"), prices("3")), {"verdict": "change", "on": "2026-01-01"})
    (period,) = result.document["periods"]
    assert (period["since"], period["certain_since"]) == ("2025-07-11", "2025-11-05")


def test_a_difference_without_a_verdict_is_reported_and_unknown() -> None:
    result = derive(releases(prices("3"), prices("2")))
    assert [d.rate for d in result.undecided] == ["input_mtok"]
    assert result.document["periods"][0]["certain_until"] == "2025-07-11"


def test_a_verdict_that_matches_nothing_is_reported() -> None:
    result = derive(releases(prices("3"), prices("3")), {"verdict": "correction"})
    assert len(result.unused) == 1


def test_a_model_is_listed_from_its_first_release_on_under_its_earlier_name_too() -> None:
    """``m-old`` is what calls of ``m-1`` were listed as."""
    made = [*releases(prices("3"), model="m-old"), *releases(None, prices("3"))[1:]]
    renamed = history_of(made, Verdicts(), {}, lambda key: ("acme", "m-1"))
    assert renamed.document["listed"] == {"2025-07-11": {"acme": ["m-1"]}}
    assert history_of(made, Verdicts(), {}, lambda key: None).document["listed"] == {"2025-11-05": {"acme": ["m-1"]}}


def test_the_same_releases_and_verdicts_give_the_same_document() -> None:
    made = releases(prices("3", "9"), [dated(None, "2"), at_night("1")], prices("2"))
    assert json.dumps(derive(made).document) == json.dumps(derive(made).document)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("verdict: change", "a change, and nothing else, needs `on`"),
        ("verdict: correction\n    on: 2025-01-01", "a change, and nothing else, needs `on`"),
        ("verdict: maybe", "unknown value maybe"),
    ],
)
def test_a_wrong_verdict_is_refused_with_its_line(tmp_path: Path, entry: str, complaint: str) -> None:
    file = tmp_path / "verdicts.yaml"
    file.write_text(f"verdicts:\n  - provider: acme\n    models: [m]\n    source: a page\n    {entry}\n")
    with pytest.raises(DocumentError, match=complaint):
        read_verdicts(file)


# --- a price list that was read every day ---


def test_a_seller_s_list_gives_each_day_on_which_a_price_changed(tmp_path: Path) -> None:
    """Two readings of one day are that day's last; a day on which nothing could be read, or all was free, is none."""
    model = "openai/gpt-4o"
    for at, answer in (
        ("2025-08-01T00:30", listing({model: ("0.000005", "0.00002", "0.0000025"), "acme/unlisted": ("1", "1", "1")})),
        ("2025-08-01T12:15", listing({model: ("0.000006", "0.00002", "0")})),
        ("2025-08-02T00:30", listing({model: ("0.000006", "0.00002", "0")})),
        ("2025-08-03T00:30", "Bad Gateway"),
        ("2025-08-04T00:30", listing({model: ("0", "0", "0"), f"{model}:free": ("0.000001", "0.000001", "0")})),
        ("2025-08-05T00:30", listing({model: ("0.0000025", "0.00001", "0.00000125")})),
    ):
        commit(tmp_path, at, answer)
    known = _openrouter(str(tmp_path))
    assert known["models"] == {model: [["2025-08-01", "6", "20", None], ["2025-08-05", "2.5", "10", "1.25"]]}
    assert (known["until"], known["rates"]) == ("2025-08-06", ["input_mtok", "output_mtok", "cache_read_mtok"])


def listing(prices: dict[str, tuple[str, str, str]]) -> str:
    names = ("prompt", "completion", "input_cache_read")
    return json.dumps({"data": [{"id": m, "pricing": dict(zip(names, p, strict=True))} for m, p in prices.items()]})


def commit(repository: Path, at: str, answer: str) -> None:
    file = repository / "data" / "output.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(answer)
    who = {f"GIT_{role}_{name}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_COMMITTER_DATE": f"{at}:00+0000", "GIT_AUTHOR_DATE": f"{at}:00+0000"}
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", at]):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True, env=environment)


def test_the_file_is_json_with_a_line_for_each_entry() -> None:
    document = json.loads(HISTORY.read_text("utf-8"))
    assert _text(document) == HISTORY.read_text("utf-8")
    assert max(map(len, HISTORY.read_text("utf-8").splitlines())) < 40_000


# --- what a call cost ---


@pytest.mark.parametrize(
    ("provider", "model", "tier", "day", "usd_per_mtok"),
    [
        # https://api-docs.deepseek.com/news/news250929: 50% off, effective immediately
        (
            "deepseek",
            "deepseek-chat",
            "standard",
            "2025-09-28",
            {"input": "0.56", "cache_read": "0.07", "output": "1.68"},
        ),
        (
            "deepseek",
            "deepseek-chat",
            "standard",
            "2025-09-29",
            {"input": "0.28", "cache_read": "0.028", "output": "0.42"},
        ),
        # https://api-docs.deepseek.com/quick_start/pricing: flat until 2026-08-16 16:00 UTC
        ("deepseek", "deepseek-v4-flash", "standard", "2026-08-16T02:00", {"input": "0.14", "output": "0.28"}),
        ("deepseek", "deepseek-v4-flash", "standard", "2026-08-17T02:00", {"input": "0.44", "output": "1.32"}),
        ("deepseek", "deepseek-v4-flash", "standard", "2026-08-17T05:00", {"input": "0.22", "output": "0.66"}),
        # the price book of the day: cached tokens at a quarter, later at a tenth
        ("google", "gemini-2.5-pro", "standard", "2025-07-31", {"input": "1.25", "cache_read": "0.31", "output": "10"}),
        (
            "google",
            "gemini-2.5-pro",
            "standard",
            "2025-10-31",
            {"input": "1.25", "cache_read": "0.125", "output": "10"},
        ),
        # a correction: OpenAI cut o3 on 2025-06-10, and OpenRouter with it; the book noticed a year later
        ("openrouter", "openai/o3", "standard", "2025-10-15", {"input": "2", "output": "8"}),
        # half the standard price since the launch of each batch API, which the book notes since 2026-10-14
        ("openai", "gpt-4o", "batch", "2024-04-15", {"input": "1.25", "output": "5"}),
        ("openai", "gpt-4o", "batch", "2024-04-14", {"input": "2.5", "output": "10"}),
        ("anthropic", "claude-sonnet-4-5", "batch", "2025-10-15", {"input": "1.5", "output": "7.5"}),
        # and half of what was standard then: OpenAI cut Terra by 20% on 2026-07-30
        ("openai", "gpt-5.6-terra", "batch", "2026-07-29", {"input": "1.25", "cache_read": "0.125", "output": "7.5"}),
        ("openai", "gpt-5.6-terra", "batch", "2026-07-30", {"input": "1", "cache_read": "0.1", "output": "6"}),
        # https://www.anthropic.com/news/message-batches-api: half, cached tokens too, of models retired since as well
        (
            "anthropic",
            "claude-3-7-sonnet",
            "batch",
            "2025-10-15",
            {"input": "1.5", "cache_read": "0.15", "output": "7.5"},
        ),
        ("anthropic", "claude-3-7-sonnet", "batch", "2026-10-14", {"input": "3", "cache_read": "0.3", "output": "15"}),
        # OpenAI's batch table has no price of cached tokens: they keep the standard one
        ("openai", "chatgpt-4o-latest", "batch", "2025-10-15", {"input": "2.5", "output": "7.5"}),
        # OpenRouter's own price list, day by day
        ("openrouter", "moonshotai/kimi-k2", "standard", "2025-07-15", {"input": "0.55", "output": "2.2"}),
        ("openrouter", "moonshotai/kimi-k2", "standard", "2025-07-16", {"input": "0.14", "output": "2.49"}),
    ],
)
def test_a_call_costs_what_its_day_s_price_list_says(
    public_book: PriceBook, provider: str, model: str, tier: str, day: str, usd_per_mtok: dict[str, str]
) -> None:
    shown = public_book.explain(provider, model, at=datetime.fromisoformat(day).replace(tzinfo=UTC), service_tier=tier)
    assert {bucket: shown.usd_per_mtok[bucket] for bucket in usd_per_mtok} == {
        bucket: Decimal(price) for bucket, price in usd_per_mtok.items()
    }


def history(**sections: Any) -> History:
    """Return a history of gpt-4o ($2.50 in, $10 out in the book) that was listed on 2025-07-31."""
    document = {
        "releases": {"0.1": "2026-11-10"},
        "checks": {},
        "periods": [],
        "tiers": [],
        "vouched": [],
        "series": {},
        "listed": {"2025-07-31": {"openai": ["gpt-4o"]}},
    }
    return History.of(document | sections)


def notes_at(day: str, known: History, provider: str = "openai", model: str = "gpt-4o") -> list[str]:
    shown = PriceBook(history=known).explain(provider, model, at=datetime.fromisoformat(day).replace(tzinfo=UTC))
    return [note for note in shown.notes if "estimated" in note]


def test_a_call_before_anything_vouches_for_its_price_is_estimated() -> None:
    """The book lists a model within weeks of its launch: its first listing vouches for 30 days before it."""
    assert notes_at("2025-07-01", history()) == []
    assert notes_at("2025-06-30", history()) == ["estimated: no source vouches for this price before 2025-07-01"]


def test_a_source_vouches_for_days_before_the_book() -> None:
    known = history(vouched=[{"provider": "openai", "model": "gpt-4o", "since": "2024-10-16", "source": "a page"}])
    assert notes_at("2024-10-16", known) == []
    assert notes_at("2024-10-15", known) == ["estimated: no source vouches for this price before 2024-10-16"]


def test_a_model_that_the_history_does_not_know_is_vouched_for_by_the_newest_release() -> None:
    assert notes_at("2026-10-11", history(), model="gpt-4.1") == []
    assert notes_at("2026-10-10", history(), model="gpt-4.1") != []


def test_a_call_between_two_checks_that_differ_takes_the_earlier_price_and_is_estimated() -> None:
    period = {
        "provider": "openai",
        "model": "gpt-4o",
        "certain_until": "2025-09-01",
        "until": "2025-10-01",
        "rates": {"": {"input_mtok": "3"}},
        "source": "a page",
    }
    book = PriceBook(history=history(periods=[period]))
    at = [datetime(2025, *day, tzinfo=UTC) for day in ((8, 31), (9, 1), (9, 30), (10, 1))]
    shown = [book.explain("openai", "gpt-4o", at=day) for day in at]
    assert [str(e.usd_per_mtok["input"]) for e in shown] == ["3", "3", "3", "2.5"]
    doubt = "estimated: the price changed between 2025-09-01 and 2025-10-01"
    assert [doubt in e.notes for e in shown] == [False, True, True, False]
    assert [e.card.reference for e in shown if e.card][:1] == ["a page"]
    assert len({e.card.id for e in shown if e.card}) == 2, "a card is the same card if it is in doubt"


def test_a_seller_s_other_rates_keep_their_proportion_to_its_input_and_output() -> None:
    listed = {"rates": ["input_mtok", "output_mtok"], "models": {"gpt-4o": [["2025-08-01", "5", "20"]]}}
    known = history(series={"openai": {"source": "a list", "until": "2025-10-01", **listed}})
    book = PriceBook(history=known)
    before, within, after = (
        book.explain("openai", "gpt-4o", at=datetime(2025, month, 1, tzinfo=UTC)).usd_per_mtok for month in (7, 8, 10)
    )
    assert (str(within["input"]), str(within["cache_read"]), str(within["output"])) == ("5", "2.5", "20")
    assert before == after


def test_a_rate_that_a_seller_did_not_state_is_the_one_that_contains_it() -> None:
    """Without a price of their own, cached tokens cost what input does."""
    rates = ["input_mtok", "output_mtok", "cache_read_mtok"]
    points = [["2025-08-01", "5", "20", None], ["2025-09-01", "5", "20", "1"]]
    series = {"source": "a list", "until": "2025-10-01", "rates": rates, "models": {"gpt-4o": points}}
    book = PriceBook(history=history(series={"openai": series}))
    shown = [book.explain("openai", "gpt-4o", at=datetime(2025, month, 1, tzinfo=UTC)) for month in (8, 9)]
    assert [str(e.usd_per_mtok["cache_read"]) for e in shown] == ["5", "1"]
    assert shown[0].priced_as["cache_read"] == "input"


def test_a_price_that_was_dated_by_the_day_of_a_check_may_have_changed_since_the_check_before(
    public_book: PriceBook,
) -> None:
    """OpenRouter's prices were read on 2026-10-20 and 2026-11-03; what the book dates 2026-11-03 changed in between."""
    known = packaged_history()
    seller = next(p for p in providers if p.id == "openrouter")
    model = next(
        m
        for m in seller.models
        if isinstance(m.prices, list)
        and [getattr(p.constraint, "start_date", None) for p in m.prices] == [None, date(2026, 11, 3)]
        and ("openrouter", m.id) in known.listed
        and known.listed["openrouter", m.id] < date(2026, 6, 1)
    )
    at = datetime(2026, 11, 2, 23, 59, tzinfo=UTC)
    estimated = "estimated: the price changed between 2026-10-20 and 2026-11-03"
    assert estimated in public_book.explain("openrouter", model.id, at=at).notes
    assert estimated not in public_book.explain("openrouter", model.id, at=at + timedelta(minutes=1)).notes


def test_most_calls_of_the_last_year_are_exact(public_book: PriceBook) -> None:
    """The mark means something: of the models that the book listed a year ago, few have a price in doubt."""
    at = datetime(2026, 2, 1, tzinfo=UTC)
    listed = [
        (provider, model)
        for (provider, model), day in packaged_history().listed.items()
        if day < date(2026, 1, 1) and provider != "openrouter"
    ]
    shown = [public_book.explain(provider, model, at=at) for provider, model in listed]
    doubtful = [e for e in shown if any("estimated" in note for note in e.notes)]
    assert len(doubtful) < len(shown) / 20


# --- the file in the package ---


def test_the_file_is_of_the_pinned_release_and_names_only_its_models() -> None:
    known = packaged_history()
    document = json.loads(files("spendstream.core.pricing").joinpath("history.json").read_text("utf-8"))
    assert list(document["releases"])[-1] == version("genai-prices")
    models = {(provider.id, model.id) for provider in providers for model in provider.models}
    assert {*known.periods, *known.series, *known.vouched} <= models
    assert {key for key in models if key not in known.listed} == {
        (p.id, m.id) for p in providers for m in p.models if not m.prices or m.prices == type(m.prices)()
    } - set(known.listed)


def test_every_period_is_open_for_at_least_a_day_and_has_a_source() -> None:
    for key, periods in packaged_history().periods.items():
        for period in periods:
            assert period.since is None or period.since < period.until, key
            assert period.source, key


def test_every_verdict_has_a_source() -> None:
    verdicts = read_verdicts(VERDICTS)
    assert len(verdicts.verdicts) > 30
    assert all(
        len(entry.source) > 15
        for entries in (verdicts.verdicts, verdicts.announced, verdicts.vouched, verdicts.tiers, verdicts.checks)
        for entry in entries
    )


def test_the_price_of_a_call_says_whether_it_is_estimated(public_book: PriceBook) -> None:
    """Gemini 2.5 Pro's 1,000 cached tokens: 1,000 x $0.31 a million, later 1,000 x $0.125; in between it is unsure."""
    at = [datetime(2025, *day, tzinfo=UTC) for day in ((7, 4), (7, 5), (10, 15), (10, 16))]
    rows = [call("gemini-2.5-pro", provider="google", at=day, cache_read=1_000) for day in at]
    priced = public_book.price(frame(*rows))
    assert priced.total_pusd.tolist() == [310_000_000, 310_000_000, 310_000_000, 125_000_000]
    assert priced.quality.tolist() == [EXACT, ESTIMATED, ESTIMATED, EXACT]
    doubt = "the price changed between 2025-07-05 and 2025-10-16"
    assert [priced.note_texts[note] for note in priced.notes] == ["", doubt, doubt, ""]
    assert [int(public_book.price(frame(row)).total_pusd[0]) for row in rows] == priced.total_pusd.tolist()


def test_a_call_that_uses_no_rate_in_doubt_is_exact(public_book: PriceBook) -> None:
    """Only the price of cached tokens changed on an unknown day; on Bedrock, only that of more than 200,000 tokens."""
    google = {"model": "gemini-2.5-pro", "provider": "google", "at": datetime(2025, 8, 15, tzinfo=UTC)}
    bedrock = {"model": "us.anthropic.claude-opus-4-6-v1:0", "provider": "aws", "at": datetime(2026, 5, 1, tzinfo=UTC)}
    rows = [
        call(**google, input=1_000, output=1_000),
        call(**google, input=1_000, output=1_000, cache_read=1),
        call(**bedrock, input=200_000, output=7),
        call(**bedrock, input=200_001, output=7),
        call(**bedrock, input=100_000, cache_read=100_001),
    ]
    priced = public_book.price(frame(*rows))
    assert priced.quality.tolist() == [EXACT, ESTIMATED, EXACT, ESTIMATED, ESTIMATED]
    assert [bool(note) for note in priced.notes] == [False, True, False, True, True]


def test_a_price_of_a_model_that_the_book_does_not_have_is_refused() -> None:
    for section in ("announced", "vouched"):
        entry = {"provider": "acme", "source": "a page", "until": "2025-01-01", "rates": {}, "models": ["m-0"]}
        if section == "vouched":
            entry = {"provider": "acme", "source": "a page", "models": {"m-0": "2025-01-01"}}
        with pytest.raises(UnknownModel, match="the newest release has no acme m-0"):
            derive(releases(prices("3")), **{section: [entry]})
