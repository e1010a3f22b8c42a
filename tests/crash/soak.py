"""Rounds of randomized chaos, each drained and reconciled exactly: `python -m tests.crash.soak` (`make soak`).

A round has a seed of its own, which chooses the events, the number of workers, the rate, what is killed and when. A
round that failed is made again, as far as real processes allow, by `--seed` with the number that it printed.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.crash.chaos import (
    Action,
    kill_a_worker,
    restart_broker,
    restart_clickhouse,
    run_with_chaos,
    stop_a_worker,
)
from tests.crash.cli import json_lines, run_cli
from tests.crash.workload import Workload
from tests.crash.world import World

ACTIONS: list[Action] = [kill_a_worker, kill_a_worker, stop_a_worker, restart_clickhouse, restart_broker]
DRAIN_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Plan:
    """What a seed means."""

    seed: int
    workers: int
    seconds: int
    per_second: int
    pause_s: tuple[float, float]

    @classmethod
    def of(cls, seed: int) -> "Plan":
        choose = random.Random(seed)
        quickest = choose.uniform(0.2, 3.0)
        return cls(
            seed=seed,
            workers=choose.randint(1, 3),
            seconds=choose.randint(15, 40),
            per_second=choose.choice([100, 400, 800, 1200, 1600]),
            pause_s=(quickest, quickest + choose.uniform(0.5, 5.0)),
        )


def run_round(plan: Plan, folder: Path) -> str:
    """Run one round to its exact end. Returns what happened. Raises: AssertionError, where a number is wrong."""
    workload = Workload(plan.seed)
    with World(folder) as world:
        done = run_with_chaos(
            world,
            workload,
            ACTIONS,
            seconds=plan.seconds,
            per_second=plan.per_second,
            workers=plan.workers,
            seed=plan.seed,
            pause_s=plan.pause_s,
        )
        _drain_supervised(world, workload, plan.workers)
        world.assert_exact(workload)
        # the numbers can be right before a worker that was just started again has committed what it found durable
        json_lines(run_cli("drain", "--timeout", "60", "--json", env=world.environment))
        *_, verdict = json_lines(run_cli("reconcile", "--json", env=world.environment))
        assert verdict["ok"] is True, verdict
    truth = workload.truth
    struck = ", ".join(f"{count} {name}" for name, count in sorted(Counter(done).items()))
    return (
        f"{workload.published:,} published = {len(truth.cost_by_id):,} metered + {truth.duplicates:,} duplicates"
        f" + {truth.dead_letters:,} dead letters; {struck or 'nothing struck'}"
    )


def _drain_supervised(world: World, workload: Workload, workers: int) -> None:
    """Wait for the numbers; a worker that gave up in an outage is started again meanwhile, as a supervisor would."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while True:
        world.keep_running(workers)
        try:
            return world.drained(workload, timeout_s=15)
        except AssertionError as error:
            if time.monotonic() > deadline or "moved" in str(error):
                raise


def soak(minutes: float, first_seed: int | None) -> int:
    """Run rounds for a time, at least one. Returns the exit status: 1 after the first round that failed."""
    deadline = time.monotonic() + minutes * 60
    seed = first_seed if first_seed is not None else random.SystemRandom().randrange(2**31)
    number = 0
    while number == 0 or time.monotonic() < deadline:
        number += 1
        plan = Plan.of(seed)
        _say(f"round {number}: {plan}")
        started = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-"))
        try:
            told = run_round(plan, folder)
        except BaseException as error:
            _say(f"round {number} FAILED: {error!r}\nits files: {folder}\nagain: --seed {seed}")
            if isinstance(error, Exception):
                return 1
            raise
        shutil.rmtree(folder)
        _say(f"round {number}: exact after {time.monotonic() - started:.0f} s: {told}")
        seed = random.Random(seed).randrange(2**31)
    _say(f"{number} rounds, all exact")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the options and soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins after this (default: 10)")
    parser.add_argument("--seed", type=int, help="of the first round; each round's seed follows from the one before")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # brokers that are away are the purpose
    sys.exit(soak(options.minutes, options.seed))


if __name__ == "__main__":
    main()
