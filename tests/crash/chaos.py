"""Kill things at random while a workload is published, then put everything back."""

import random
import threading
import time
from collections.abc import Callable

from tests.crash.workload import Workload
from tests.crash.world import World

Action = Callable[[World, random.Random], None]


def kill_a_worker(world: World, choose: random.Random) -> None:
    running = [worker for worker in world.workers if worker.is_running()]
    if running:
        choose.choice(running).kill()


def stop_a_worker(world: World, choose: random.Random) -> None:
    running = [worker for worker in world.workers if worker.is_running()]
    if running:
        choose.choice(running).stop(timeout_s=5)


def restart_clickhouse(world: World, choose: random.Random) -> None:
    world.clickhouse.kill()
    time.sleep(choose.uniform(0, 3))
    world.clickhouse.start()


def restart_broker(world: World, choose: random.Random) -> None:
    world.kafka.kill()
    time.sleep(choose.uniform(0, 2))
    world.kafka.start()


def run_with_chaos(
    world: World,
    workload: Workload,
    actions: list[Action],
    *,
    seconds: float,
    per_second: int,
    workers: int,
    seed: int,
    pause_s: tuple[float, float] = (0.5, 4.0),
) -> list[str]:
    """Publish for a time while actions strike at random moments. Returns what was done, in order."""
    choose = random.Random(seed)
    done: list[str] = []
    failure: list[BaseException] = []

    def publish() -> None:
        try:
            world.publish(workload, seconds, per_second)
        except BaseException as error:
            failure.append(error)

    publisher = threading.Thread(target=publish, daemon=True)
    world.keep_running(workers)
    publisher.start()
    deadline = time.monotonic() + seconds * 4 + 120
    while publisher.is_alive() and time.monotonic() < deadline:
        time.sleep(choose.uniform(*pause_s))
        action = choose.choice(actions)
        action(world, choose)
        done.append(action.__name__)
        world.keep_running(workers)
    publisher.join(timeout=60)
    if failure:
        raise failure[0]
    world.keep_running(workers)
    return done
