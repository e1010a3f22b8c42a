"""Transitions of alerts as rows of ``alerts``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
from pydantic import ValidationError

from spendstream.schemas.alert import Alert
from spendstream.schemas.dead_letter import Reason
from spendstream.schemas.priced import USD
from spendstream.sinks.encoders import (
    ALERTS,
    ConsumedRecord,
    Encoded,
    Undecodable,
    invalid,
    table_insert,
)

_TEXT: Final = pa.string()
_FLOAT: Final = pa.float64()
_TIME: Final = pa.timestamp("us", tz="UTC")
_CONTRIBUTOR: Final = pa.struct(
    [
        ("dimension", _TEXT),
        ("value", _TEXT),
        ("change_usd", USD),
        ("observed_usd", USD),
        ("share", _FLOAT),
    ]
)

_ALERT_FIELDS: Final = {
    "alert_id": _TEXT,
    "transition_id": _TEXT,
    "seq": pa.uint32(),
    "transition": _TEXT,
    "state": _TEXT,
    "watch": _TEXT,
    "rule": _TEXT,
    "facet": _TEXT,
    "severity": _TEXT,
    "started_at": _TIME,
    "at": _TIME,
    "ends_at": _TIME,
    "title": _TEXT,
    "measure": _TEXT,
    "unit": _TEXT,
    "observed": _FLOAT,
    "expected": _FLOAT,
    "score": _FLOAT,
    "notify": pa.bool_(),
    "notified_at": _TIME,
    "notifiers": pa.list_(_TEXT),
    "silenced_by": _TEXT,
    "runbook": _TEXT,
}
"""Columns that are fields of ``spendstream.schemas.alert.Alert``, under the same name."""


def _member(part: str, name: str) -> Callable[[Alert], Any]:
    """Return what reads a field of a part of an alert; null where the alert has no such part."""
    return lambda alert: getattr(getattr(alert, part), name, None)


_ALERT_PARTS: Final[dict[str, tuple[pa.DataType, Callable[[Alert], Any]]]] = {
    "group": (pa.map_(_TEXT, _TEXT), lambda alert: list(alert.group.items())),
    "limit_value": (_FLOAT, lambda alert: alert.limit),
    "reason": (_TEXT, lambda alert: alert.attribution.reason if alert.attribution else ""),
    "attributed_observed_usd": (USD, _member("attribution", "observed_usd_per_minute")),
    "attributed_expected_usd": (USD, _member("attribution", "expected_usd_per_minute")),
    "factor_changes_usd": (
        pa.map_(_TEXT, USD),
        lambda alert: [(part.factor, part.change_usd_per_minute) for part in _factor_parts(alert)],
    ),
    "factor_words": (pa.map_(_TEXT, _TEXT), lambda alert: [(part.factor, part.words) for part in _factor_parts(alert)]),
    "facts": (pa.list_(_TEXT), lambda alert: list(alert.attribution.facts) if alert.attribution else []),
    "contributors": (
        pa.list_(_CONTRIBUTOR),
        lambda alert: [
            {
                "dimension": one.dimension,
                "value": one.value,
                "change_usd": one.change_usd_per_minute,
                "observed_usd": one.observed_usd_per_minute,
                "share": one.share,
            }
            for one in (alert.attribution.contributors if alert.attribution else ())
        ],
    ),
    **{
        name: (USD, _member("projection", name)) for name in ("excess_by_end_of_hour_usd", "excess_by_end_of_month_usd")
    },
    **{
        f"budget_{name}": (kind, _member("budget", name))
        for name, kind in {
            "period_start": _TIME,
            "period_end": _TIME,
            "amount_usd": USD,
            "spent_usd": USD,
            "forecast_usd": USD,
            "burn_rate": _FLOAT,
            "burn_rate_short": _FLOAT,
        }.items()
    },
}
"""The other columns: their types, and how an alert makes them."""


class AlertEncoder:
    """Encodes alert transitions."""

    table = ALERTS
    is_compacted = False

    def encode(self, records: Sequence[ConsumedRecord]) -> Encoded:
        """Return one insert, or none where the records are all tombstones or undecodable."""
        good: list[Alert] = []
        undecodable: list[Undecodable] = []
        for record in records:
            if record.value is None:
                continue
            try:
                alert = Alert.model_validate_json(record.value)
                alert_table([alert])  # few records: each is checked on its own
            except ValidationError as error:
                undecodable.append(invalid(record, "not an alert", error))
            except (pa.ArrowException, ValueError, OverflowError) as error:
                undecodable.append(Undecodable(record, Reason.INVALID_VALUE, f"not an alert: {error}"))
            else:
                good.append(alert)
        return Encoded((table_insert(ALERTS, alert_table(good)),) if good else (), tuple(undecodable))


def alert_table(alerts: Sequence[Alert]) -> pa.Table:
    """Return transitions as columns of ``alerts``. Raises: pyarrow's errors, on an amount finer than 1e-12 USD."""
    columns = {name: pa.array([_field(alert, name) for alert in alerts], kind) for name, kind in _ALERT_FIELDS.items()}
    columns |= {name: pa.array([make(alert) for alert in alerts], kind) for name, (kind, make) in _ALERT_PARTS.items()}
    return pa.table(columns)


def _field(alert: Alert, name: str) -> Any:
    value = getattr(alert, name)
    if _ALERT_FIELDS[name] == _TEXT:
        return "" if value is None else str(value)
    return list(value) if isinstance(value, tuple) else value


def _factor_parts(alert: Alert) -> Sequence[Any]:
    return alert.attribution.parts if alert.attribution else ()
