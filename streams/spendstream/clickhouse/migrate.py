"""Migrations of ClickHouse: applied in order, recorded with a checksum, undone in reverse; and retention.

A migration is ``NNNN_name.up.sql`` beside ``NNNN_name.down.sql``: ClickHouse SQL with a few placeholders, so that one
source serves a single node and a cluster.

{database}                 the database's name
{on_cluster}               nothing, or ON CLUSTER 'name'
{replacing:TABLE:VERSION}  ReplacingMergeTree(VERSION), or its replicated form with a path in Keeper for TABLE

An applied migration is never edited; a change is a new one. ClickHouse has no transactions around DDL and no locks, so
every statement is harmless when repeated (IF NOT EXISTS): a run that was killed half-way is finished by the next, and
two runs at once do the same work twice.

Retention is a setting, applied to tables that exist, and so not a migration. It counts from ``inserted_at``, when a row
came into ClickHouse, not from when the call happened. Counted from the call, importing last year's usage under a
retention of 90 days would delete it within minutes, without a word. Counted from the insert, each row stays at least as
long as was set. The price: the count starts over for a row that is written again (a late call revises its minute, a
replay).

Three more things hold for whatever the migrations made, and so are settings too, applied where they differ: comments
(``spendstream.clickhouse.comments``); that views read with the rights of the user who migrated (SQL SECURITY DEFINER),
so that a reader needs none on tables; and the role of such readers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError

from spendstream.clickhouse.client import NOT_ALLOWED, error_code
from spendstream.clickhouse.comments import TABLES, column_comment
from spendstream.errors import SpendstreamError
from spendstream.settings import Settings

FOLDER: Final = Path(__file__).parent / "migrations"
RECORD_TABLE: Final = "schema_migrations"

_UP_FILE: Final = re.compile(r"(\d{4})_(\w+)\.up\.sql")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_REPLACING: Final = re.compile(r"replacing:(\w+):(\w+)")
_STATEMENT_END: Final = re.compile(r";\s*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)
_TTL: Final = re.compile(r"\bTTL toDateTime\(inserted_at\) \+ toIntervalDay\((\d+)\)")
_ANY_TTL: Final = re.compile(r"\bTTL (.+?)(?: SETTINGS|$)", re.DOTALL)
_RECORD_DDL: Final = """
CREATE TABLE IF NOT EXISTS {database}.schema_migrations {on_cluster}
(
    number UInt32,
    name String,
    checksum String,
    is_applied Bool,
    at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = {replacing:schema_migrations:at}
ORDER BY number;
"""


class TemplateError(SpendstreamError):
    """A migration has a placeholder that nothing fills, or a name is not one that SQL takes unquoted."""


@dataclass(frozen=True)
class Target:
    """Where tables are made. ``cluster``: a name of ``system.clusters``, None for a single node.

    Raises: TemplateError, when a name is not made of letters, digits and underscores.
    """

    database: str = "spendstream"
    cluster: str | None = None

    def __post_init__(self) -> None:
        for name in (self.database, self.cluster or "none"):
            if not _NAME.fullmatch(name):
                raise TemplateError(f"{name!r}: a database or cluster name is letters, digits and underscores")

    @property
    def on_cluster(self) -> str:
        """The clause that runs a statement on every node, empty for a single node."""
        return f"ON CLUSTER '{self.cluster}'" if self.cluster else ""

    def replacing(self, table: str, version: str) -> str:
        """Return the engine that keeps, of the rows of one key, the one with the greatest ``version``.

        The replicated form names its path, so that a replica added later finds it. ``{shard}``, ``{database}`` and
        ``{replica}`` are macros of the server.
        """
        if not self.cluster:
            return f"ReplacingMergeTree({version})"
        path = f"/clickhouse/tables/{{shard}}/{{database}}/{table}"
        return f"ReplicatedReplacingMergeTree('{path}', '{{replica}}', {version})"


def render(template: str, target: Target) -> list[str]:
    """Return the statements of a migration, ready to run.

    A statement ends with a semicolon at the end of a line. Raises: TemplateError, on an unknown placeholder.
    """

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "database":
            return target.database
        if name == "on_cluster":
            return target.on_cluster
        if engine := _REPLACING.fullmatch(name):
            return target.replacing(engine.group(1), engine.group(2))
        raise TemplateError(f"unknown placeholder {match.group(0)}")

    # Comments go first: a word in braces or a semicolon in one means nothing.
    sql = _PLACEHOLDER.sub(fill, _COMMENT.sub("", template))
    return [statement for part in _STATEMENT_END.split(sql) if (statement := part.strip())]


@dataclass(frozen=True)
class Retention:
    """Days that rows are kept after they were inserted; 0, the default, keeps them for good."""

    calls_days: int = 0
    rollups_days: int = 0
    dead_letters_days: int = 0
    alerts_days: int = 0

    def __post_init__(self) -> None:
        for table, days in self.by_table().items():
            if days < 0:
                raise ValueError(f"retention of {table}: {days} days; 0 keeps rows for good")

    def by_table(self) -> dict[str, int]:
        """Return the days by table name."""
        return {
            "calls": self.calls_days,
            "rollups_1m": self.rollups_days,
            "dead_letters": self.dead_letters_days,
            "alerts": self.alerts_days,
        }


def retention_changes(retention: Retention, engines: Mapping[str, str], target: Target) -> Iterator[str]:
    """Yield the statements that set the configured retention; none where nothing differs.

    ``engines``: the ``engine_full`` of ``system.tables``, by table name.
    """
    for table, days in retention.by_table().items():
        engine = engines.get(table)
        if engine is None or _days(engine) == days:
            continue
        change = f"MODIFY TTL toDateTime(inserted_at) + toIntervalDay({days})" if days else "REMOVE TTL"
        yield " ".join(f"ALTER TABLE {target.database}.{table} {target.on_cluster} {change}".split())


def _days(engine_full: str) -> int | None:
    """Return the days of a table's TTL, 0 where it has none, None where it has one of another form."""
    if found := _TTL.search(engine_full):
        return int(found.group(1))
    return None if _ANY_TTL.search(engine_full) else 0


def comment_changes(tables: Mapping[str, str], columns: Mapping[tuple[str, str], str], target: Target) -> Iterator[str]:
    """Yield the statements that set the comments of tables, views and their columns; none where nothing differs.

    ``tables``: comments by name; ``columns``: comments by table and column. What has no text of ours is left alone.
    """
    for table, present in tables.items():
        changes = [
            f"COMMENT COLUMN {column} {_quoted(text)}"
            for (of, column), comment in columns.items()
            if of == table and (text := column_comment(table, column)) not in ("", comment)
        ]
        if TABLES.get(table, present) != present:
            changes.append(f"MODIFY COMMENT {_quoted(TABLES[table])}")
        if changes:
            yield (
                " ".join(f"ALTER TABLE {target.database}.{table} {target.on_cluster}".split())
                + " "
                + ", ".join(changes)
            )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def reader_statements(views: Sequence[str], target: Target) -> list[str]:
    """Return the statements that make the role of BI tools: ``<database>_bi`` may read these views and nothing else."""
    role, cluster = f"{target.database}_bi", target.on_cluster
    return [
        " ".join(statement.split())
        for statement in (
            f"CREATE ROLE IF NOT EXISTS {role} {cluster}",
            *(f"GRANT {cluster} SELECT ON {target.database}.{view} TO {role}" for view in views),
        )
    ]


class MigrationError(SpendstreamError):
    """Migrations and database don't match; the message says which migration, and what to do."""


class MigrationChanged(MigrationError):
    """The file of an applied migration is not what was applied."""


class MigrationUnknown(MigrationError):
    """The database has a migration that this release does not: a newer release applied it."""


class ShardedCluster(MigrationError):
    """The cluster has several shards: a row and its replacement could end on different ones, and count twice."""


class Client(Protocol):
    """The part of a clickhouse-connect client that is used. It must not name a database that may not exist yet."""

    def command(self, cmd: str) -> Any: ...
    def query(self, query: str) -> Any: ...


@dataclass(frozen=True)
class MigrationSettings:
    """Where, and how long rows are kept."""

    target: Target = field(default_factory=Target)
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True)
class Migration:
    """One migration as the files have it. ``checksum``: sha256 of the up file, hexadecimal."""

    number: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()


@dataclass(frozen=True)
class MigrationStatus:
    """One migration and whether it is applied. ``problem``: why it can't be used, empty where it can."""

    number: int
    name: str
    is_applied: bool
    problem: str = ""


@dataclass(frozen=True)
class _Record:
    name: str
    checksum: str


def load_migrations(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """Return the migrations of a folder in order. Raises: MigrationError, on a missing down file or a gap."""
    found = []
    for path in sorted(folder.glob("*.up.sql")):
        match = _UP_FILE.fullmatch(path.name)
        down = path.with_name(path.name.replace(".up.", ".down."))
        if not match or not down.exists():
            raise MigrationError(f"{path.name}: expected NNNN_name.up.sql beside NNNN_name.down.sql")
        found.append(Migration(int(match.group(1)), match.group(2), path.read_text("utf-8"), down.read_text("utf-8")))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations must be numbered 1, 2, 3 and so on, without gaps: {numbers}")
    return tuple(found)


class Migrator:
    """Brings one database to the state that the migrations describe."""

    def __init__(
        self, client: Client, settings: MigrationSettings | None = None, migrations: Sequence[Migration] | None = None
    ) -> None:
        self._client = client
        self._settings = settings or MigrationSettings()
        self._target = self._settings.target
        self._migrations = tuple(migrations if migrations is not None else load_migrations())

    def up(self) -> list[Migration]:
        """Apply what is missing, then set the configured retention. Return what was applied.

        Raises: MigrationChanged, MigrationUnknown, ShardedCluster; the client's errors.
        """
        self._prepare()
        records = self._records()
        self._check_known(records)
        for migration in self._migrations:
            if problem := _problem(migration, records.get(migration.number)):
                raise MigrationChanged(problem)
        missing = [migration for migration in self._migrations if migration.number not in records]
        for migration in missing:
            self._run(migration.up)
            self._record(migration, is_applied=True)
        self.apply_retention()
        self.apply_comments()
        self.apply_view_rights()
        return missing

    def down(self, to: int) -> list[Migration]:
        """Undo, newest first, every applied migration with a number greater than ``to``, with its data; 0 undoes all.

        Return what was undone. Raises: MigrationUnknown; the client's errors.
        """
        self._prepare()
        records = self._records()
        self._check_known(records)
        undone = [m for m in reversed(self._migrations) if m.number > to and m.number in records]
        for migration in undone:
            self._run(migration.down)
            self._record(migration, is_applied=False)
        return undone

    def status(self) -> list[MigrationStatus]:
        """Return every migration that the files or the database know, in order. Changes nothing; reports problems."""
        is_prepared = self._client.query(
            f"SELECT count() FROM system.tables WHERE database = '{self._target.database}' AND name = '{RECORD_TABLE}'"
        ).result_rows[0][0]
        records = self._records() if is_prepared else {}
        known = {migration.number: migration for migration in self._migrations}
        return [
            MigrationStatus(
                number,
                known[number].name if number in known else records[number].name,
                number in records,
                _problem(known.get(number), records.get(number)),
            )
            for number in sorted(known.keys() | records.keys())
        ]

    def apply_retention(self) -> list[str]:
        """Set the configured retention on the tables. Return the statements that it took, if any."""
        rows = self._client.query(
            f"SELECT name, engine_full FROM system.tables WHERE database = '{self._target.database}'"
        ).result_rows
        changes = list(retention_changes(self._settings.retention, dict(rows), self._target))
        for change in changes:
            self._client.command(change)
        return changes

    def apply_comments(self) -> list[str]:
        """Set the comments of tables, views and columns. Return the statements that it took, if any."""
        of = f"database = '{self._target.database}'"
        tables = dict(self._client.query(f"SELECT name, comment FROM system.tables WHERE {of}").result_rows)
        rows = self._client.query(f"SELECT table, name, comment FROM system.columns WHERE {of}").result_rows
        columns = {(table, column): comment for table, column, comment in rows}
        changes = list(comment_changes(tables, columns, self._target))
        for change in changes:
            self._client.command(change)
        return changes

    def apply_view_rights(self) -> bool:
        """Let views read with the rights of this user, and let the role of BI tools read the views.

        Return whether the role is there: a server may not let this user make roles. Raises: the client's errors.
        """
        rows = self._client.query(
            "SELECT name, create_table_query LIKE '%SQL SECURITY DEFINER%' FROM system.tables "
            f"WHERE database = '{self._target.database}' AND engine = 'View' ORDER BY name"
        ).result_rows
        for view, is_definer in rows:
            if not is_definer:
                alter = f"ALTER TABLE {self._target.database}.{view} {self._target.on_cluster}"
                self._client.command(f"{alter} MODIFY DEFINER = CURRENT_USER SQL SECURITY DEFINER")
        try:
            for statement in reader_statements([view for view, _ in rows], self._target):
                self._client.command(statement)
        except ClickHouseError as error:
            if error_code(error) not in NOT_ALLOWED:
                raise
            return False
        return True

    def _prepare(self) -> None:
        if self._target.cluster:
            cluster = self._target.cluster
            rows = self._client.query(f"SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = '{cluster}'")
            shards = int(rows.result_rows[0][0])
            if shards == 0:
                raise MigrationError(f"system.clusters has no cluster {cluster!r}")
            if shards > 1:
                raise ShardedCluster(
                    f"cluster {cluster!r} has {shards} shards; a row and its replacement must meet on one: "
                    "name a cluster of one shard with any number of replicas"
                )
        self._client.command(f"CREATE DATABASE IF NOT EXISTS {self._target.database} {self._target.on_cluster}")
        self._run(_RECORD_DDL)

    def _records(self) -> dict[int, _Record]:
        rows = self._client.query(
            "SELECT number, argMax(name, at), argMax(checksum, at) "
            f"FROM {self._target.database}.{RECORD_TABLE} GROUP BY number HAVING argMax(is_applied, at)"
        ).result_rows
        return {int(number): _Record(name, checksum) for number, name, checksum in rows}

    def _check_known(self, records: dict[int, _Record]) -> None:
        known = {migration.number for migration in self._migrations}
        for number in sorted(records.keys() - known):
            raise MigrationUnknown(_problem(None, records[number]))

    def _run(self, template: str) -> None:
        for statement in render(template, self._target):
            self._client.command(statement)

    def _record(self, migration: Migration, *, is_applied: bool) -> None:
        self._client.command(
            f"INSERT INTO {self._target.database}.{RECORD_TABLE} (number, name, checksum, is_applied) "
            f"VALUES ({migration.number}, '{migration.name}', '{migration.checksum}', {is_applied})"
        )


def _problem(migration: Migration | None, record: _Record | None) -> str:
    """Say why a migration and its record don't fit, empty where they do. One of the two is there."""
    if record is None:
        return ""
    if migration is None:
        return f"migration {record.name!r} was applied by a newer release: upgrade spendstream"
    if record.checksum != migration.checksum:
        return (
            f"{migration.number:04}_{migration.name}.up.sql was applied with sha256 {record.checksum[:12]}…, "
            f"but now has {migration.checksum[:12]}…: restore it, and put the change into a new migration"
        )
    return ""


def migration_settings(settings: Settings) -> MigrationSettings:
    """Return which database to migrate, and its retention. Raises: TemplateError, on a name that SQL would quote."""
    return MigrationSettings(
        Target(settings.clickhouse_database, settings.clickhouse_cluster),
        Retention(
            calls_days=settings.retention_calls_days,
            rollups_days=settings.retention_rollups_days,
            dead_letters_days=settings.retention_dead_letters_days,
            alerts_days=settings.retention_alerts_days,
        ),
    )
