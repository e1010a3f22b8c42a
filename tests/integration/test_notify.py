"""From the alert topic to receivers: each transition at least once, to each receiver independently, whatever fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError

from spendstream.embedded.broker import EmbeddedBroker
from spendstream.notifiers import messenger_of
from spendstream.notifiers.alertmanager import RECALL_S
from spendstream.notifiers.base import Messenger
from spendstream.notifiers.webhook import IDEMPOTENCY_KEY
from spendstream.schemas.alert import Alert
from spendstream.schemas.watch import Notifier
from spendstream.waiting import Backoff
from tests.integration.notify_world import World, ids, of_groups, sent_ids
from tests.unit.notifiers.make import make_alert, make_notifier, receiver, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

LONG_AGO_MS = 2 * 3600 * 1000


@pytest.fixture(params=["real_kafka", "embedded_broker"])
async def world(request: pytest.FixtureRequest) -> World:
    return await World(request.getfixturevalue(request.param).bootstrap).create()


@pytest.fixture
async def small_world(embedded_broker: EmbeddedBroker) -> World:
    return await World(embedded_broker.bootstrap).create()


async def test_an_alert_is_sent_and_then_committed(world: World) -> None:
    alert = make_alert()
    async with receiver() as hook, world.notifying(make_notifier(hook.url)):
        await world.publish(alert)
        await hook.count(1)
        await world.until_committed("hook", 1)
    assert sent_ids(hook) == [ids(alert)]
    assert world.count("sent", notifier="hook") == 1


async def test_failures_are_retried_as_the_same_notification_and_committed_only_after_success(world: World) -> None:
    alert = make_alert()
    async with (
        receiver(answers=[500, "reset", "hang", 429], always=503) as hook,
        world.notifying(make_notifier(hook.url, timeout=1)),
    ):
        await world.publish(alert)
        await hook.count(6)
        assert await world.committed_records("hook") == 0
        hook.always = 200
        await world.until_committed("hook", 1)
    assert len({request.headers[IDEMPOTENCY_KEY] for request in hook.requests}) == 1
    assert len({request.body for request in hook.requests}) == 1
    assert world.count("failed", notifier="hook") == len(hook.requests) - 1
    assert world.count("sent", notifier="hook") == 1


async def test_a_dead_notifier_delays_only_itself(world: World) -> None:
    alerts = of_groups(5)
    async with receiver(always=503) as dead, receiver() as alive:
        notifiers = make_notifier(dead.url, name="dead"), make_notifier(alive.url, name="alive")
        async with world.notifying(*notifiers):
            for number, alert in enumerate(alerts, 1):
                await world.publish(alert.model_copy(update={"notifiers": ("dead", "alive")}))
                await until(lambda number=number: sum(map(len, sent_ids(alive))) == number)  # type: ignore[misc]
            await world.until_committed("alive", 5)
            await dead.count(3)
            assert await world.committed_records("dead") == 0
    assert world.count("sent", notifier="dead") == 0


@pytest.mark.parametrize("status", [400, 404])
async def test_a_refused_transition_is_dropped_and_the_next_is_sent(small_world: World, status: int) -> None:
    first, second = make_alert(1), make_alert(2, "updated")
    async with receiver(answers=[status]) as hook, small_world.notifying(make_notifier(hook.url)):
        await small_world.publish(first)
        await small_world.until_committed("hook", 1)
        await small_world.publish(second)
        await small_world.until_committed("hook", 2)
    assert sent_ids(hook) == [ids(first), ids(second)]
    assert small_world.count("dropped", notifier="hook", outcome="refused") == 1


async def test_a_new_notifier_sends_nothing_old_and_misses_nothing_while_no_worker_runs(world: World) -> None:
    old, while_away = of_groups(2)
    await world.publish(old)
    async with receiver() as hook:
        async with world.notifying(make_notifier(hook.url)):
            pass
        await world.publish(while_away)
        async with world.notifying(make_notifier(hook.url)):
            await hook.count(1)
            await world.until_committed("hook", 2)
    assert sent_ids(hook) == [ids(while_away)]


async def test_a_kill_between_delivery_and_commit_sends_the_same_ids_again(world: World) -> None:
    class NeverCommits(AIOKafkaConsumer):  # type: ignore[misc]
        async def commit(self, offsets: Any = None) -> None:
            raise KafkaConnectionError("cut off before the commit")

    alerts = of_groups(3)
    async with receiver() as hook:
        async with world.notifying(make_notifier(hook.url)):
            pass
        agent = world.agent(make_notifier(hook.url), consumer=NeverCommits)
        task = asyncio.create_task(agent.run())
        await world.publish(*alerts)
        await until(lambda: sum(map(len, sent_ids(hook))) >= 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = {one for request in sent_ids(hook) for one in request}
        hook.requests.clear()
        assert await world.committed_records("hook") == 0
        async with world.notifying(make_notifier(hook.url)):
            await world.until_committed("hook", 3)
        assert {one for request in sent_ids(hook) for one in request} == before == set(ids(*alerts))


async def test_the_first_alert_is_sent_at_once_and_those_that_follow_soon_together(small_world: World) -> None:
    first, *more = of_groups(4)
    another = make_alert(watch="other")
    async with receiver() as hook, small_world.notifying(make_notifier(hook.url, group_interval=2)):
        await small_world.publish(first)
        await hook.count(1)
        await small_world.publish(*more, another)
        await hook.count(3)
        await small_world.until_committed("hook", 5)
    requests = sent_ids(hook)
    assert requests[0] == ids(first)
    assert requests[1] == ids(another)
    assert sorted(requests[2]) == sorted(ids(*more))


async def test_transitions_of_one_alert_arrive_in_order(small_world: World) -> None:
    alerts = [make_alert(seq, "firing" if seq == 1 else "updated") for seq in range(1, 30)]
    async with receiver(answers=[500, 500, 200, 500]) as hook, small_world.notifying(make_notifier(hook.url)):
        for alert in alerts:
            await small_world.publish(alert)
        await small_world.until_committed("hook", len(alerts))
    arrived = list(dict.fromkeys(one for request in sent_ids(hook) for one in request))
    assert arrived == ids(*alerts)


async def test_a_transition_that_is_too_old_is_dropped(small_world: World) -> None:
    old, new = of_groups(2)
    async with receiver() as hook, small_world.notifying(make_notifier(hook.url, give_up_after=3600)):
        await small_world.publish(old, timestamp_ms=int(time.time() * 1000) - LONG_AGO_MS)
        await small_world.publish(new)
        await small_world.until_committed("hook", 2)
    assert sent_ids(hook) == [ids(new)]
    assert small_world.count("dropped", notifier="hook", outcome="expired") == 1


async def test_a_transition_that_can_not_be_delivered_in_time_is_dropped(small_world: World) -> None:
    first, second = of_groups(2)
    async with (
        receiver(answers=[200], always=500) as hook,
        small_world.notifying(make_notifier(hook.url, give_up_after=10), backoff=Backoff(4, 4)),
    ):
        await small_world.publish(first)
        await small_world.until_committed("hook", 1)
        await small_world.publish(second)
        await small_world.until_committed("hook", 2)
    assert sent_ids(hook)[:3] == [ids(first), ids(second), ids(second)]
    assert small_world.count("dropped", notifier="hook", outcome="expired") == 1


async def test_only_transitions_addressed_to_the_notifier_are_sent(small_world: World) -> None:
    wanted = make_alert(9)
    others: Sequence[Alert | bytes] = (
        make_alert(1, "pending"),
        make_alert(2, notify=False),
        make_alert(3, notifiers=("other",)),
        make_alert(4, severity="info"),
        make_alert(5, "resolved"),
        b"noise",
    )
    notifier = {"min_severity": "warning", "resolved": False}
    async with receiver() as hook, small_world.notifying(make_notifier(hook.url, **notifier)):
        await small_world.publish(*others, wanted)
        await small_world.until_committed("hook", 7)
    assert sent_ids(hook) == [ids(wanted)]


async def test_notifiers_are_added_removed_and_changed_while_it_runs(small_world: World) -> None:
    a1, a2, a3 = (alert.model_copy(update={"notifiers": ("a", "b")}) for alert in of_groups(3))
    async with receiver() as one, receiver() as two, small_world.notifying(make_notifier(one.url, name="a")) as agent:
        await small_world.publish(a1)
        await small_world.until_committed("a", 1)
        agent.reconfigure([make_notifier(two.url, name="a"), make_notifier(one.url, name="b")])
        await small_world.started("b")
        await small_world.publish(a2)
        await small_world.until_committed("a", 2)
        await small_world.until_committed("b", 2)
        agent.reconfigure([make_notifier(one.url, name="b")])
        await small_world.publish(a3)
        await small_world.until_committed("b", 3)
        assert await small_world.committed_records("a") == 2
    assert sent_ids(two) == [ids(a2)]
    assert sent_ids(one) == [ids(a1), ids(a2), ids(a3)]


async def test_active_alerts_are_sent_to_alertmanager_again_after_a_restart(world: World) -> None:
    firing, over = of_groups(2)
    end = make_alert(2, "resolved", group=over.group)
    async with receiver() as hook:
        notifier = make_notifier(hook.url, kind="alertmanager")
        async with world.notifying(notifier):
            await world.publish(firing, over, end)
            await world.until_committed("hook", 3)
        hook.requests.clear()
        async with world.notifying(notifier):
            await hook.count(1)
        (sent,) = json.loads(hook.requests[0].body)
    assert sent["labels"]["team"] == firing.group["team"]
    assert datetime.fromisoformat(sent["endsAt"]).timestamp() > time.time()


async def test_only_alerts_that_were_published_lately_are_recalled_for_alertmanager(world: World) -> None:
    """Whatever fires is published every hour: the topic's older records are not read."""
    old, lately = of_groups(2)
    now_s = time.time()
    async with receiver() as hook:
        notifier = make_notifier(hook.url, kind="alertmanager", give_up_after=24 * 3600)
        async with world.notifying(notifier):
            await world.publish(old, timestamp_ms=int(now_s - RECALL_S - 60) * 1000)
            await world.publish(lately, timestamp_ms=int(now_s - RECALL_S + 300) * 1000)
            await world.until_committed("hook", 2)
        hook.requests.clear()
        async with world.notifying(notifier):
            await hook.count(1)
        (sent,) = json.loads(hook.requests[0].body)
    assert sent["labels"]["team"] == lately.group["team"]


async def test_two_agents_share_the_work_and_lose_nothing_when_one_leaves(world: World) -> None:
    before, after = of_groups(8), of_groups(8, seq=2, transition="updated")
    async with receiver() as hook:
        notifier = make_notifier(hook.url)
        async with world.notifying(notifier):
            async with world.notifying(notifier):
                await world.publish(*before)
                await until(lambda: set(ids(*before)) <= {one for request in sent_ids(hook) for one in request})
            await world.publish(*after)
            await world.until_committed("hook", 16)
    assert {one for request in sent_ids(hook) for one in request} == set(ids(*before, *after))


async def test_a_bug_in_one_notifier_stops_nothing_and_no_secret_is_logged(small_world: World) -> None:
    class Broken(Messenger):
        async def send(self, alerts: Sequence[Alert], now: datetime) -> None:
            raise RuntimeError("https://hooks.example/s3cretpath")

    def make(notifier: Notifier, environ: Any) -> Any:
        return Broken(notifier) if notifier.name == "broken" else messenger_of(notifier, environ)

    both = make_alert().model_copy(update={"notifiers": ("broken", "works", "lacking", "refused")})
    with structlog.testing.capture_logs() as lines:
        async with receiver() as hook, receiver(always=403, words="bad token s3cretpath") as refusing:
            works = make_notifier(hook.url, name="works")
            refused = make_notifier(name="refused", url_env="REFUSING")
            lacking = make_notifier(name="lacking", url_env="LACKING")
            environ = {"REFUSING": f"{refusing.url}/s3cretpath?key=s3cretquery"}
            notifiers = [make_notifier(name="broken"), works, refused]
            async with small_world.notifying(*notifiers, make=make, environ=environ) as agent:
                agent.reconfigure([*notifiers, lacking])
                await small_world.publish(both)
                for name in ("broken", "works", "refused"):
                    await small_world.until_committed(name, 1)
    assert small_world.count("dropped", notifier="broken", outcome="failed") == 1
    assert small_world.count("sent", notifier="works") == 1
    assert any("LACKING" in str(line) for line in lines)
    assert any("bad token ***" in str(line) for line in lines)
    assert "s3cret" not in str(lines)


async def test_an_unrequested_cancellation_restarts_the_channel(small_world: World) -> None:
    class LetsOneOut(AIOKafkaConsumer):  # type: ignore[misc]
        outs = 1

        async def getmany(self, *partitions: Any, **settings: Any) -> Any:
            if LetsOneOut.outs:
                LetsOneOut.outs -= 1
                raise asyncio.CancelledError
            return await super().getmany(*partitions, **settings)

    alert = make_alert()
    async with receiver() as hook, small_world.notifying(make_notifier(hook.url), consumer=LetsOneOut):
        await small_world.publish(alert)
        await small_world.until_committed("hook", 1)
    assert LetsOneOut.outs == 0
    assert sent_ids(hook) == [ids(alert)]


async def test_it_waits_for_a_broker_and_can_be_stopped_meanwhile() -> None:
    nobody = World("127.0.0.1:9")
    agent = nobody.agent(make_notifier())
    task = asyncio.create_task(agent.run())
    await asyncio.sleep(0.3)
    assert not task.done()
    await agent.stop()
    await task
