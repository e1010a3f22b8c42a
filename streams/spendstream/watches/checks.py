"""Mistakes that one part of a watches file alone does not show: names, references, groups, addresses."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from spendstream.core.documents import Loc, did_you_mean
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.watch import BudgetRule, Notifier, Watch, Watches

_WEB: Final = ("http", "https")
_SECRET_HOSTS: Final = ("hooks.slack.com", "discord.com", "discordapp.com")


class Fault(NamedTuple):
    """Something to fix. ``loc``: where, as field names and list indices from the top of ``Watches``."""

    loc: Loc
    message: str


class Parts(NamedTuple):
    """A file's parts. ``content``: all of it, valid or not; the others: what is valid by itself, with its index."""

    content: Mapping[str, Any]
    notifiers: Sequence[tuple[int, Notifier]]
    watches: Sequence[tuple[int, Watch]]

    def items(self, key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Return the mappings of a list, each with its index."""
        listed = self.content.get(key)
        for at, item in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(item, dict):
                yield at, item

    def names(self, key: str) -> list[str]:
        """Return the names that the items of a list have."""
        return [item["name"] for _, item in self.items(key) if isinstance(item.get("name"), str)]


def parts_of(watches: Watches) -> Parts:
    """Return the parts of watches that are valid."""
    content = watches.model_dump(mode="json")
    return Parts(content, list(enumerate(watches.notifiers)), list(enumerate(watches.watches)))


def check_together(parts: Parts) -> Iterator[Fault]:
    """Yield the conflicts between the parts of a file, even if one of them is invalid by itself."""
    for key in ("notifiers", "maintenance", "watches"):
        yield from _repeated_names(key, parts)
    yield from _references(parts, "maintenance", "watches", "watch")
    yield from _references(parts, "watches", "notify", "notifier")
    for at, item in parts.items("watches"):
        yield from _repeated(("watches", at, "group_by"), _texts(item.get("group_by")))
    for at, notifier in parts.notifiers:
        yield from _address(("notifiers", at), notifier)
    for at, watch in parts.watches:
        if isinstance(watch.rule, BudgetRule):
            yield from _budget(("watches", at, "rule"), watch, watch.rule)


def check_dimensions(watches: Watches, dimensions: Collection[str]) -> list[Fault]:
    """Return the dimensions that a deployment's rollups lack. ``dimensions``: those of METER_DIMENSIONS."""
    return list(dimension_faults(parts_of(watches), dimensions))


def dimension_faults(parts: Parts, dimensions: Collection[str]) -> Iterator[Fault]:
    """Yield the dimensions of watches and maintenance windows that the rollups lack."""
    known = ", ".join(dimensions)
    message = f"is not a dimension of this deployment: add it to METER_DIMENSIONS ({known}), or remove it here"
    for at, item in parts.items("watches"):
        for index, name in enumerate(_texts(item.get("group_by"))):
            if name in DIMENSIONS and name not in dimensions:
                yield Fault(("watches", at, "group_by", index), f"{name} {message}")
    for key in ("watches", "maintenance"):
        for at, item in parts.items(key):
            for name in item["scope"] if isinstance(item.get("scope"), dict) else ():
                if name in DIMENSIONS and name not in dimensions:
                    yield Fault((key, at, "scope", name, "[key]"), f"{name} {message}")


def check_environment(watches: Watches, environ: Mapping[str, str]) -> list[Fault]:
    """Return the notifiers' variables that are not set or hold no address. No message holds a value."""
    found = []
    for at, notifier in enumerate(watches.notifiers):
        named = {"url_env": notifier.url_env, "secret_env": notifier.secret_env}
        places: list[tuple[Loc, str]] = [
            (("notifiers", at, field), variable) for field, variable in named.items() if variable is not None
        ]
        places += [
            (("notifiers", at, "headers_env", header), variable) for header, variable in notifier.headers_env.items()
        ]
        for place, variable in places:
            if not environ.get(variable):
                found.append(Fault(place, f"the environment variable {variable} is not set"))
            elif place[-1] == "url_env" and (mistake := _wrong_url(notifier, environ[variable])):
                found.append(Fault(place, f"the environment variable {variable} is {mistake}"))
    return found


def check_prudence(watches: Watches) -> list[Fault]:
    """Return warnings: what works, but is rarely intended."""
    found = []
    for at, notifier in enumerate(watches.notifiers):
        if notifier.url is None:
            continue
        parts = urlsplit(notifier.url)
        if parts.password or parts.hostname in _SECRET_HOSTS:
            message = "holds a secret: move it to an environment variable, and name the variable in url_env"
            found.append(Fault(("notifiers", at, "url"), message))
    ranks = ("info", "warning", "critical")
    for at, watch in enumerate(watches.watches):
        heard = [n for n in watches.notifiers if watch.notify is None or n.name in watch.notify]
        if heard and all(ranks.index(n.min_severity) > ranks.index(watch.severity) for n in heard):
            message = f"no notifier sends these alerts: the min_severity of each is above {watch.severity}"
            found.append(Fault(("watches", at, "severity"), message))
    return found


def _texts(listed: Any) -> list[str]:
    """Return a list of texts; empty for what is not a list, which is reported elsewhere."""
    return [str(item) for item in listed] if isinstance(listed, list) else []


def _repeated_names(key: str, parts: Parts) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, item in parts.items(key):
        name = item.get("name")
        if isinstance(name, str):
            if name in seen:
                yield Fault((key, at, "name"), f"duplicate name {name}: choose another")
            seen.add(name)


def _references(parts: Parts, key: str, field: str, noun: str) -> Iterator[Fault]:
    """Yield unknown names: ``notify`` of a watch names notifiers, ``watches`` of a maintenance window names watches."""
    known = parts.names("notifiers" if noun == "notifier" else "watches")
    for at, item in parts.items(key):
        names = _texts(item.get(field))
        yield from _repeated((key, at, field), names)
        for index, name in enumerate(names):
            if name not in known:
                hint = did_you_mean(name, known) if known else f"there is no {noun} in this file"
                yield Fault((key, at, field, index), f"unknown {noun} {name}: {hint}")


def _repeated(loc: Loc, items: Sequence[object]) -> Iterator[Fault]:
    for at, item in enumerate(items):
        if item in items[:at]:
            yield Fault((*loc, at), "duplicate: remove one")


def _budget(loc: Loc, watch: Watch, rule: BudgetRule) -> Iterator[Fault]:
    yield from _repeated((*loc, "thresholds"), rule.thresholds)
    yield from _repeated((*loc, "burn_rates"), [(rate.long, rate.short) for rate in rule.burn_rates])
    groups = []
    for at, amount in enumerate(rule.amounts):
        here = (*loc, "amounts", at, "group")
        if set(amount.group) != set(watch.group_by):
            wanted = ", ".join(watch.group_by)
            fix = f"give a value for exactly {wanted}" if wanted else "it has no group_by, so give only amount_usd"
            yield Fault(here, f"not a group of this watch: {fix}")
        elif amount.group in groups:
            yield Fault(here, "this group already has an amount: remove one")
        groups.append(amount.group)


def _address(loc: Loc, notifier: Notifier) -> Iterator[Fault]:
    if notifier.url is not None and (mistake := _wrong_url(notifier, notifier.url)):
        yield Fault((*loc, "url"), mistake)
    if notifier.secret_env is not None and notifier.kind != "webhook":
        yield Fault((*loc, "secret_env"), f"only webhooks are signed, {notifier.kind} is not: remove it")
    if notifier.headers_env and notifier.kind == "apprise":
        yield Fault((*loc, "headers_env"), "apprise takes everything from its URL: remove it")


def _wrong_url(notifier: Notifier, url: str) -> str:
    """Return what is wrong with a URL, without quoting any of it; empty if nothing is."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "not a URL"
    if notifier.kind == "apprise":
        return "" if "://" in url else "not an Apprise URL: write it as scheme://..., e.g. mailto://..."
    if parts.scheme not in _WEB or not parts.hostname:
        return "not an http or https URL: write it as https://host/path"
    return ""
