"""Run histories for as long as you like: ``python -m tests.simulation`` (``make simulate``).

``--seed N`` runs one, with its story; a seed that failed in ``make test`` fails here too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter

from tests.simulation.history import FAULTS, History

_SAY_EVERY_S = 10.0


def main() -> int:
    """Run, and return how many histories failed, at most 1."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, help="run this history alone")
    arguments.add_argument("--from", dest="first", type=int, default=1_000_000, help="the first seed")
    arguments.add_argument("--seeds", type=int, default=0, help="how many; 0: as many as the time allows")
    arguments.add_argument("--seconds", type=float, default=600.0, help="how long; 0: without end")
    arguments.add_argument("--faults", nargs="*", choices=sorted(FAULTS), default=[], help="draw only these")
    options = arguments.parse_args()
    kinds = tuple(options.faults)
    if options.seed is not None:
        failure = _failure(options.seed, kinds, show=True)
        _say(str(failure or "exact"))
        return failure is not None
    started = said = time.monotonic()
    failed: list[int] = []
    drawn: Counter[str] = Counter()
    last = options.first
    for seed in itertools.count(options.first):
        now = time.monotonic()
        if (options.seeds and seed == options.first + options.seeds) or 0 < options.seconds < now - started:
            break
        last = seed
        history = History(seed, kinds)
        try:
            history.run()
        except AssertionError as error:
            failed.append(seed)
            _say(f"{error}\n")
        drawn.update(kind for _, kind in history.plan.faults)
        if now - said > _SAY_EVERY_S:
            said = now
            _say(f"{seed + 1 - options.first:,} histories, {len(failed)} failed, {now - started:.0f} s")
    count = last + 1 - options.first
    _say(f"seeds {options.first} to {last}: {count:,} histories, {len(failed)} failed {failed[:20] or ''}")
    _say("faults: " + ", ".join(f"{kind} {number:,}" for kind, number in drawn.most_common()))
    return bool(failed)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _failure(seed: int, kinds: tuple[str, ...], show: bool) -> AssertionError | None:
    history = History(seed, kinds)
    try:
        history.run()
    except AssertionError as error:
        return error
    if show:
        _say("\n".join([f"seed {seed}: {history.plan}", *history.trace]))
    return None


if __name__ == "__main__":
    sys.exit(main())
