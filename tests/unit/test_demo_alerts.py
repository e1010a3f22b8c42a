"""The demo's incidents and alerts: what is played, which alert tells of it, and how that is shown."""

import asyncio
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

from rich.console import Console

from spendstream.cli.demo import RATE_PER_S, WATCHES, DemoWatches
from spendstream.demo.generator import Traffic
from spendstream.demo.publisher import Publisher, PublisherStatus, read_status
from spendstream.demo.scenario import AURORA, STAGES, Incident, Player, Timeline
from spendstream.demo.snapshot import AlertLine, Snapshot, caught, unexplained
from spendstream.demo.view import incident_lines, incident_table, picture, transition_lines
from spendstream.settings import Settings
from spendstream.watches import read_watches

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LOOP = Incident("runaway_loop", "deep_research", NOW, 120)
OUTAGE = Incident("provider_outage", "campaign_copy", NOW, 120)
FIRING = AlertLine(
    alert_id="a",
    state="firing",
    severity="critical",
    watch="cost",
    facet="up",
    feature="deep_research",
    provider="",
    title="deep_research (team research): spend at $412.00/min, expected $20.00/min",
    last_title="deep_research (team research): spend at $412.00/min, expected $20.00/min",
    worst_title="deep_research (team research): spend at $999.00/min, expected $20.00/min",
    worst_reason="more calls: 4,900 a minute instead of 600",
    first_reason="more calls: 4,800 a minute instead of 600",
    reason="longer prompts: 90,000 input tokens a call instead of 20,000",
    contributor="model claude-opus-4-5",
    fired_at=NOW + timedelta(seconds=40),
    resolved_at=None,
)
BACK = "deep_research (team research): spend is back to $20.00/min"
OVER = replace(FIRING, state="resolved", last_title=BACK, resolved_at=NOW + timedelta(seconds=260))


def text_of(renderable: object, width: int = 130, height: int = 44) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


def test_every_kind_of_incident_is_played_in_turn_with_calm_between() -> None:
    played = list(islice(Timeline(lasts_s=120, calm_s=30).from_(NOW), 2 * len(STAGES)))
    assert [each.kind for each in played] == 2 * list(STAGES)
    assert {(after.starts_at - before.ends_at).total_seconds() for before, after in pairwise(played)} == {30}
    assert played[0].starts_at == NOW + timedelta(seconds=20)
    assert [each.lasts_s for each in played[: len(STAGES)]] == [60, 120, 120, 120, 120]


def test_one_kind_alone_is_played_once() -> None:
    (only,) = Timeline(only="cache_off").from_(NOW)
    assert (only.kind, only.feature) == ("cache_off", STAGES["cache_off"])


def test_an_incident_begins_once_and_not_before_its_time() -> None:
    player = Player(Timeline(first_after_s=20), NOW)
    assert player.begin(NOW + timedelta(seconds=19)) == []
    (begun,) = player.begin(NOW + timedelta(seconds=20))
    assert player.begin(NOW + timedelta(seconds=21)) == []
    assert player.begun == [begun]
    assert Player(None, NOW).begin(NOW + timedelta(days=1)) == []


def test_an_incident_that_befalls_the_traffic_later_alters_it_from_then_on() -> None:
    calm, troubled = Traffic(5, 500, NOW), Traffic(5, 500, NOW)
    second = timedelta(seconds=1)
    assert calm.slice(NOW + second, 1) == troubled.slice(NOW + second, 1)
    troubled.add_incident(Incident("context_blowup", "ticket_summary", NOW + second, 60))
    assert calm.slice(NOW + 2 * second, 1) != troubled.slice(NOW + 2 * second, 1)


def test_an_alert_tells_of_the_incident_of_its_feature_that_was_on() -> None:
    early = replace(FIRING, fired_at=NOW - timedelta(seconds=1))
    other = replace(FIRING, feature="support_chat")
    assert caught(LOOP, [early, other, FIRING]) == [FIRING]
    assert unexplained([early, other, FIRING], [LOOP]) == [early, other]


def test_an_alert_of_a_provider_tells_of_an_outage_of_a_feature_that_calls_it() -> None:
    failing = replace(FIRING, watch="provider-failures", feature="", provider="mistral")
    assert caught(OUTAGE, [failing, replace(failing, provider="google")]) == [failing]


def test_the_preview_without_a_price_needs_no_incident() -> None:
    unpriced = replace(FIRING, watch="unpriced-model", feature="", provider=AURORA.provider)
    assert unexplained([unpriced], []) == []
    assert "a model without a price" in text_of(incident_table([], [unpriced]))


def test_a_transition_is_told_once() -> None:
    before, fires, over = Snapshot(), Snapshot(alerts=(FIRING,)), Snapshot(alerts=(OVER,))
    (told,) = transition_lines(before, fires)
    assert "FIRING" in told
    assert FIRING.first_reason in told
    assert transition_lines(fires, fires) == []
    (ended,) = transition_lines(fires, over)
    assert "RESOLVED" in ended
    assert "after 3 m 40 s" in ended
    assert transition_lines(over, over) == []
    assert len(transition_lines(before, over)) == 2  # both between two looks


def test_the_traffic_says_when_an_incident_begins_and_ends() -> None:
    at = [NOW + timedelta(seconds=s) for s in (0, 3, 119, 121)]
    assert incident_lines((), [LOOP], at[0], at[1]) == ["  traffic: runaway_loop in deep_research begins"]
    assert incident_lines([LOOP], [LOOP], at[1], at[2]) == []
    assert incident_lines([LOOP], [LOOP], at[2], at[3]) == ["  traffic: runaway_loop in deep_research ends"]


def test_the_panel_shows_what_fires_and_why() -> None:
    shown = text_of(picture(Snapshot(alerts=(OVER, replace(FIRING, alert_id="b")), at=NOW + timedelta(seconds=100))))
    assert "1 firing, 1 resolved" in shown
    assert FIRING.title in shown
    assert FIRING.reason in shown
    assert "most by model claude-opus-4-5" in shown
    assert "for 1 m 00 s" in shown
    assert BACK in shown
    assert "over, 3 m 40 s" in shown


def test_the_panel_shows_what_fires_before_what_is_over() -> None:
    many = tuple(replace(OVER, alert_id=str(i), last_title=f"old {i}") for i in range(40))
    assert "● deep_research (team research): spend at $412.00" in text_of(
        picture(Snapshot(alerts=(FIRING, *many), at=NOW)), 80, 24
    )


def test_an_incident_that_nothing_told_of_is_called_so() -> None:
    shown = text_of(incident_table([LOOP, OUTAGE], [OVER]))
    assert "40 s" in shown
    assert "$999.00/min" in shown
    assert "provider_outage in campaign_copy  not caught" in shown
    assert "no incident" in text_of(incident_table([], [OVER]))


def test_watches_that_need_history_are_switched_on_later(tmp_path: Path) -> None:
    watches = DemoWatches(tmp_path / "watches.yaml", RATE_PER_S)
    early = read_watches(watches.path)
    assert {watch.rule.kind for watch in early.watches} == {"threshold", "budget"}
    assert len(early.watches) == 5
    watches.complete()
    assert read_watches(watches.path) == read_watches(WATCHES)


def test_the_budget_fits_the_rate(tmp_path: Path) -> None:
    (at_usual,), (at_twice,) = (
        [each.rule.amount_usd for each in read_watches(path).watches if each.rule.kind == "budget"]
        for path in (WATCHES, DemoWatches(tmp_path / "watches.yaml", 2 * RATE_PER_S).path)
    )
    assert at_twice == 2 * at_usual


class _Producer:
    """Takes records, and acknowledges them at once."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send(self, _topic: str, *, value: bytes, key: bytes | None) -> asyncio.Future[None]:
        del key
        self.values.append(value)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent


def test_the_past_is_published_in_the_order_of_its_times_and_counted(tmp_path: Path) -> None:
    async def run() -> None:
        start = datetime.now(UTC) - timedelta(seconds=30)
        producer, traffic = _Producer(), Traffic(1, 50, start)
        publisher = Publisher(Settings(), traffic, tmp_path / "status.json", asyncio.Event(), producer)
        reached = await publisher.history(start)
        assert datetime.now(UTC) - reached < timedelta(seconds=2)
        assert len(producer.values) == traffic.published >= 29 * 50
        publisher.report(PublisherStatus(history_s=None, incidents=(LOOP,), is_done=True))
        told = read_status(tmp_path / "status.json")
        assert (told.published, told.history_events) == (traffic.published, traffic.expected.events)
        assert told.incidents == (LOOP,)

    asyncio.run(run())
