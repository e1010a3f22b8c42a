"""``spendstream deadletters``: lists records that could not be metered, and publishes them again."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from spendstream.cli.console import echo_json, err, out, refuse, table
from spendstream.cli.environment import load_settings
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.deadletters import Filter, Letter, find, mark_replayed
from spendstream.deadletters import replay as publish_again
from spendstream.schemas import topics
from spendstream.schemas.dead_letter import Reason
from spendstream.settings import Settings

_SHOWN_CHARACTERS = 120


def deadletters(
    reason: Annotated[Reason | None, typer.Option("--reason", help="Only those with this reason.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="Only those of this service.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many, newest first. 0: all.")] = 100,
    replay: Annotated[
        bool, typer.Option("--replay", help="Publish the original bytes of those not replayed yet again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replay without asking for confirmation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per dead letter.")] = False,
) -> None:
    """List dead letters. With --replay, publish their original bytes again.

    Replaying helps after the rule that rejected them has changed (a new release, METER_ALLOWED_SKEW_S). Bytes that
    are invalid become dead letters again.
    """
    settings = load_settings()
    wanted = Filter(
        settings.topic(topics.USAGE),
        None if reason is None else reason.value,
        service,
        limit=limit,
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
            refuse("--replay asks for confirmation, and there is no terminal: add --yes")
        typer.confirm(f"Publish {len(letters):,} records again? Invalid ones become dead letters again.", abort=True)
    if letters:
        topic = settings.topic(topics.USAGE)
        asyncio.run(publish_again(settings.kafka_client(), topic, letters))
        # Marked afterwards: an interruption in between publishes letters twice, and an event_id counts once.
        mark_replayed(client, settings.clickhouse_database, letters, datetime.now(UTC))
    if as_json:
        echo_json({"replayed": len(letters)})
    else:
        out.print(f"{len(letters):,} published again. Any that are still invalid become new dead letters.")


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
    """Return a dead letter as JSON values. ``original`` and ``key`` are text; bytes that are not UTF-8 are escaped."""
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
