"""``spendstream query`` runs SQL on ClickHouse; ``spendstream migrate`` brings its tables and views up to date."""

from typing import Annotated, Any

import typer

from spendstream.cli.console import echo_json, out, table
from spendstream.cli.environment import load_settings
from spendstream.clickhouse.client import clickhouse_settings, open_client
from spendstream.clickhouse.migrate import Migrator, migration_settings
from spendstream.clickhouse.statements import stacked_at, why_it_writes
from spendstream.errors import SpendstreamError


class NotARead(SpendstreamError):
    """What was given to ``query`` is not one reading statement."""


def query(
    sql: Annotated[str, typer.Argument(help="One statement. Unqualified names refer to CLICKHOUSE_DATABASE.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per row, with amounts as strings.")] = False,
) -> None:
    """Run one reading statement on ClickHouse, which refuses writes meanwhile, whatever user is set.

    The views spend_1m, spend_1h, spend_1d and calls_v never contain duplicates.
    """
    _check_read(sql.encode())
    settings = load_settings()
    # Set after connecting, so that a missing database is an error of the statement, which explain() has a hint for.
    with open_client(clickhouse_settings(settings)) as client:
        client.database = settings.clickhouse_database
        result = client.query(sql, settings=_read_only(client))
    if as_json:
        for row in result.result_rows:
            echo_json(dict(zip(result.column_names, row, strict=True)))
    else:
        out.print(table(result.column_names, result.result_rows))


def _check_read(sql: bytes) -> None:
    if (at := stacked_at(sql)) is not None:
        raise NotARead(
            f"more than one statement: text follows the ; at character {len(sql[:at].decode()) + 1}. Run each alone"
        )
    if (what := why_it_writes(sql)) is not None:
        raise NotARead(
            f"{what} is not a read, and this command only reads. Use another ClickHouse client to change data"
        )


def _read_only(client: Any) -> dict[str, int]:
    """The setting that makes the server refuse writes. With 2, a SETTINGS clause may set anything but ``readonly``.

    A user whose profile is read-only already may not set it.
    """
    known = client.server_settings.get("readonly")
    return {} if known is not None and known.value in ("1", "2") else {"readonly": 2}


def migrate(
    status: Annotated[bool, typer.Option("--status", help="Show what is applied; change nothing.")] = False,
    down_to: Annotated[
        int | None, typer.Option(min=0, help="Roll back every migration above this number, and delete its data.")
    ] = None,
) -> None:
    """Apply missing migrations and the configured retention.

    With --status, the exit status is 1 if a migration is missing or has a problem.
    """
    settings = load_settings()
    with open_client(clickhouse_settings(settings)) as client:
        migrator = Migrator(client, migration_settings(settings))
        if status:
            found = migrator.status()
            rows = [(f"{s.number:04}", s.name, "applied" if s.is_applied else "missing", s.problem) for s in found]
            out.print(table(("number", "name", "state", "problem"), rows))
            if any(s.problem or not s.is_applied for s in found):
                raise typer.Exit(1)
            return
        verb, migrations = ("applied", migrator.up()) if down_to is None else ("rolled back", migrator.down(down_to))
    for migration in migrations:
        out.print(f"{verb} {migration.number:04} {migration.name}")
    if not migrations:
        out.print("nothing to do: already up to date")
