"""Cubes of calls, from a few words: how many, of which model, with which tokens, at which rates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spendstream.core.detect.attribution import Cube
from spendstream.schemas.measures import COLUMN, SUMS

DIMENSIONS = ("service", "team", "feature", "customer", "provider", "model", "service_tier")

RATES = {
    "input": 3.0,
    "cache_read": 0.3,
    "cache_write_5m": 3.75,
    "output": 15.0,
    "reasoning": 15.0,
    "input_audio": 40.0,
    "input_image": 10.0,
    "cache_read_image": 1.0,
    "input_video": 30.0,
}
"""USD per million tokens."""


def member(**named: str) -> tuple[str, ...]:
    """Return dimension values; those not named are of one plain feature."""
    plain = {"service": "api", "team": "search", "feature": "answers", "customer": "acme", "provider": "openai"}
    usual = {**plain, "model": "gpt-5", "service_tier": "standard", **named}
    return tuple(usual[name] for name in DIMENSIONS)


def calls(
    count: int,
    tokens: Mapping[str, int],
    *,
    rates: Mapping[str, float] = RATES,
    times: float = 1,
    fee: float = 0.0,
    **measures: int,
) -> NDArray[np.int64]:
    """Return the sums of ``count`` calls with so many tokens each, by bucket, at ``times`` the rates.

    ``fee``: USD per call. ``measures``: other sums, as they are.
    """
    sums = np.zeros(len(SUMS), dtype=np.int64)
    sums[COLUMN["calls"]] = count
    for bucket, each in tokens.items():
        cost = round(count * each * rates[bucket] * times * 1e6)
        sums[COLUMN[f"{bucket}_tokens"]] = count * each
        sums[COLUMN[f"cost_{bucket}_pusd"]] = cost
        sums[COLUMN["cost_pusd"]] += cost
    sums[COLUMN["cost_request_pusd"]] = round(count * fee * 1e12)
    sums[COLUMN["cost_pusd"]] += round(count * fee * 1e12)
    for name, value in measures.items():
        sums[COLUMN[name]] = value
    return sums


def cube(*rows: tuple[tuple[str, ...], NDArray[np.int64]], minutes: float = 1) -> Cube:
    """Return a cube of (dimension values, sums)."""
    members = [values for values, _ in rows]
    sums = np.array([sums for _, sums in rows], dtype=np.int64).reshape(len(rows), len(SUMS))
    return Cube(members, sums, minutes)
