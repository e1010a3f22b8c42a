"""A wrong rate card is refused with file, line, column, and how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from spendstream.core.pricing import PriceBook, RateCardInvalid, RateCardUnreadable
from spendstream.schemas.rate_card import RateCards

HEAD = """\
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2026-01-01
        source: test
"""  # six lines


def write(tmp_path: Path, text: str, name: str = "cards.yaml") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("body", "line", "column", "says"),
    [
        ("        usd_per_mtok: {inptu: 3}\n", 7, 24, "did you mean input?"),
        ("        usd_per_mtok: {input: 3, video: 3}\n", 7, 34, "unknown bucket video"),
        ("        usd_per_mtok: {input: -3}\n", 7, 31, "can't be negative"),
        ("        usd_per_mtok: {input: 1e1}\n", 7, 31, "plain digits"),
        ("        usd_per_mtok: {input: .inf}\n", 7, 31, "plain digits"),
        ("        usd_per_mtok: {input: 0.0000000000000000001}\n", 7, 31, "at most 18 decimals"),
        ("        usd_per_mtok: {input: 10000.01}\n", 7, 31, "check the unit"),
        ("        usd_per_mtok: {}\n", 7, 23, "add at least one"),
        ("        usd_per_mtok: {input: 3}\n        usd_per_mtoken: {}\n", 8, 25, "unknown field"),
        ("        usd_per_request: 1\n", 5, 9, "usd_per_mtok: missing field"),
        ("        usd_per_mtok: {input: 3, cache_write_1h: 6}\n", 7, 23, "add cache_write"),
        ("        usd_per_mtok: {cache_read: 3, input_audio: 6}\n", 7, 23, "add cache_read_audio"),
        (
            "        usd_per_mtok: {input: 3}\n        tiers:\n"
            "          - {above_input_tokens: 9, usd_per_mtok: {output: 1}}\n",
            9,
            60,
            "output has no rate below this tier",
        ),
        (
            "        usd_per_mtok: {input: 3}\n        tiers:\n"
            "          - {above_input_tokens: 9, usd_per_mtok: {input: 1}}\n"
            "          - {above_input_tokens: 9, usd_per_mtok: {input: 2}}\n",
            10,
            34,
            "tiers must rise",
        ),
        (
            "        usd_per_mtok: {input: 101}\n        service_tiers: {batch: {multiplier: 100}}\n",
            8,
            45,
            "give usd_per_mtok",
        ),
        ("        usd_per_mtok: {input: 1}\n        service_tiers: {batch: {}}\n", 8, 32, "either a multiplier"),
        ("        usd_per_mtok: {input: 1}\n        service_tiers: {bulk: {multiplier: 1}}\n", 8, 25, "batch"),
        ("        usd_per_mtok: {input: 1}\n        until: 2026-01-01\n", 8, 16, "until must be later than from"),
        (
            "        usd_per_mtok: {input: 1}\n      - {from: 2026-01-01, source: t, usd_per_mtok: {input: 2}}\n",
            8,
            16,
            "oldest first",
        ),
        (
            "        usd_per_mtok: {input: 1}\n        until: 2026-03-01\n"
            "      - {from: 2026-02-01, source: t, usd_per_mtok: {input: 2}}\n",
            8,
            16,
            "overlaps the entry from 2026-02-01",
        ),
        ("        usd_per_mtok: {input: 3, input: 4}\n", 7, 34, "already set on line 7"),
        ("        discount_percent: 101\n", 7, 27, "more than 100 percent"),
        ("        discount_percent: 15\n        multiplier: 0.85\n", 8, 21, "either discount_percent or multiplier"),
        ("        multiplier: 2\n        usd_per_mtok: {input: 1}\n", 8, 23, "state the card's service_tier"),
        (
            "        multiplier: 2\n        tiers: [{above_input_tokens: 1, usd_per_request: 1}]\n",
            8,
            16,
            "remove tiers",
        ),
        ("        usd_per_mtok: {input: 1}\n        buckets: [input]\n", 8, 18, "only for discount_percent"),
        ("        multiplier: 2\n        buckets: [tokens]\n", 8, 19, "unknown bucket tokens: one of input"),
        ("        usd_per_unit: {page: 1}\n", 7, 24, "did you mean pages?"),
        ("        usd_per_unit: {web_searches: 1}\n", 7, 24, "usd_per_web_search"),
        ("        usd_per_unit: {}\n", 7, 23, "add at least one"),
        ("        usd_per_unit: {pages: 1, document_pages: 2}\n", 7, 34, "another name of pages"),
        (
            "        usd_per_mtok: {input: 1}\n        hours: [{weekdays: [monday], multiplier: 2}]\n",
            8,
            29,
            "did you mean mon?",
        ),
        ("        usd_per_mtok: {input: 1}\n        hours: [{from: 25:00, multiplier: 2}]\n", 8, 24, "e.g. 06:30"),
        (
            '        usd_per_mtok: {input: 1}\n        hours: [{from: "01:00", until: "01:00", multiplier: 2}]\n',
            8,
            40,
            "no time at all",
        ),
        (
            "        usd_per_mtok: {input: 1}\n        hours:\n          - {weekdays: [sun], from: 22:00, until: 02:00,"
            " multiplier: 2}\n          - {weekdays: [mon], until: 02:01, multiplier: 3}\n",
            10,
            13,
            "overlaps the hours of number 1",
        ),
        (
            "        usd_per_mtok: {input: 1}\n        hours: [{usd_per_mtok: {output: 2}}]\n",
            8,
            41,
            "output has no rate at other hours",
        ),
        (
            "        usd_per_mtok: {input: 101}\n        hours: [{multiplier: 100}]\n",
            8,
            30,
            "input would cost 10100 USD per million tokens",
        ),
        (
            "        usd_per_mtok: {input: 1}\n        tiers: [{above_input_tokens: 1}]\n",
            8,
            17,
            "add at least one",
        ),
    ],
)
def test_a_wrong_card_is_refused_where_it_is_wrong(
    tmp_path: Path, body: str, line: int, column: int, says: str
) -> None:
    file = write(tmp_path, HEAD + body)
    with pytest.raises(RateCardInvalid) as refused:
        PriceBook.load([file])
    assert [(i.file, i.line, i.column) for i in refused.value.issues] == [(file, line, column)]
    assert says in refused.value.issues[0].message
    assert str(refused.value).startswith(f"{file}:{line}:{column}: ")


def test_all_issues_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, HEAD + "        usd_per_mtok: {input: -1, output: x}\n", "a.yaml")
    second = write(tmp_path, HEAD.replace("2026-01-01", "01/01/2026") + "        usd_per_mtok: {input: 1}\n", "b.yaml")
    with pytest.raises(RateCardInvalid) as refused:
        PriceBook.load([tmp_path])
    assert [(i.file, i.line) for i in refused.value.issues] == [(first, 7), (first, 7), (second, 5)]
    assert "write the UTC day, e.g. 2026-01-31" in refused.value.issues[2].message


def test_two_cards_for_the_same_calls_are_refused_even_in_two_files(tmp_path: Path) -> None:
    text = HEAD + "        usd_per_mtok: {input: 1}\n"
    write(tmp_path, text, "a.yaml")
    write(tmp_path, text.replace("acme-1", "ACME-1"), "b.yaml")
    with pytest.raises(RateCardInvalid, match=r"b\.yaml:2:5: the same calls are priced in .*a\.yaml:2"):
        PriceBook.load([tmp_path])
    write(tmp_path, text.replace("model: acme-1", "model: acme-1\n    kind: contract"), "b.yaml")
    PriceBook.load([tmp_path])


@pytest.mark.parametrize(("one", "other"), [("x_ai", "x-ai"), ("Grok", "x-ai"), ("gcp.gen_ai", "google")])
def test_two_cards_contradict_each_other_under_other_names_of_the_provider(
    tmp_path: Path, one: str, other: str
) -> None:
    text = HEAD + "        usd_per_mtok: {input: 1}\n"
    write(tmp_path, text.replace("provider: acme", f"provider: {one}"), "a.yaml")
    write(tmp_path, text.replace("provider: acme", f"provider: {other}"), "b.yaml")
    with pytest.raises(RateCardInvalid, match=r"b\.yaml:2:5: the same calls are priced in .*a\.yaml:2"):
        PriceBook.load([tmp_path])


def test_cards_for_prepaid_capacity_and_for_a_place_are_cards_of_their_own(tmp_path: Path) -> None:
    text = HEAD + "        usd_per_mtok: {input: 1}\n"
    write(tmp_path, text, "a.yaml")
    for more in ("capacity: provisioned", "inference_geo: us", "region: us-*"):
        write(tmp_path, text.replace("model: acme-1", f"model: acme-1\n    {more}"), "b.yaml")
        PriceBook.load([tmp_path])


ADJUSTED = "adjustments:\n  - {provider: x-ai, model: m, region: eu, from: 2026-01-01, multiplier: 1.1, source: t}\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        (ADJUSTED.replace(" region: eu,", ""), 2, 5, "either a region or an inference_geo"),
        (ADJUSTED.replace("region: eu", "region: eu, inference_geo: eu"), 2, 5, "either a region or an inference_geo"),
        (ADJUSTED.replace(" source: t", " until: 2026-01-01"), 2, 5, "missing field"),
        (ADJUSTED.replace("source", "until: 2026-01-01, source"), 2, 86, "until must be later than from"),
        (ADJUSTED.replace("source", "buckets: [web_searches], source"), 2, 89, "did you mean web_search?"),
        (ADJUSTED + ADJUSTED.partition("\n")[2].replace("x-ai", "X_AI"), 3, 5, "end one of them with until"),
    ],
)
def test_a_wrong_adjustment_is_refused_where_it_is_wrong(
    tmp_path: Path, text: str, line: int, column: int, says: str
) -> None:
    with pytest.raises(RateCardInvalid) as refused:
        PriceBook.load([write(tmp_path, text)])
    (issue, *_) = refused.value.issues
    assert (issue.line, issue.column) == (line, column)
    assert says in issue.message


def test_adjustments_may_follow_each_other(tmp_path: Path) -> None:
    later = ADJUSTED.partition("\n")[2].replace("2026-01-01", "2026-02-01")
    PriceBook.load([write(tmp_path, ADJUSTED.replace("source", "until: 2026-02-01, source") + later)])


def test_a_deployment_is_billed_one_way(tmp_path: Path) -> None:
    text = HEAD.replace("model: acme-1", "model: acme-1\n    deployment: mine") + "        usd_per_mtok: {input: 1}\n"
    gpus = (
        "deployments:\n  - {deployment: mine, gpus: 1, rates: [{from: 2026-01-01, source: t, usd_per_gpu_hour: 1}]}\n"
    )
    with pytest.raises(RateCardInvalid, match="billed one way"):
        PriceBook.load([write(tmp_path, text + gpus)])


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("cards: [1, 2\nmore: 3", 2, 5), ("cards:\n\t- x", 2, 1), ("cards: \x00", 1, 1), ("a: 1\n---\nb: 2", 2, 1)],
)
def test_a_file_that_is_not_yaml_is_refused_where_it_breaks(tmp_path: Path, text: str, line: int, column: int) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RateCardUnreadable) as refused:
        PriceBook.load([file])
    assert [(i.line, i.column) for i in refused.value.issues] == [(line, column)]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RateCardUnreadable, match="can't be read"):
        PriceBook.load([tmp_path / "none.yaml"])


def test_an_alias_that_contains_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RateCardInvalid, match="alias"):
        PriceBook.load([write(tmp_path, "cards: &a [*a]\n")])


def test_an_amount_never_passes_through_a_float(tmp_path: Path) -> None:
    """0.1 + 0.2 in floats is not 0.3; and 0.07 x 10^6 is 70,000.00000000001."""
    book = PriceBook.load([write(tmp_path, HEAD + "        usd_per_mtok: {input: 0.07, output: 0.000001}\n")])
    assert book.cards()[0].model == "acme-1"
    entry = {"from": "2026-01-01", "source": "t", "usd_per_mtok": {"input": 0.07}}
    with pytest.raises(ValidationError, match="a float is not exact"):
        RateCards.model_validate({"cards": [{"provider": "a", "model": "b", "rates": [entry]}]})


def test_an_empty_file_has_no_cards(tmp_path: Path) -> None:
    PriceBook.load([write(tmp_path, "# nothing yet\n")])
