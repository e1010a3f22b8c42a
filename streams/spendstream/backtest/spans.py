"""From when to when each alert lasted, and where its label finds room."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from spendstream.core.timestamps import epoch_us
from spendstream.schemas.alert import Alert

LABEL_ROWS: Final = 3
_LETTER: Final = 0.0062
"""Width of a letter, as a fraction of the picture's width."""


@dataclass(frozen=True)
class Span:
    """An alert that fired, from the first minute of its evidence to its end. ``text``: what it was."""

    start_us: int
    end_us: int
    text: str


@dataclass(frozen=True)
class Label:
    """A label's place: ``at`` is a fraction of the width, ``row`` counts upwards from 0."""

    at: float
    row: int
    text: str


def spans(alerts: Iterable[Alert], end_us: int) -> list[Span]:
    """Return the span of each alert that fired, in order. What has not ended lasts until ``end_us``.

    An alert of a budget begins with its period, but what is shown is when it fired.
    """
    fired: dict[object, Alert] = {}
    ends: dict[object, int] = {}
    for alert in alerts:
        if alert.transition == "firing":
            fired[alert.alert_id, alert.seq] = alert
            ends[alert.alert_id, alert.seq] = end_us
        elif alert.transition == "resolved":
            opened = [key for key in fired if key[0] == alert.alert_id and ends[key] == end_us]  # type: ignore[index]
            for key in opened:
                ends[key] = epoch_us(alert.at)
    found = [Span(_start_us(alert), ends[key], _text(alert)) for key, alert in fired.items()]
    return sorted(found, key=lambda span: span.start_us)


def united(found: Sequence[Span], least_us: int) -> list[tuple[int, int]]:
    """Return when any of the spans lasted, each taken as ``least_us`` or longer: pairs that don't overlap."""
    whole: list[tuple[int, int]] = []
    for span in found:
        end_us = max(span.end_us, span.start_us + least_us)
        if whole and span.start_us <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], end_us)
        else:
            whole.append((span.start_us, end_us))
    return whole


def labels(found: Sequence[Span], first_us: int, length_us: int) -> tuple[list[Label], int, int]:
    """Return labels that don't overlap, how many rows they take, and how many spans found no room."""
    ends = [0.0] * LABEL_ROWS
    placed: list[Label] = []
    for span in found:
        width = _LETTER * (len(span.text) + 1)
        at = min(max((span.start_us - first_us) / length_us, 0.0), 1.0 - width)
        row = next((row for row, end in enumerate(ends) if at >= end), None)
        if row is not None:
            ends[row] = at + width
            placed.append(Label(at, row, span.text))
    rows = max((label.row + 1 for label in placed), default=0)
    return placed, rows, len(found) - len(placed)


def _start_us(alert: Alert) -> int:
    return epoch_us(alert.started_at if alert.budget is None else alert.at)


def _text(alert: Alert) -> str:
    """Return ``up 3.2x``: the facet, and how far it is from what was expected when it fired."""
    if alert.budget is None and alert.expected and alert.facet in ("up", "down"):
        return f"{alert.facet} {alert.observed / alert.expected:.3g}x"
    return alert.facet
