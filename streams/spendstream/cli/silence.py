"""`spendstream silence`: suppress notifications for a while."""

from __future__ import annotations

import asyncio
import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import uuid4

import typer
from pydantic_core import PydanticCustomError

from spendstream.cli.console import echo_json, err, out, refuse, silence_libraries, table, utc_time
from spendstream.cli.environment import load_settings
from spendstream.core.documents import did_you_mean
from spendstream.schemas.alert import Silence
from spendstream.schemas.rollup import DIMENSIONS
from spendstream.schemas.watch import duration_s
from spendstream.settings import Settings
from spendstream.watches import WatchesError, configured_watches
from spendstream.watches.silences import read_silences, write_silence

NOT_FOUND_EXIT: Final = 1

silence_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Suppress notifications for a while.")

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]


@silence_app.command("add")
def add(
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long: 30m, 2h, 3d.")],
    watch: Annotated[str | None, typer.Option("--watch", help="Only this watch. Default: every watch.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", metavar="DIMENSION=VALUE", help="Only alerts of this group; repeatable, all must match."
        ),
    ] = None,
    starts: Annotated[
        datetime | None,
        typer.Option(
            "--from", parser=utc_time, metavar="TIME", help="Start, in UTC unless it has a zone. Default: now."
        ),
    ] = None,
    comment: Annotated[str, typer.Option("--comment", help="The reason.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Silence alerts: they are recorded, but nobody is notified. Prints the silence's id."""
    silence_libraries()
    settings = load_settings()
    starts_at = starts or datetime.now(UTC)
    silence = Silence(
        silence_id=uuid4().hex[:8],
        starts_at=starts_at,
        ends_at=starts_at + timedelta(seconds=parse_duration(lasts)),
        watch=watch,
        group=parse_group(group or []),
        comment=comment,
        created_by=getpass.getuser(),
    )
    if watch is not None:
        _warn_unknown(watch, settings)
    asyncio.run(write_silence(settings, silence))
    if as_json:
        echo_json(silence.model_dump())
    else:
        out.print(
            f"{silence.silence_id}: {about(silence)} is silenced until {_time(silence.ends_at)} UTC", markup=False
        )


@silence_app.command("list")
def list_silences(
    all_: Annotated[bool, typer.Option("--all", help="Include silences that have ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List active and planned silences."""
    silence_libraries()
    now = datetime.now(UTC)
    found = [each for each in asyncio.run(read_silences(load_settings())) if all_ or each.ends_at > now]
    if as_json:
        for silence in found:
            echo_json({**silence.model_dump(), "state": state(silence, now)})
        return
    columns = ("id", "state", "silences", "from (UTC)", "until (UTC)", "by", "comment")
    rows = [
        (s.silence_id, state(s, now), about(s), _time(s.starts_at), _time(s.ends_at), s.created_by, s.comment)
        for s in found
    ]
    out.print(table(columns, rows))
    err.print(f"{len(found)} silences")


@silence_app.command("end")
def end(
    silence_id: Annotated[str, typer.Argument(metavar="ID", help="As shown by `silence list`.")],
    as_json: JsonOption = False,
) -> None:
    """End a silence now. Exit status 1: no silence has this id."""
    silence_libraries()
    settings = load_settings()
    now = datetime.now(UTC)
    found = {each.silence_id: each for each in asyncio.run(read_silences(settings))}
    silence = found.get(silence_id)
    if silence is None:
        running = [each.silence_id for each in found.values() if each.ends_at > now]
        hint = did_you_mean(silence_id, running) if running else "no silence is active"
        typer.echo(f"no silence {silence_id}: {hint}", err=True)
        raise typer.Exit(NOT_FOUND_EXIT)
    if silence.ends_at > now:
        silence = ended(silence, now)
        asyncio.run(write_silence(settings, silence))
    if as_json:
        echo_json(silence.model_dump())
    else:
        out.print(f"{silence_id}: ended at {_time(silence.ends_at)} UTC", markup=False)


def ended(silence: Silence, now: datetime) -> Silence:
    """Return a silence that ends now; a planned one never starts."""
    return silence.model_copy(update={"starts_at": min(silence.starts_at, now), "ends_at": now})


def parse_duration(text: str) -> int:
    """Return ``2h`` in seconds. Refuses anything else, and 0."""
    try:
        found = duration_s(text)
    except PydanticCustomError as error:
        refuse(f"--for {text}: {error.message()}")
    if found == 0:
        refuse("--for 0: a silence needs a duration, e.g. 30m or 2h")
    return found


def parse_group(pairs: list[str]) -> dict[str, str]:
    """Return ``["team=search"]`` as names and values. Refuses unknown dimensions."""
    group: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            refuse(f"--group {pair}: write DIMENSION=VALUE, e.g. team=search")
        if name not in DIMENSIONS:
            refuse(f"--group {pair}: unknown dimension {name}: {did_you_mean(name, DIMENSIONS)}")
        if group.get(name, value) != value:
            refuse(f"--group {pair}: {name} already has a value: add another silence")
        group[name] = value
    return group


def about(silence: Silence) -> str:
    """Return what a silence applies to: ``cost, team=search``."""
    members = [f"{name}={value}" for name, value in silence.group.items()]
    return ", ".join([silence.watch or "every watch", *members])


def state(silence: Silence, now: datetime) -> str:
    """Return ``active``, ``planned`` or ``ended``."""
    if silence.ends_at <= now:
        return "ended"
    return "planned" if silence.starts_at > now else "active"


def _warn_unknown(watch: str, settings: Settings) -> None:
    """Warn if this machine's watches have no such name; the worker may use another file."""
    try:
        path = settings.watches_path
        watches = configured_watches(path, settings.meter_dimensions)
    except WatchesError:
        return
    known = [each.name for each in watches.watches]
    if watch not in known:
        origin: Any = path or "the built-in watches"
        err.print(f"no watch {watch} in {origin}: {did_you_mean(watch, known)}", markup=False)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
