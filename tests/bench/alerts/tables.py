"""The page's words and tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tests.bench.alerts import cost
from tests.bench.alerts.drive import Raised
from tests.bench.alerts.incidents import CLEAR, KINDS, LEAST_DOWN, LEAST_UP, WITHIN
from tests.bench.alerts.rival import Rival
from tests.bench.alerts.score import Quality


class Bounds(NamedTuple):
    """The z-scores' bounds that raise no more false alerts than the rule did after its history."""

    plain: float
    fair: float


def head(groups: int, days: int, slices: int, seeds: Sequence[int]) -> str:
    """Return what the page is about."""
    return f"""# Quality of the anomaly alerts

Written by `make bench-alerts` (`python -m tests.bench.alerts`). Default rule (`cost`, both directions, normal
sensitivity), {groups} groups with half a call to 300 calls per minute, Poisson calls with lognormal costs (cv 1 to
2), nights at 10-20%, weekends at 10-30%, mornings that rise within an hour or two, a slow drift of 10%, deployments
that change level and price by 12%. Incident series run {days} days in slices of {60 // slices} s; incidents that change
spend by less than $0.10 a minute are left out. Seeds {", ".join(map(str, seeds))}, each with its own services; none was
used for tuning.

An incident is **detectable** if it changes spend to {LEAST_UP:.2f}x or more, or to {LEAST_DOWN:.2f}x or less
(the rule's `min_change`, and the 10% by which traffic drifts), and if its first {WITHIN} minutes differ from chance
by {CLEAR:g} standard deviations: 2 |√factor - 1| √(calls / (1 + cv²)) >= {CLEAR:g}. The detector knows
nothing of this. An alert is right if it fires between an incident's start and 10 minutes after its end; delay is from
the first anomalous second. Again: alerts of the same facet after an incident's first.

"z": the spend of a minute against mean and standard deviation of the 60 before it. "Fair": with the rule's own
`min_change` and `min_spend_usd`, for two minutes in a row. "Tuned": with the bound that raises no more alerts than the
rule, or one, on the calm weeks after history.
"""


def calm_section(rows: Sequence[tuple[str, list[Raised], Rival]], bounds: Bounds) -> str:
    """Return the table of false alerts. Each row: what, the rule's alerts, the rival's scores."""
    lines = [
        "## False alerts\n",
        "| a calm week, 100 groups | spendstream | z > 3 | fair, 3 | z, tuned | fair, tuned |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for what, alerts, z in rows:
        cells = [len(z.alerts(bound, fair=fair)) for bound, fair in _variants(bounds)]
        lines.append(f"| {what} | **{len(alerts)}** | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _variants(bounds: Bounds) -> list[tuple[float, bool]]:
    return [(3.0, False), (3.0, True), (bounds.plain, False), (bounds.fair, True)]


def incident_section(title: str, all_: Sequence[Quality], bounds: Bounds) -> str:
    """Return the table of one kind of series. ``all_``: the rule's, then the rival's in the order of the columns."""
    names = ["spendstream", "z > 3", "fair, 3", f"z, {bounds.plain:.0f}", f"fair, {bounds.fair:.0f}"]
    lines = [f"## {title}\n", "| | " + " | ".join(names) + " |", "| --- " * 6 + "|"]
    for what, cells in (
        ("alerts", [f"{one.alerts:,}" for one in all_]),
        ("precision", [_share(one.right, one.alerts) for one in all_]),
        ("again", [f"{one.again:,}" for one in all_]),
        (f"recall, all ({sum(all_[0].played.values())})", [f"{one.recall:.0%}" for one in all_]),
        (f"recall, detectable ({_detectable(all_[0])})", [f"**{one.recall_detectable:.0%}**" for one in all_]),
        (f"runaway of 5x, 20 calls a minute ({len(all_[0].fast_s)})", [_fast(one) for one in all_]),
    ):
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    lines += [
        "\n| caught of detectable; delay p50, p90 of all caught | " + " | ".join(names) + " |",
        "| --- " * 6 + "|",
    ]
    for kind in (kind.name for kind in KINDS):
        lines.append(f"| {kind} | " + " | ".join(_kind(one, kind) for one in all_) + " |")
    return "\n".join(lines) + "\n"


def _detectable(one: Quality) -> int:
    return sum(count for count, _ in one.detectable.values())


def _kind(one: Quality, kind: str) -> str:
    count, caught = one.detectable[kind]
    return f"{caught} of {count}; {one.delay(kind, 50)}, {one.delay(kind, 90)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _fast(one: Quality) -> str:
    seconds = float(np.median(one.fast_s)) if one.fast_s else np.inf
    return f"{seconds:.0f} s" if np.isfinite(seconds) else "-"


def cost_section(ours: cost.Cost) -> str:
    """Return the table of memory and CPU."""
    bytes_, us = cost.rival()
    return f"""## Cost at {cost.GROUPS:,} groups, all busy every minute

| | spendstream | z-score, 60 minutes |
| --- | --- | --- |
| memory per group, including slack and open minutes | {ours.bytes_per_group:,.0f} B | {bytes_:,.0f} B |
| CPU per update (a row of `Updates`) | {ours.us_per_update:.2f} µs | |
| CPU per group evaluated while its minute is open | {ours.us_per_look_row:.2f} µs | |
| CPU per closed minute and group | {ours.us_per_minute:.2f} µs | {us:.2f} µs |
| CPU of an evaluation when nothing changed, all groups together | {ours.us_idle_look:.0f} µs | |
"""
