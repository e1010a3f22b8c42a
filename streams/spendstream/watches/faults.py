"""What can be wrong with watches that are right one by one: names, references, groups, addresses."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from spendstream.core.documents import Loc, did_you_mean
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.watch import BudgetRule, Notifier, Watch, Watches

_WEB: Final = ("http", "https")
_SECRET_HOSTS: Final = ("hooks.slack.com", "discord.com", "discordapp.com")


class Fault(NamedTuple):
    """Something to mend. ``loc``: where, as field names and list indices from the top of ``Watches``."""

    loc: Loc
    message: str


class Parts(NamedTuple):
    """A file's parts. ``content``: all of it as it stands, right or wrong; the others: what is right by itself.

    Each has its index in the file's list.
    """

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
    """Find what the parts of a file have against each other, also where one of them is wrong in itself."""
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
    """Find dimensions that a deployment's rollups don't carry. ``dimensions``: those of METER_DIMENSIONS."""
    return list(dimension_faults(parts_of(watches), dimensions))


def dimension_faults(parts: Parts, dimensions: Collection[str]) -> Iterator[Fault]:
    """Find dimensions of watches and maintenance that rollups don't carry."""
    words = (
        f"no dimension of this deployment (METER_DIMENSIONS has {', '.join(dimensions)}): add it there, or remove it"
    )
    for at, item in parts.items("watches"):
        for index, name in enumerate(_texts(item.get("group_by"))):
            if name in DIMENSIONS and name not in dimensions:
                yield Fault(("watches", at, "group_by", index), f"{name} is {words}")
    for key in ("watches", "maintenance"):
        for at, item in parts.items(key):
            for name in item["scope"] if isinstance(item.get("scope"), dict) else ():
                if name in DIMENSIONS and name not in dimensions:
                    yield Fault((key, at, "scope", name, "[key]"), f"{name} is {words}")


def check_environment(watches: Watches, environ: Mapping[str, str]) -> list[Fault]:
    """Find variables that notifiers name and that are unset, or hold no address. No value is told."""
    return [
        fault
        for at, notifier in enumerate(watches.notifiers)
        for fault in _variables(("notifiers", at), notifier, environ)
    ]


def check_prudence(watches: Watches) -> list[Fault]:
    """Find what works, but is rarely meant: warnings."""
    return [*_secrets_in_the_open(watches), *_unheard(watches)]


def _secrets_in_the_open(watches: Watches) -> Iterator[Fault]:
    for at, notifier in enumerate(watches.notifiers):
        if notifier.url is not None and _holds_secret(notifier.url):
            message = "holds a secret: put it into an environment variable, and name that with url_env"
            yield Fault(("notifiers", at, "url"), message)


def _holds_secret(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or parts.hostname in _SECRET_HOSTS


def _unheard(watches: Watches) -> Iterator[Fault]:
    ranks = ("info", "warning", "critical")
    for at, watch in enumerate(watches.watches):
        heard = [n for n in watches.notifiers if watch.notify is None or n.name in watch.notify]
        if heard and all(ranks.index(n.min_severity) > ranks.index(watch.severity) for n in heard):
            message = f"nobody is told: min_severity of every notifier is above {watch.severity}"
            yield Fault(("watches", at, "severity"), message)


def _texts(listed: Any) -> list[str]:
    """Return a list of texts; empty for what is none, which is told elsewhere."""
    return [str(item) for item in listed] if isinstance(listed, list) else []


def _repeated_names(key: str, parts: Parts) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, item in parts.items(key):
        name = item.get("name")
        if isinstance(name, str):
            if name in seen:
                yield Fault((key, at, "name"), f"{name} is the name of another one above: names are unique")
            seen.add(name)


def _references(parts: Parts, key: str, field: str, noun: str) -> Iterator[Fault]:
    """Find names of what isn't there. ``notify`` names notifiers, ``watches`` of a maintenance name watches."""
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
            yield Fault((*loc, at), "already given: remove one")


def _budget(loc: Loc, watch: Watch, rule: BudgetRule) -> Iterator[Fault]:
    yield from _repeated((*loc, "thresholds"), rule.thresholds)
    yield from _repeated((*loc, "burn_rates"), [(rate.long, rate.short) for rate in rule.burn_rates])
    groups = []
    for at, amount in enumerate(rule.amounts):
        here = (*loc, "amounts", at, "group")
        if set(amount.group) != set(watch.group_by):
            wanted = ", ".join(watch.group_by)
            words = (
                f"give a value for exactly {wanted}" if wanted else "the watch has no group_by: give amount_usd alone"
            )
            yield Fault(here, f"not a group of this watch: {words}")
        elif amount.group in groups:
            yield Fault(here, "this group has an amount above: remove one")
        groups.append(amount.group)


def _address(loc: Loc, notifier: Notifier) -> Iterator[Fault]:
    if notifier.url is not None and (words := _wrong_url(notifier, notifier.url)):
        yield Fault((*loc, "url"), words)
    if notifier.secret_env is not None and notifier.kind != "webhook":
        yield Fault((*loc, "secret_env"), f"only a webhook is signed: remove it, {notifier.kind} has no signature")
    if notifier.headers_env and notifier.kind == "apprise":
        yield Fault((*loc, "headers_env"), "apprise takes everything from its URL: remove it")


def _wrong_url(notifier: Notifier, url: str) -> str:
    """Return what is wrong with a URL, without a part of it; empty where nothing is."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "not a URL"
    if notifier.kind == "apprise":
        return "" if "://" in url else "not an Apprise URL: write it as scheme://..., such as mailto://..."
    if parts.scheme not in _WEB or not parts.hostname:
        return f"not a URL that {notifier.kind} can be sent to: write it as https://host/path"
    return ""


def _variables(loc: Loc, notifier: Notifier, environ: Mapping[str, str]) -> Iterator[Fault]:
    named = {"url_env": notifier.url_env, "secret_env": notifier.secret_env}
    places = [((*loc, field), variable) for field, variable in named.items() if variable is not None]
    places += [((*loc, "headers_env", header), variable) for header, variable in notifier.headers_env.items()]
    for place, variable in places:
        if not environ.get(variable):
            yield Fault(place, f"the environment variable {variable} is unset")
        elif place[-1] == "url_env" and (words := _wrong_url(notifier, environ[variable])):
            yield Fault(place, f"the environment variable {variable} holds {words}")
