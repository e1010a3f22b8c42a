"""The groups of a watch: which one a set of dimensions belongs to."""

from collections.abc import Sequence

from spendstream.schemas.watch import Watch, in_scope

Values = tuple[str, ...]


class Groups:
    """Numbers the groups of one watch, from 0, in the order in which they were first seen.

    ``dimensions``: the names of the rollups' dimensions, in their order. Names of the watch that the rollups don't
    carry are an empty string in every group.
    """

    def __init__(self, watch: Watch, dimensions: Sequence[str]) -> None:
        self._watch = watch
        self._dimensions = tuple(dimensions)
        self._positions = [self._dimensions.index(name) if name in self._dimensions else -1 for name in watch.group_by]
        self._numbers: dict[Values, int] = {}
        self.values: list[Values] = []
        """By number: the values of ``watch.group_by``."""

    def __len__(self) -> int:
        return len(self.values)

    def find(self, members: Values) -> int | None:
        """Return the number of the group that these dimension values belong to; None where out of scope."""
        if self._watch.scope and not in_scope(self._watch.scope, dict(zip(self._dimensions, members, strict=True))):
            return None
        return self.number(tuple(members[at] if at >= 0 else "" for at in self._positions))

    def number(self, values: Values) -> int:
        """Return the number of a group by its values; a new one where it wasn't known."""
        number = self._numbers.setdefault(values, len(self.values))
        if number == len(self.values):
            self.values.append(values)
        return number

    def named(self, number: int) -> dict[str, str]:
        """Return a group as names and values, in the watch's order."""
        return dict(zip(self._watch.group_by, self.values[number], strict=True))
