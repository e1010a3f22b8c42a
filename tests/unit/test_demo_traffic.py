"""The demo's traffic: deterministic, valid where it says so, broken where it says so, and it counts itself."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from genai_prices import Usage, calc_price
from pydantic import ValidationError

import spendstream.demo
from spendstream.core.decode import decode
from spendstream.core.pricing import PriceBook, Unpriced
from spendstream.demo.calls import CONTEXT_LIMIT
from spendstream.demo.generator import Publication, Traffic
from spendstream.demo.scenario import (
    AURORA,
    BLOWUP_FACTOR,
    CUSTOMERS,
    FEATURES,
    OWN_LLAMA,
    PUBLICLY_PRICED,
    RUNAWAY_FACTOR,
    Feature,
    Incident,
    Kind,
    Model,
)
from spendstream.schemas.usage import UsageEvent

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY = datetime(2026, 11, 1, tzinfo=UTC)


def run(traffic: Traffic, seconds: int = 60, slice_s: float = 0.5) -> list[Publication]:
    """Return the publications of the first ``seconds``."""
    made: list[Publication] = []
    for step in range(1, int(seconds / slice_s) + 1):
        made += traffic.slice(START + timedelta(seconds=step * slice_s), slice_s)
    return made


def events(publications: Sequence[Publication]) -> list[UsageEvent]:
    return [UsageEvent.model_validate_json(p.value) for p in publications if p.kind in ("event", "late")]


@cache
def feature_events(name: str, incident: Kind | None = None, rate_per_s: float = 300) -> list[UsageEvent]:
    """Return a feature's events of a minute, all of it under an incident, or none."""
    incidents = [Incident(incident, name, START, 3_600)] if incident else []
    return [e for e in events(run(Traffic(5, rate_per_s, START, incidents))) if e.feature == name]


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(11, 500, START)


@pytest.fixture(scope="module")
def publications(traffic: Traffic) -> list[Publication]:
    return run(traffic, seconds=120)


@pytest.fixture(scope="module")
def made(publications: list[Publication]) -> list[UsageEvent]:
    return events(publications)


def test_the_same_seed_makes_the_same_bytes() -> None:
    assert run(Traffic(3, 100, START), 10) == run(Traffic(3, 100, START), 10)


def test_another_seed_makes_other_events() -> None:
    values = {p.value for p in run(Traffic(3, 100, START), 10)}
    assert values.isdisjoint(p.value for p in run(Traffic(4, 100, START), 10))


def test_every_event_is_valid_and_keyed_by_its_partition_key(publications: list[Publication]) -> None:
    for publication in publications:
        if publication.kind != "malformed":
            assert UsageEvent.model_validate_json(publication.value).partition_key == publication.key


def test_no_malformed_record_is_valid(publications: list[Publication]) -> None:
    broken = [p for p in publications if p.kind == "malformed"]
    assert len(broken) > 20
    for publication in broken:
        with pytest.raises(ValidationError):
            UsageEvent.model_validate_json(publication.value)


def test_a_duplicate_repeats_a_record_already_published_and_nothing_else_does(publications: list[Publication]) -> None:
    seen: set[bytes] = set()
    ids = set()
    for publication in publications:
        assert (publication.value in seen) == (publication.kind == "duplicate")
        seen.add(publication.value)
        if publication.kind in ("event", "late"):
            ids.add(UsageEvent.model_validate_json(publication.value).event_id)
    assert len(ids) == sum(p.kind in ("event", "late") for p in publications)


def test_the_traffic_counts_itself(traffic: Traffic, publications: list[Publication]) -> None:
    kinds = Counter(p.kind for p in publications)
    expected = traffic.expected
    assert traffic.published == len(publications) == expected.events + expected.duplicates + expected.malformed
    assert (expected.events, expected.malformed) == (kinds["event"] + kinds["late"], kinds["malformed"])
    assert expected.duplicates == kinds["duplicate"]


def test_the_rate_holds_with_retries_and_noise_inside_it(publications: list[Publication]) -> None:
    assert len(publications) == 120 * 500


def test_a_rate_below_one_a_slice_is_owed_until_it_is_due() -> None:
    assert len(run(Traffic(1, 3, START), 60, slice_s=0.1)) == pytest.approx(180, abs=1)


def test_noise_comes_in_the_shares_it_states(publications: list[Publication]) -> None:
    share = {kind: n / len(publications) for kind, n in Counter(p.kind for p in publications).items()}
    assert 0.006 < share["duplicate"] < 0.011
    assert 0.017 < share["late"] < 0.023
    assert 0.0005 < share["malformed"] < 0.0015


def test_some_events_are_seconds_late_and_a_few_beyond_ten_minutes() -> None:
    lateness_s = []
    traffic = Traffic(2, 500, START)
    for step in range(1, 61):
        now = START + timedelta(seconds=step)
        made = traffic.slice(now, 1)
        lateness_s += [(now - UsageEvent.model_validate_json(p.value).occurred_at).total_seconds()
                       for p in made if p.kind == "late"]  # fmt: skip
        assert all(
            (now - UsageEvent.model_validate_json(p.value).occurred_at).total_seconds() <= 1
            for p in made
            if p.kind == "event"
        )
    assert min(lateness_s) >= 2
    assert 0 < sum(late > 600 for late in lateness_s) < len(lateness_s) * 0.1
    assert sorted(lateness_s)[len(lateness_s) // 2] < 60


def test_nothing_occurs_after_the_slice_that_publishes_it() -> None:
    traffic = Traffic(2, 500, START)
    for step in range(1, 31):
        now = START + timedelta(seconds=step)
        assert all(e.occurred_at < now for e in events(traffic.slice(now, 1)))


def test_slices_may_leave_gaps_and_never_overlap() -> None:
    traffic = Traffic(1, 10, START)
    traffic.slice(START + timedelta(seconds=10), 1)
    for now, seconds in ((10.5, 1.0), (5.0, 1.0), (12.0, 0.0)):
        with pytest.raises(ValueError, match="begins before"):
            traffic.slice(START + timedelta(seconds=now), seconds)


def test_a_prompt_grows_with_the_conversation_until_it_is_summarised() -> None:
    chats: dict[str, list[int]] = {}
    for event in feature_events("code_agent"):
        if event.status == "ok":
            chats.setdefault(event.conversation_id or "", []).append(event.prompt_history_tokens or 0)
    turns = [pair for history in chats.values() for pair in pairwise(history)]
    grown = [earlier < later for earlier, later in turns]
    assert sum(grown) > 0.98 * len(grown)
    assert all(earlier > CONTEXT_LIMIT * 0.8 for earlier, later in turns if earlier >= later)
    assert max(earlier for earlier, _ in turns) < CONTEXT_LIMIT


def test_retries_of_a_task_come_later_with_the_next_attempt(made: list[UsageEvent]) -> None:
    failed = {(e.task_id, e.attempt) for e in made if e.status in ("error", "timeout", "rate_limited")}
    retries = [e for e in made if e.attempt > 1]
    assert len(retries) > 100
    # Its failed try may itself have been malformed, or late: nearly all are there.
    assert sum((e.task_id, e.attempt - 1) in failed for e in retries) > 0.98 * len(retries)


def test_all_that_the_scenario_has_shows_up(made: list[UsageEvent]) -> None:
    assert len({e.service for e in made}) == 8
    assert {e.feature for e in made} == {feature.name for feature in FEATURES}
    assert {e.provider for e in made} == {
        *("openai", "anthropic", "google", "aws", "mistral", "self-hosted", "nebula-labs"),
    }
    assert {e.service_tier for e in made} == {"standard", "batch", "flex", "priority"}
    assert {e.status for e in made} >= {"ok", "error", "timeout", "rate_limited"}
    assert all(e.gpu_seconds for e in made if e.deployment and e.status == "ok")
    for bucket in ("cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "input_audio", "input_image"):
        assert any(getattr(e, f"{bucket}_tokens") for e in made), bucket


def test_a_few_customers_make_half_of_the_calls(made: list[UsageEvent]) -> None:
    calls = Counter(e.customer for e in made)
    assert set(calls) <= set(CUSTOMERS)
    assert len(calls) > 250
    assert 0.4 < sum(n for _, n in calls.most_common(10)) / calls.total() < 0.6


@pytest.mark.parametrize("failing", [None, "fraud_screen", "deep_research"])
def test_only_the_preview_that_nobody_wrote_a_card_for_is_unpriced(failing: str | None) -> None:
    outage = [Incident("provider_outage", failing, START, 3_600)] if failing else []
    values = [p.value for p in run(Traffic(5, 1_000, START, outage), 30) if p.kind in ("event", "late")]
    calls = decode(values).calls.with_columns(priced_at_us=pl.coalesce("requested_at_us", "occurred_at_us"))
    priced = PriceBook.load([Path(spendstream.demo.__file__).with_name("rates.yaml")]).price(calls)
    reasons = zip(calls["model_served"], calls["provider"], priced.unpriced_reason.tolist(), strict=True)
    unpriced = {(model, provider, reason) for model, provider, reason in reasons if reason}
    assert unpriced == {(AURORA.served, AURORA.provider, Unpriced.UNKNOWN_MODEL)}


def price_usd(model: Model) -> float:
    usage = Usage(input_tokens=1_000_000, output_tokens=100_000)
    return float(calc_price(usage, model.served, provider_id=model.provider, genai_request_timestamp=DAY).total_price)


@pytest.mark.parametrize("model", PUBLICLY_PRICED, ids=lambda model: model.served)
def test_models_have_a_public_price(model: Model) -> None:
    assert price_usd(model) > 0


@pytest.mark.parametrize("model", [AURORA, OWN_LLAMA], ids=lambda model: model.served)
def test_the_preview_and_the_own_model_have_none(model: Model) -> None:
    with pytest.raises(LookupError):
        price_usd(model)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_the_dearer_model_is_dearer(feature: Feature) -> None:
    usual = [price_usd(model) for model, _ in feature.models if model in PUBLICLY_PRICED]
    dearest = max(usual, default=0.0)
    assert price_usd(feature.dearer) >= dearest
    assert price_usd(feature.dearer) > min(usual, default=0.0)


def test_a_runaway_loop_multiplies_the_calls_and_most_are_one_tasks() -> None:
    usual, running = feature_events("code_agent"), feature_events("code_agent", "runaway_loop")
    assert len(running) == pytest.approx(RUNAWAY_FACTOR * len(usual), rel=0.1)
    ((_, calls),) = Counter(e.task_id for e in running).most_common(1)
    assert calls > 0.8 * len(running)


def test_a_runaway_loop_shows_at_a_low_rate_too() -> None:
    incidents = [Incident("runaway_loop", "deep_research", START, 3_600)]
    looping = run(Traffic(5, 10, START, incidents), 60, slice_s=0.1)
    assert len(looping) > 600 + 30


def test_a_context_blowup_pastes_logs_into_the_prompt() -> None:
    usual, blown = feature_events("search_answer"), feature_events("search_answer", "context_blowup")
    assert not any(e.prompt_logging_tokens for e in usual)
    assert all(e.prompt_logging_tokens for e in blown if e.status == "ok")
    mean = [sum(e.input_tokens or 0 for e in made) / len(made) for made in (usual, blown)]
    assert mean[1] > BLOWUP_FACTOR * mean[0]


def test_a_dearer_model_answers_what_was_asked_of_another() -> None:
    made = feature_events("support_chat", "dearer_model")
    assert {e.model_served for e in made} == {"claude-opus-4-1-20250805"}
    assert {e.model_requested for e in made} == {"claude-sonnet-4-5", "claude-haiku-4-5"}


def test_a_dearer_model_from_outside_uses_no_own_gpus() -> None:
    made = feature_events("fraud_screen", "dearer_model", rate_per_s=100)
    assert {(e.provider, e.deployment, e.gpu_seconds) for e in made} == {("mistral", None, None)}


def test_with_the_cache_off_everything_is_uncached_input() -> None:
    usual, off = feature_events("support_chat"), feature_events("support_chat", "cache_off")
    assert sum(e.cache_read_tokens or 0 for e in usual) > sum(e.input_tokens or 0 for e in usual)
    assert not any(e.cache_read_tokens or e.cache_write_5m_tokens for e in off)
    assert sum(e.input_tokens or 0 for e in off) > 2 * sum(e.input_tokens or 0 for e in usual)


def test_a_provider_outage_fails_most_calls_and_brings_retries() -> None:
    usual, out = feature_events("search_answer"), feature_events("search_answer", "provider_outage")

    def share(made: list[UsageEvent], what: str) -> float:
        return sum(e.status != "ok" if what == "failed" else e.attempt > 1 for e in made) / len(made)

    assert share(usual, "failed") < 0.03 < 0.8 < share(out, "failed")
    assert share(usual, "retried") < 0.03 < 0.4 < share(out, "retried")


def test_an_incident_leaves_other_features_and_other_times_alone() -> None:
    incident = Incident("dearer_model", "support_chat", START + timedelta(seconds=20), 20)
    prompt = [p for p in run(Traffic(5, 200, START, [incident])) if p.kind == "event"]
    made = events(prompt)
    on = [e for e in made if incident.is_active(e.occurred_at)]
    dear = [e for e in made if e.model_served == "claude-opus-4-1-20250805"]
    assert {id(e) for e in dear} <= {id(e) for e in on}
    assert {e.feature for e in dear} == {"support_chat"}
    assert len(dear) == sum(e.feature == "support_chat" for e in on)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": "no_such"}, "No feature"),
        ({"starts_at": START.replace(tzinfo=None)}, "time zone"),
        ({"lasts_s": 0}, "positive"),
    ],
)
def test_an_incident_that_could_never_show_is_refused(change: dict[str, object], message: str) -> None:
    stated: dict[str, object] = {"kind": "cache_off", "feature": "support_chat", "starts_at": START, "lasts_s": 60}
    with pytest.raises(ValueError, match=message):
        Incident(**(stated | change))  # type: ignore[arg-type]
