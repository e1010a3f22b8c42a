"""`spendstream deadletters`: records that could not be metered, and another try."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from spendstream.cli.console import echo_json, err, out, table
from spendstream.cli.environment import load_settings
from spendstream.cli.intake_options import refuse
from spendstream.deadletters import Filter, Letter, find, mark_replayed
from spendstream.deadletters import replay as publish_again
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import Reason
from spendstream.settings import Settings
from spendstream.sinks.clickhouse import open_client
from spendstream.worker import clickhouse_settings

_SHOWN_CHARACTERS = 120


def deadletters(
    reason: Annotated[Reason | None, typer.Option("--reason", help="Only with this reason.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="Only of this service.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many, newest first. 0: all.")] = 100,
    replay: Annotated[
        bool, typer.Option("--replay", help="Publish those not replayed yet again, as they are.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replay without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a letter.")] = False,
) -> None:
    """List dead letters; with --replay, publish their original bytes again, once what refused them is mended.

    That helps where a rule has changed (a release, METER_ALLOWED_SKEW_S). Bytes that are wrong come back.
    """
    settings = load_settings()
    wanted = Filter(
        settings.topic(topics.USAGE),
        None if reason is None else reason.value,
        service,
        limit,
        is_replayed=False if replay else None,
    )
    client = open_client(clickhouse_settings(settings))
    try:
        letters = find(client, settings.clickhouse_database, wanted)
        if not replay:
            _show(letters, as_json)
            return
        _replay(client, settings, letters, yes=yes, as_json=as_json)
    finally:
        client.close()


def _replay(client: Any, settings: Settings, letters: list[Letter], *, yes: bool, as_json: bool) -> None:
    letters = [letter for letter in letters if letter.original]  # an empty record has nothing to publish
    if letters and not yes:
        if not sys.stdin.isatty():
            refuse("--replay asks before it publishes; without a terminal, add --yes")
        typer.confirm(f"Publish {len(letters):,} records again? Those whose bytes are wrong come back.", abort=True)
    if letters:
        topic = settings.topic(topics.USAGE)
        asyncio.run(publish_again(settings.kafka_client(), topic, letters))
        # Marked afterwards: interrupted between the two, letters are published twice, and an event_id counts once.
        mark_replayed(client, settings.clickhouse_database, letters, datetime.now(UTC))
    if as_json:
        echo_json({"replayed": len(letters)})
    else:
        out.print(f"{len(letters):,} published again. Those that are still wrong come back as new dead letters.")


def _show(letters: list[Letter], as_json: bool) -> None:
    if as_json:
        for letter in letters:
            echo_json(record(letter))
        return
    out.print(
        table(
            ("recorded (UTC)", "at", "reason", "service", "message", "replayed"),
            [
                (
                    f"{letter.recorded_at:%Y-%m-%d %H:%M:%S}",
                    f"{letter.partition}/{letter.offset}",
                    letter.reason,
                    letter.service,
                    letter.message[:_SHOWN_CHARACTERS],
                    "" if letter.replayed_at is None else f"{letter.replayed_at:%Y-%m-%d %H:%M}",
                )
                for letter in letters
            ],
        )
    )
    err.print(f"{len(letters):,} dead letters")


def record(letter: Letter) -> dict[str, Any]:
    """Return a letter as JSON values. ``original`` and ``key`` are text; bytes that are no UTF-8 are escaped."""
    return {
        "recorded_at": letter.recorded_at,
        "topic": letter.topic,
        "source_log": letter.source_log,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "field": letter.field or None,
        "message": letter.message,
        "event_id": letter.event_id or None,
        "service": letter.service or None,
        "replayed_at": letter.replayed_at,
        "key": letter.key,
        "original": letter.original,
    }
