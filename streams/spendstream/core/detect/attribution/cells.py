"""What a group's calls came to, before and now, laid out alike: strata of like work, models within, tiers within those.

A stratum is what the calls are for: the dimensions that neither choose the price nor name a caller. When calls
move between features, none of them becomes dearer: there is more of one kind of work and less of another, and the mix
of models is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spendstream.core.money import PUSD
from spendstream.schemas.measures import COLUMN, COST

Values = tuple[str, ...]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

SPEND = COLUMN[COST]

PRICED_BY: Final = ("provider", "model", "service_tier", "region")
CALLERS: Final = ("customer", "user")
"""There are too many, with too few calls each, for strata of their own; they appear as contributors."""


@dataclass(frozen=True)
class Cube:
    """What a group's calls came to. A combination of dimensions may stand in several rows.

    ``members``: n tuples of dimension values. ``sums``: n × len(SUMS), integers or floats. ``minutes``: the time
    over which they were summed.
    """

    members: Sequence[Values]
    sums: NDArray[Any]
    minutes: float = 1.0

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"a cube of {self.minutes} minutes: it must span more than 0")
        if len(self.members) != len(self.sums):
            raise ValueError(f"{len(self.members)} combinations, but {len(self.sums)} rows of sums")

    def rates(self) -> Floats:
        """Return the sums per minute, n × len(SUMS). A correction below zero counts as nothing."""
        rates: Floats = np.maximum(self.sums / self.minutes, 0.0)
        return rates

    def usd_per_minute(self) -> Decimal:
        """Return the whole spend, USD a minute, rounded to a pico-dollar; of integers it is the exact sum."""
        pusd = sum((Decimal(value) for value in self.sums[:, SPEND].tolist()), Decimal(0))
        return to_pusd(pusd / PUSD / Decimal(self.minutes))


def to_pusd(amount: Decimal) -> Decimal:
    """Return an amount in USD rounded to a pico-dollar."""
    return round(amount, 12) + Decimal(0)  # no negative zero


@dataclass(frozen=True)
class Cells:
    """Cells of (stratum, model, service tier) with both sides' rates per minute.

    ``before`` and ``now``: cells × len(SUMS). ``model_of`` (cells) numbers the models, each within one stratum;
    ``stratum_of`` (models) the strata. Names are indexed by number.
    """

    before: Floats
    now: Floats
    model_of: Numbers
    stratum_of: Numbers
    tiers: list[str]
    models: list[str]
    strata: list[Values]
    stratum_dimensions: tuple[str, ...]
    has_model: bool

    @property
    def stratum_of_cell(self) -> Numbers:
        found: Numbers = self.stratum_of[self.model_of]
        return found

    @property
    def model_names(self) -> NDArray[np.str_]:
        """The models' names by cell."""
        return np.array(self.models)[self.model_of]


def lay_out(before: Cube, now: Cube, dimensions: Sequence[str]) -> Cells:
    """Sum both cubes into cells. ``dimensions``: the names of the cubes' dimension values, in their order."""
    names = tuple(dimensions)
    stratum_at = [at for at, name in enumerate(names) if name not in (*PRICED_BY, *CALLERS)]
    model_at = [names.index(name) for name in ("provider", "model") if name in names]
    tier_at = names.index("service_tier") if "service_tier" in names else -1
    strata: dict[Values, int] = {}
    models: dict[tuple[int, Values], int] = {}
    cells: dict[tuple[int, str], int] = {}
    cell_at = [*stratum_at, *model_at, *([tier_at] if tier_at >= 0 else [])]
    known: dict[Values, int] = {}

    def cell(member: Values) -> int:
        stratum = strata.setdefault(tuple(member[at] for at in stratum_at), len(strata))
        model = models.setdefault((stratum, tuple(member[at] for at in model_at)), len(models))
        return cells.setdefault((model, member[tier_at] if tier_at >= 0 else ""), len(cells))

    def located(cube: Cube) -> Iterator[int]:
        # most members differ only by caller
        for member in cube.members:
            key = tuple([member[at] for at in cell_at])
            number = known.get(key)
            if number is None:
                number = known[key] = cell(member)
            yield number

    rows = [np.fromiter(located(cube), dtype=np.int64, count=len(cube.members)) for cube in (before, now)]
    sums = [np.zeros((len(cells), before.sums.shape[1])) for _ in rows]
    for summed, at, cube in zip(sums, rows, (before, now), strict=True):
        np.add.at(summed, at, cube.rates())
    return Cells(
        before=sums[0],
        now=sums[1],
        model_of=np.array([model for model, _ in cells], dtype=np.int64),
        stratum_of=np.array([stratum for stratum, _ in models], dtype=np.int64),
        tiers=[tier for _, tier in cells],
        models=[values[-1] if values else "" for _, values in models],
        strata=list(strata),
        stratum_dimensions=tuple(names[at] for at in stratum_at),
        has_model="model" in names,
    )
