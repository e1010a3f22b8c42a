"""What earlier releases of the price book say about the past, and what of it is true.

A release states the prices of its day. Where the newest release states another price for that day, either the price
changed since and the book didn't date it, or the earlier release was wrong. No release says which; the verdicts do.

``read_release``      the prices in a wheel
``find_differences``  every rate that a release states otherwise than the newest one
``history_of``        what the verdicts make of the differences, in the form of ``core/pricing/history.json``
"""

from __future__ import annotations

import ast
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spendstream.core.documents import DocumentError, Unreadable, compose, repeated_keys, validate

Price = str | dict[str, Any]
"""``"2.5"``, or ``{"base": "1.25", "tiers": {"200000": "2.5"}}``."""

Rates = dict[str, Price]
Key = tuple[str, str]
"""Provider and model."""

_DATA: Final = "genai_prices/data.py"


@dataclass(frozen=True, slots=True)
class Dated:
    """Prices, and when they apply. The last entry of a model that applies wins."""

    start: date | None
    slot: str
    """A time of day in UTC, ``00:30-16:30``; "" for all day."""
    rates: Rates


@dataclass(frozen=True, slots=True)
class Release:
    """The prices that a release of the book states."""

    version: str
    day: date
    models: Mapping[Key, tuple[Dated, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A rate that some consecutive releases state otherwise than the newest one does for their day."""

    provider: str
    model: str
    rate: str
    stated: Mapping[str, Price]
    """By time of day, where it differs."""
    today: Mapping[str, Price | None]
    """What the newest release says instead; None: it has no such rate."""
    slots: tuple[str, ...]
    """All times of day at which the model's price differs, in either release."""
    before: Release | None
    """The last release before these that lists the model."""
    first: Release
    last: Release
    next: Release
    """The first release that no longer differs."""

    def __str__(self) -> str:
        return (
            f"{self.provider} {self.model} {self.rate}: {_show(self.stated)} in {self.first.version} to "
            f"{self.last.version} ({self.first.day} to {self.last.day}), now {_show(self.today)}"
        )


def read_release(wheel: Path, version: str, day: date) -> Release:
    """Return the prices in a wheel. Its code isn't run: the data is a literal of constructor calls."""
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(_DATA).decode())
    literal = next(s.value for s in tree.body if isinstance(s, ast.AnnAssign) and s.value is not None)
    return release_of(_value(literal), version, day)


def release_of(providers: Iterable[Mapping[str, Any]], version: str, day: date) -> Release:
    """Return a release's prices from its providers, each a mapping as in the book's data."""
    models = {
        (provider["id"], model["id"]): tuple(_dated(model["prices"]))
        for provider in providers
        for model in provider["models"]
    }
    return Release(version, day, {key: prices for key, prices in models.items() if any(p.rates for p in prices)})


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        called, positional = ast.unparse(node.func), [_value(argument) for argument in node.args]
        if called == "Decimal":
            return Decimal(positional[0])
        if called == "datetime.date":
            return date(*positional)
        if called == "datetime.time":
            return ":".join(f"{part:02}" for part in (*positional, 0)[:2])
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def _dated(prices: Any) -> Iterator[Dated]:
    for entry in prices if isinstance(prices, list) else [{"prices": prices}]:
        constraint = entry.get("constraint") or {}
        slot = f"{constraint['start_time']}-{constraint['end_time']}" if "start_time" in constraint else ""
        rates = {rate: _price(value) for rate, value in entry["prices"].items() if value is not None}
        yield Dated(constraint.get("start_date"), slot, rates)


def _price(value: Any) -> Price:
    if isinstance(value, Decimal):
        return _amount(value)
    tiers = sorted((tier["start"], _amount(tier["price"])) for tier in value["tiers"])
    return {"base": _amount(value["base"]), "tiers": {str(start): price for start, price in tiers}}


def _amount(value: Decimal) -> str:
    return format(value.normalize(), "f")


def in_force(prices: Sequence[Dated], day: date, slot: str) -> Rates:
    """Return a model's rates on a day, at a time of day: the last entry that applies, else the first."""
    for entry in reversed(prices):
        if entry.slot == slot if entry.slot else entry.start is None or entry.start <= day:
            return entry.rates
    return prices[0].rates


def find_differences(releases: Sequence[Release]) -> list[Difference]:
    """Return every rate that a release states otherwise than the last one does for the same day.

    What the last release itself states for an earlier day is no difference: it dates the change, the other was late.
    """
    *earlier, newest = releases
    found: list[Difference] = []
    for key, today in newest.models.items():
        listing = [release for release in earlier if key in release.models]
        states = [_state(release.models[key], today, release.day) for release in listing]
        for rate in sorted({rate for state in states for rate in state}):
            found += _runs(key, rate, listing, states, newest)
    return sorted(found, key=lambda d: (d.provider, d.model, d.rate, d.first.day, d.first.version))


def _state(stated: Sequence[Dated], today: Sequence[Dated], day: date) -> dict[str, dict[str, Any]]:
    """Return rate → time of day → (stated, today's), where they differ. ``""``: times of day without an entry."""
    slots = sorted({entry.slot for entry in (*stated, *today)} | {""})
    days = [day, *(entry.start for entry in today if entry.start is not None and entry.start < day), date.min]
    differing: dict[str, dict[str, Any]] = defaultdict(dict)
    for slot in slots:
        then = in_force(stated, day, slot)
        known = [in_force(today, each, slot) for each in days]
        for rate, price in then.items():
            if all(rates.get(rate) != price for rates in known):
                differing[rate][slot] = (price, known[0].get(rate), tuple(slots))
    return differing


def _runs(
    key: Key, rate: str, listing: Sequence[Release], states: Sequence[Mapping[str, Any]], newest: Release
) -> Iterator[Difference]:
    """Return the differences of a rate: one for consecutive releases that state the same."""
    start = 0
    for index in range(len(listing) + 1):
        if index < len(listing) and _stated(states[index], rate) == _stated(states[start], rate):
            continue
        if state := states[start].get(rate):
            yield Difference(
                *key,
                rate=rate,
                stated={slot: price for slot, (price, _, _) in state.items()},
                today={slot: price for slot, (_, price, _) in states[index - 1][rate].items()},
                slots=next(iter(state.values()))[2],
                before=listing[start - 1] if start else None,
                first=listing[start],
                last=listing[index - 1],
                next=listing[index] if index < len(listing) else newest,
            )
        start = index


def _stated(state: Mapping[str, Any], rate: str) -> dict[str, Any] | None:
    return {slot: price for slot, (price, *_) in state[rate].items()} if rate in state else None


class UnknownModel(ValueError):
    """A price is announced, or vouched for, of a model that the newest release doesn't have."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str
    """A name, or a pattern: ``huggingface_*``."""
    source: str = Field(min_length=1)
    """What shows it: a page, a commit, a comment of the book; with its date."""


class Verdict(_Entry):
    """What the differences of some models are. The first verdict in the file that matches a difference counts."""

    models: tuple[str, ...] = Field(min_length=1)
    """Names or patterns."""
    rates: tuple[str, ...] = ("*",)
    last: str | None = None
    """Only differences whose last release is this one."""
    verdict: Literal["change", "correction", "unknown"]
    on: date | None = None
    """``change``: the first day of the new price."""
    since: date | None = None
    """The first day of the price that the releases state, where it isn't its earliest."""
    checked: date | None = None
    """``unknown``: the last day on which the price was seen; by default that of the last release that states it."""
    seen: date | None = None
    """``unknown``: the first day on which the new price was seen; by default that of the first release that has it."""

    @model_validator(mode="after")
    def _check(self) -> Verdict:
        if (self.verdict == "change") != (self.on is not None):
            raise ValueError("a change, and nothing else, needs `on`: the first day of the new price")
        return self

    def matches(self, difference: Difference) -> bool:
        """Return whether the verdict is about a difference."""
        return (
            fnmatchcase(difference.provider, self.provider)
            and any(fnmatchcase(difference.model, pattern) for pattern in self.models)
            and any(fnmatchcase(difference.rate, pattern) for pattern in self.rates)
            and self.last in (None, difference.last.version)
        )


class Announced(_Entry):
    """A price that no release states, as its seller announced it."""

    models: tuple[str, ...] = Field(min_length=1)
    since: date | None = None
    until: date
    certain_since: date | None = None
    certain_until: date | None = None
    rates: dict[str, dict[str, Any]]
    """By time of day, as in ``history.json``."""


class Vouched(_Entry):
    """A day from which on a price of the book is known to have applied, before the book listed it."""

    models: dict[str, date]


class EarlierTier(_Entry):
    """A service tier that the book dates by the day it learned of it, and since when it was offered."""

    when: dict[str, str]
    listed: date
    since: date
    doubt: str = ""
    share: dict[str, str] = Field(default_factory=dict)


class Checks(_Entry):
    """The days on which the book's editors read a seller's prices, and by which they date what had changed."""

    days: tuple[date, ...]


class Verdicts(BaseModel):
    """The file of verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdicts: tuple[Verdict, ...] = ()
    announced: tuple[Announced, ...] = ()
    vouched: tuple[Vouched, ...] = ()
    tiers: tuple[EarlierTier, ...] = ()
    checks: tuple[Checks, ...] = ()


def read_verdicts(file: Path) -> Verdicts:
    """Return the verdicts in a file. Raises: DocumentError."""
    try:
        root = compose(file)
    except Unreadable as error:
        raise DocumentError([error.issue]) from error
    if root is None:
        return Verdicts()
    issues = list(repeated_keys(file, root))
    verdicts, wrong = validate(Verdicts, file, root)
    if verdicts is None or issues:
        raise DocumentError([*issues, *wrong])
    return verdicts


@dataclass
class Result:
    """The history, and what a reviewer wants to know."""

    document: dict[str, Any]
    counts: dict[str, int]
    """Differences by verdict."""
    undecided: list[Difference] = field(default_factory=list)
    """Without a verdict: treated as unknown."""
    unused: list[Verdict] = field(default_factory=list)
    """Verdicts that match no difference."""


def history_of(
    releases: Sequence[Release],
    verdicts: Verdicts,
    series: Mapping[str, Mapping[str, Any]],
    resolve: Callable[[Key], Key | None],
) -> Result:
    """Return the history that releases, oldest first, verdicts and series give.

    ``series``: by provider, what is known day by day, in the form of ``history.json``; it decides about its rates of
    its models. ``resolve`` returns the newest release's model for an earlier release's.
    """
    newest = releases[-1]
    stated = {(entry.provider, model) for entry in verdicts.announced for model in entry.models}
    stated |= {(entry.provider, model) for entry in verdicts.vouched for model in entry.models}
    if strangers := stated - newest.models.keys():
        raise UnknownModel(f"the newest release has no {', '.join(' '.join(key) for key in sorted(strangers))}")
    known = {
        (provider, model, rate)
        for provider, entry in series.items()
        for model in entry["models"]
        for rate in entry["rates"]
    }
    decided = [
        (difference, next((verdict for verdict in verdicts.verdicts if verdict.matches(difference)), None))
        for difference in find_differences(releases)
        if (difference.provider, difference.model, difference.rate) not in known
    ]
    used = {id(verdict) for _, verdict in decided}
    counts = {"change": 0, "correction": 0, "unknown": 0}
    for _, verdict in decided:
        counts["unknown" if verdict is None else verdict.verdict] += 1
    document = {
        "releases": {release.version: str(release.day) for release in releases},
        "checks": {checks.provider: [str(day) for day in checks.days] for checks in verdicts.checks},
        "periods": [*_merged(_periods(decided)), *_announced(verdicts)],
        "tiers": [tier.model_dump(mode="json", exclude_defaults=True) for tier in verdicts.tiers],
        "vouched": [
            {"provider": vouched.provider, "model": model, "since": str(since), "source": vouched.source}
            for vouched in verdicts.vouched
            for model, since in sorted(vouched.models.items())
        ],
        "series": series,
        "listed": _listed(releases, resolve),
    }
    return Result(
        document,
        counts,
        [difference for difference, verdict in decided if verdict is None],
        [verdict for verdict in verdicts.verdicts if id(verdict) not in used],
    )


def _periods(decided: Iterable[tuple[Difference, Verdict | None]]) -> Iterator[dict[str, Any]]:
    """Turn differences, in order, into periods of one rate each."""
    ended: dict[tuple[str, str, str], tuple[str, date]] = {}  # by rate: release and day up to which a period goes
    for difference, verdict in decided:
        if verdict is not None and verdict.verdict == "correction":
            continue
        place = difference.provider, difference.model, difference.rate
        certain_since = certain_until = None
        since = verdict.since if verdict else None
        if since is None and difference.before is not None:
            follows, ended_on = ended.get(place, ("", date.min))
            if follows == difference.first.version:
                since = ended_on
            else:
                since, certain_since = difference.before.day, difference.first.day
        if verdict is not None and verdict.on is not None:
            until = verdict.on
        else:
            until = (verdict.seen if verdict else None) or difference.next.day
            certain_until = (verdict.checked if verdict else None) or difference.last.day
        if since is not None and since >= until:
            continue
        ended[place] = difference.next.version, until
        yield {
            "provider": difference.provider,
            "model": difference.model,
            **_days(since=since, certain_since=certain_since, certain_until=certain_until),
            "until": str(until),
            "rates": {
                slot: {difference.rate: difference.stated[slot]} if slot in difference.stated else {}
                for slot in difference.slots
            },
            "source": verdict.source if verdict else f"genai-prices {difference.last.version}",
        }


def _merged(periods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join periods of a model that differ in their rates alone."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for period in periods:
        place = tuple((name, value) for name, value in period.items() if name != "rates")
        slots = (*place, tuple(period["rates"]))
        if slots in merged:
            for slot, rates in period["rates"].items():
                merged[slots]["rates"][slot] |= rates
        else:
            merged[slots] = period
    return list(merged.values())


def _announced(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    for entry in verdicts.announced:
        for model in entry.models:
            days = _days(since=entry.since, certain_since=entry.certain_since, certain_until=entry.certain_until)
            yield {
                "provider": entry.provider,
                "model": model,
                **days,
                "until": str(entry.until),
                "rates": entry.rates,
                "source": entry.source,
            }


def _days(**days: date | None) -> dict[str, str]:
    return {name: str(day) for name, day in days.items() if day is not None}


def _listed(releases: Sequence[Release], resolve: Callable[[Key], Key | None]) -> dict[str, dict[str, list[str]]]:
    """Return day → provider → models that were first listed that day, under their present id or an earlier one."""
    newest = releases[-1]
    first: dict[Key, date] = {}
    for release in releases:
        for key in release.models:
            present = key if key in newest.models else resolve(key)
            if present is not None and present in newest.models:
                first.setdefault(present, release.day)
    listed: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (provider, model), day in sorted(first.items(), key=lambda item: (item[1], item[0])):
        listed[str(day)][provider].append(model)
    return {day: dict(providers) for day, providers in listed.items()}


def _show(prices: Mapping[str, Price | None]) -> str:
    shown = []
    for slot, price in prices.items():
        if isinstance(price, dict):
            text = price["base"] + "".join(f" (above {start}: {above})" for start, above in price["tiers"].items())
        else:
            text = price or "none"
        shown.append(f"{text} at {slot}" if slot else text)
    return ", ".join(shown)
