"""A change of spend in parts: each single cause is found, named with true numbers, and the parts sum to the whole."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from spendstream.core.detect.attribution import Cube, attribute
from spendstream.core.detect.attribution.explain import figure, percent
from spendstream.schemas.alert import Attribution, Factor
from spendstream.schemas.measures import SUMS
from tests.unit.detect.cubes import DIMENSIONS, calls, cube, member

USUAL = {"input": 1_500, "cache_read": 2_400, "output": 300, "reasoning": 700}
GROUP = ("feature",)


def why(before: Cube, now: Cube, expected_usd: float | None = None) -> Attribution:
    return attribute(now, before, DIMENSIONS, GROUP, expected_usd)


def share(found: Attribution, factor: Factor) -> float:
    """Return a factor's share of the whole change."""
    change = found.observed_usd_per_minute - found.expected_usd_per_minute
    parts = {part.factor: part.change_usd_per_minute for part in found.parts}
    assert sum(parts.values()) == change
    return float(parts.get(factor, Decimal(0)) / change)


def main(found: Attribution) -> tuple[Factor, str]:
    return found.parts[0].factor, found.reason


def one(count: int, tokens: dict[str, int] = USUAL, *, times: float = 1, minutes: float = 1, **named: str) -> Cube:
    return cube((member(**named), calls(count, tokens, times=times)), minutes=minutes)


def test_eight_times_the_calls_are_volume_alone() -> None:
    found = why(one(51), one(412))
    assert main(found) == ("volume", "more calls: 412 a minute instead of 51")
    assert [part.factor for part in found.parts] == ["volume"]


def test_fewer_calls_are_volume_too() -> None:
    assert main(why(one(412), one(51))) == ("volume", "fewer calls: 51 a minute instead of 412")


def test_a_cube_of_several_minutes_counts_per_minute() -> None:
    found = why(one(510, minutes=10), one(206, minutes=0.5))
    assert main(found) == ("volume", "more calls: 412 a minute instead of 51")


def test_a_new_price_is_price_alone() -> None:
    found = why(one(100), one(100, times=1.2))
    assert main(found) == ("price", "price change: gpt-5 costs 20% more for the same tokens")
    assert share(found, "price") == 1


def test_a_lower_price_says_less() -> None:
    assert main(why(one(100), one(100, times=0.5)))[1] == "price change: gpt-5 costs 50% less for the same tokens"


def test_a_new_price_with_twice_the_calls_keeps_its_percentage() -> None:
    found = why(one(100), one(200, times=1.2))
    assert main(found)[0] == "volume"
    assert found.parts[1].words == "price change: gpt-5 costs 20% more for the same tokens"


def test_twice_the_reasoning_is_more_tokens_a_call_and_no_other_mix() -> None:
    found = why(one(100), one(100, {**USUAL, "reasoning": 1_400}))
    assert main(found) == ("tokens_per_call", "more reasoning: 1,400 reasoning tokens a call instead of 700")
    assert share(found, "tokens_per_call") > 0.999


def test_a_first_reasoning_at_a_new_price_is_reasoning_and_price_and_no_other_mix() -> None:
    found = why(one(100, {**USUAL, "reasoning": 0}), one(100, times=1.2))
    assert {part.factor for part in found.parts} == {"tokens_per_call", "price"}
    assert found.reason == "more reasoning: 700 reasoning tokens a call instead of 0"


def test_longer_answers_are_told_from_more_reasoning() -> None:
    found = why(one(100), one(100, {**USUAL, "output": 1_200, "reasoning": 750}))
    assert main(found) == ("tokens_per_call", "longer answers: 1,200 output tokens a call instead of 300")


def test_longer_prompts_that_no_cache_holds_are_no_missing_cache_hits() -> None:
    found = why(one(100), one(100, {**USUAL, "input": 16_000}))
    assert main(found) == ("tokens_per_call", "longer prompts: 18,400 input tokens a call instead of 3,900")
    assert share(found, "tokens_per_call") == 1


def test_longer_prompts_cached_in_the_old_proportion_are_longer_prompts() -> None:
    found = why(one(100), one(100, {**USUAL, "input": 3_000, "cache_read": 4_800}))
    assert share(found, "tokens_per_call") == 1


def test_shorter_prompts_say_so() -> None:
    found = why(one(100), one(100, {**USUAL, "input": 200, "cache_read": 320}))
    assert main(found) == ("tokens_per_call", "shorter prompts: 520 input tokens a call instead of 3,900")


def test_the_cache_turned_off_is_the_cache() -> None:
    found = why(one(100), one(100, {**USUAL, "input": 3_900, "cache_read": 0}))
    assert main(found) == ("cache", "fewer cache hits: 0% of input tokens read from cache instead of 62%")
    assert share(found, "cache") == 1


def test_a_first_cache_saves() -> None:
    found = why(one(100, {**USUAL, "input": 3_900, "cache_read": 0}), one(100))
    assert main(found) == ("cache", "more cache hits: 62% of input tokens read from cache instead of 0%")


def test_tokens_written_to_the_cache_and_not_read_are_the_cache() -> None:
    found = why(
        one(100, {"input": 4_000, "output": 10}), one(100, {"input": 400, "cache_write_5m": 3_600, "output": 10})
    )
    assert main(found) == ("cache", "more cache writes: 90% of input tokens written to it instead of 0%")


def test_priority_calls_are_the_tier() -> None:
    before = cube((member(), calls(95, USUAL)), (member(service_tier="priority"), calls(5, USUAL, times=2)))
    now = cube((member(), calls(20, USUAL)), (member(service_tier="priority"), calls(80, USUAL, times=2)))
    found = why(before, now)
    assert main(found) == ("tier", "more priority calls: 80% of calls instead of 5%")
    assert share(found, "tier") > 0.9999


def test_a_tier_never_seen_before_is_the_tier() -> None:
    found = why(one(100), one(100, times=2, service_tier="priority"))
    assert main(found) == ("tier", "more priority calls: 100% of calls instead of 0%")
    assert share(found, "tier") == 1


def test_batch_calls_save() -> None:
    found = why(one(100), one(100, times=0.5, service_tier="batch"))
    assert main(found) == ("tier", "more batch calls: 100% of calls instead of 0%")


def test_a_dearer_model_is_the_mix() -> None:
    now = cube((member(), calls(20, USUAL)), (member(model="gpt-5-pro"), calls(80, USUAL, times=12)))
    found = why(one(100), now)
    assert main(found) == ("model_mix", "dearer models: gpt-5-pro now 80% of calls, before 0%")
    assert share(found, "model_mix") == pytest.approx(1)


def test_a_cheaper_model_is_the_mix() -> None:
    found = why(one(100, times=12, model="gpt-5-pro"), one(100))
    assert main(found) == ("model_mix", "cheaper models: gpt-5 now 100% of calls, before 0%")


def test_a_model_replaced_while_the_calls_double_leaves_the_volume_its_part() -> None:
    found = why(one(100), one(200, times=2, model="gpt-5-pro"))
    assert share(found, "volume") == pytest.approx(0.5)
    assert share(found, "model_mix") == pytest.approx(0.5)


def test_a_model_without_a_price_is_not_called_cheap() -> None:
    now = cube((member(model="aurora"), calls(100, USUAL, times=0, unpriced_calls=100)))
    found = why(one(100), now)
    assert main(found) == ("model_mix", "models without a price: aurora now 100% of calls, before 0%")
    assert found.facts == ("100 calls a minute without a price instead of 0",)


def test_a_price_that_goes_missing_is_not_called_cheap() -> None:
    found = why(one(100), cube((member(), calls(100, USUAL, times=0, unpriced_calls=100))))
    assert main(found) == ("price", "prices missing: 100% of gpt-5 calls without a price instead of 0%")


def test_a_price_that_becomes_known_counts_before_the_tokens_of_a_bucket_that_is_new() -> None:
    free = one(100, {"cache_read": 2_400}, times=0)
    assert main(why(free, one(100, {"cache_read": 2_400, "cache_write_5m": 600})))[0] == "price"


def test_audio_in_place_of_text_is_the_bucket_mix() -> None:
    before = one(100, {"input": 1_000, "input_audio": 10, "output": 10})
    found = why(before, one(100, {"input": 500, "input_audio": 510, "output": 10}))
    assert main(found) == ("bucket_mix", "more audio input: 50% of input tokens instead of 1%")
    assert share(found, "bucket_mix") == pytest.approx(1)


def test_more_video_and_fewer_cached_images_are_named() -> None:
    tokens = {"input": 1_000, "input_image": 10, "cache_read_image": 1_000, "input_video": 10, "output": 10}
    before = one(100, tokens)
    found = why(before, one(100, {**tokens, "input": 500, "input_video": 510}))
    assert main(found)[1].startswith("more video input: 2")
    found = why(before, one(100, {**tokens, "input_image": 1_000, "cache_read_image": 10}))
    assert main(found)[0] == "cache"


def test_a_fee_per_call_follows_the_calls() -> None:
    tokens = {"input": 10}
    before = cube((member(), calls(10, tokens, fee=0.01)))
    assert share(why(before, cube((member(), calls(50, tokens, fee=0.01)))), "volume") == 1
    assert share(why(before, cube((member(), calls(10, tokens, fee=0.02)))), "price") == 1


def test_more_web_searches_a_call_are_named() -> None:
    def searching(searches: int) -> Cube:
        paid = searches * 10**10
        sums = calls(100, USUAL, web_searches=searches, cost_web_search_pusd=paid)
        sums[SUMS.index("cost_pusd")] += paid
        return cube((member(), sums))

    found = why(searching(20), searching(300))
    assert main(found) == ("tokens_per_call", "more web searches: 3 a call instead of 0.2")


def test_more_of_one_feature_is_volume_although_its_model_is_dearer() -> None:
    chat = (member(feature="chat", model="haiku"), calls(1_000, USUAL, times=0.2))
    before = cube(chat, (member(feature="agent", model="opus"), calls(10, {**USUAL, "input": 20_000}, times=5)))
    now = cube(chat, (member(feature="agent", model="opus"), calls(80, {**USUAL, "input": 20_000}, times=5)))
    found = attribute(now, before, DIMENSIONS, ())
    assert main(found) == ("volume", "more calls in agent: 80 a minute instead of 10")
    assert share(found, "volume") == 1


def test_calls_that_move_to_dearer_work_are_not_said_to_be_more() -> None:
    def split(chat: int, agent: int) -> Cube:
        return cube(
            (member(feature="chat"), calls(chat, USUAL, times=0.2)),
            (member(feature="agent"), calls(agent, USUAL, times=5)),
        )

    found = attribute(split(500, 500), split(900, 100), DIMENSIONS, ())
    assert main(found) == ("volume", "more calls in agent: 500 a minute instead of 100")


def test_failures_and_retries_are_facts_and_part_of_the_reason() -> None:
    before = cube((member(), calls(100, USUAL, failed_calls=1, retries=1)))
    now = cube((member(), calls(200, {name: n // 2 for name, n in USUAL.items()}, failed_calls=76, retries=82)))
    found = why(before, now)
    assert found.facts == ("38% of calls fail instead of 1%", "41% of calls are retries instead of 1%")
    told = {part.factor: part.words for part in found.parts}
    assert told["volume"] == "more calls: 200 a minute instead of 100, 41% of them retries"
    assert told["tokens_per_call"] == "calls cut short, 38% fail instead of 1%: 2,450 tokens a call instead of 4,900"


def test_the_spend_expected_at_this_hour_scales_the_usual_calls() -> None:
    found = why(one(100), one(200), expected_usd=2 * float(one(100).usd_per_minute()))
    assert found.parts == ()
    found = why(one(100), one(200, {**USUAL, "output": 900}), expected_usd=2 * float(one(100).usd_per_minute()))
    assert share(found, "tokens_per_call") == 1


def test_a_spend_expected_without_any_history_of_calls_says_so() -> None:
    found = why(cube(), one(100), expected_usd=0.5)
    assert main(found)[0] == "volume"
    assert "isn't known yet" in found.reason
    assert share(found, "volume") == 1


def test_nothing_expected_and_something_there_is_volume() -> None:
    assert main(why(cube(), one(100))) == ("volume", "more calls: 100 a minute instead of 0")
    assert main(why(one(100), one(100), expected_usd=0)) == ("volume", "more calls: 100 a minute instead of 0")


def test_all_calls_gone_is_volume() -> None:
    assert main(why(one(100), cube())) == ("volume", "fewer calls: 0 a minute instead of 100")


def test_nothing_on_either_side_has_no_reason() -> None:
    found = why(cube(), cube())
    assert (found.parts, found.reason, found.contributors, found.facts) == ((), "", (), ())


def test_without_a_model_dimension_no_mix_is_claimed() -> None:
    sums = calls(100, USUAL)
    found = attribute(
        Cube([("api",)], calls(100, USUAL, times=3)[None]), Cube([("api",)], sums[None]), ("service",), ("service",)
    )
    assert main(found) == ("price", "price change, or other models: 200% more for the same tokens")


def test_contributors_are_the_values_that_changed_most() -> None:
    usual = [(member(customer=f"c{n}"), calls(10, USUAL)) for n in range(9)]
    found = why(cube(*usual), cube(*usual[1:], (member(customer="c0"), calls(310, USUAL))))
    by_dimension = {name: [c for c in found.contributors if c.dimension == name] for name in DIMENSIONS}
    (customer,) = by_dimension["customer"]
    assert (customer.value, customer.share) == ("c0", 1)
    assert customer.change_usd_per_minute == found.observed_usd_per_minute - found.expected_usd_per_minute
    assert by_dimension["feature"] == []


def test_at_most_three_contributors_a_dimension_each_with_a_twentieth_of_the_change() -> None:
    grown = {"a": 40, "b": 30, "c": 20, "d": 10}
    found = why(cube(), cube(*((member(customer=name), calls(n, USUAL)) for name, n in grown.items())))
    assert [c.value for c in found.contributors if c.dimension == "customer"] == ["a", "b", "c"]
    grown = {"a": 96, "b": 4}
    found = why(cube(), cube(*((member(customer=name), calls(n, USUAL)) for name, n in grown.items())))
    assert [c.value for c in found.contributors if c.dimension == "customer"] == ["a"]


def test_a_cube_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Cube([], np.zeros((0, len(SUMS))), 0)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.00042, "0.00042"), (0.2, "0.2"), (3.42, "3.4"), (9.99, "10"), (51.2, "51"), (999.6, "1,000"),
     (18_432, "18,400"), (2e6, "2,000,000")],
)  # fmt: skip
def test_a_count_is_said_with_few_digits(value: float, said: str) -> None:
    assert figure(value) == said


@pytest.mark.parametrize(
    ("part", "said"), [(0, "0%"), (0.0002, "almost 0%"), (0.004, "0.4%"), (0.0096, "1%"), (0.62, "62%"), (2, "200%")]
)
def test_a_share_is_said_in_percent(part: float, said: str) -> None:
    assert percent(part) == said
