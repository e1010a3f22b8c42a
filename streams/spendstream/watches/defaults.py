"""The watches that hold where the operator has none of their own."""

from collections.abc import Collection
from typing import Final

from spendstream.schemas.watch import AnomalyRule, ThresholdRule, Watch, Watches

_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S

DEFAULT_WATCHES: Final = Watches(
    watches=(
        Watch(
            name="cost",
            description="Spend departs from what is usual for the feature, or stops.",
            group_by=("team", "feature"),
            rule=AnomalyRule(kind="anomaly", measure="cost", direction="both"),
        ),
        # Any unpriced call counts: a silent $0 is a lie. The window spans the pauses of a model that is called now and
        # then, and a week lies between reminders: one alert until somebody writes the card, not one an hour.
        Watch(
            name="unpriced-model",
            description="Calls of a model that no rate card prices: the real spend is higher than it looks.",
            group_by=("provider", "model"),
            rule=ThresholdRule(kind="threshold", measure="unpriced_share", above=0, window=6 * _HOUR_S, min_calls=1),
            renotify=7 * _DAY_S,
        ),
        # 50 calls: 16 failures among them are no chance where a few per cent are usual.
        Watch(
            name="provider-failures",
            description="Calls of a provider fail; retries may be paid for.",
            group_by=("provider",),
            rule=ThresholdRule(kind="threshold", measure="failure_share", above=0.3, window=300, min_calls=50),
        ),
        # Down alone: more hits are no harm. Silence is the cost watch's to tell, once.
        Watch(
            name="cache-hit-rate",
            description="Less of the input is read from the cache: the same calls cost more.",
            group_by=("team", "feature"),
            rule=AnomalyRule(
                kind="anomaly", measure="cache_hit_rate", direction="down", min_change=0.3, no_data_after=None
            ),
        ),
    )
)
"""Budgets are not among them: their amounts are the operator's. Notifiers neither: alerts go to their topic."""


def default_watches(dimensions: Collection[str]) -> Watches:
    """Return the built-in watches for a deployment whose rollups carry ``dimensions``.

    A dimension that it lacks is left out of the groups. A watch that has none left judges the whole.
    """
    watches = tuple(
        watch.model_copy(update={"group_by": tuple(name for name in watch.group_by if name in dimensions)})
        for watch in DEFAULT_WATCHES.watches
    )
    return DEFAULT_WATCHES.model_copy(update={"watches": watches})
