"""Numbered migrations: applied in order, recorded with a checksum, undone in reverse.

    0001_calls.up.sql    0001_calls.down.sql

An applied migration is never edited; a change is a new one. ClickHouse has no transactions around DDL and no locks, so
every statement is written to be harmless when repeated (IF NOT EXISTS): a run that was killed half-way is finished by
the next, and two runs at once do the same work twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from spendstream.clickhouse.retention import Retention, retention_changes
from spendstream.clickhouse.template import Target, render
from spendstream.errors import SpendstreamError

FOLDER: Final = Path(__file__).parent / "migrations"
RECORD_TABLE: Final = "schema_migrations"

_UP_FILE: Final = re.compile(r"(\d{4})_(\w+)\.up\.sql")
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


class MigrationError(SpendstreamError):
    """Migrations and database don't fit together; the message says which and what to do."""


class MigrationChanged(MigrationError):
    """The file of an applied migration is not what was applied."""


class MigrationUnknown(MigrationError):
    """The database has a migration that this release does not: a newer release was here."""


class ShardedCluster(MigrationError):
    """The cluster has several shards: a row and its replacement could end on different ones, and count twice."""


class Client(Protocol):
    """What is needed of a clickhouse-connect client. It must not name a database that may not exist yet."""

    def command(self, cmd: str) -> Any: ...
    def query(self, query: str) -> Any: ...


@dataclass(frozen=True)
class MigrationSettings:
    """Where, and how long rows are kept."""

    target: Target = field(default_factory=Target)
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True)
class Migration:
    """One migration as the files have it. `checksum`: sha256 of the up file, hexadecimal."""

    number: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()


@dataclass(frozen=True)
class MigrationStatus:
    """One migration and whether it is applied. `problem`: why it can't be worked with, empty where it can."""

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
        """Apply what is missing, then bring the tables to the retention that is set. Return what was applied.

        Raises: MigrationChanged, MigrationUnknown, ShardedCluster; the client's errors.
        """
        self._prepare()
        records = self._records()
        self._check(records)
        missing = [migration for migration in self._migrations if migration.number not in records]
        for migration in missing:
            self._run(migration.up)
            self._record(migration, is_applied=True)
        self.apply_retention()
        return missing

    def down(self, to: int) -> list[Migration]:
        """Undo, newest first, every applied migration with a number greater than `to`; 0 undoes all. With data and all.

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
        """Return every migration that the files or the database know, in order. Changes nothing; problems are told."""
        records = self._records() if self._is_prepared() else {}
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
        """Bring the tables to the retention that is set. Return the statements it took, none where all was well."""
        rows = self._client.query(
            f"SELECT name, engine_full FROM system.tables WHERE database = '{self._target.database}'"
        ).result_rows
        changes = list(retention_changes(self._settings.retention, dict(rows), self._target))
        for change in changes:
            self._client.command(change)
        return changes

    def _prepare(self) -> None:
        if self._target.cluster:
            self._check_one_shard(self._target.cluster)
        self._client.command(f"CREATE DATABASE IF NOT EXISTS {self._target.database} {self._target.on_cluster}")
        self._run(_RECORD_DDL)

    def _check_one_shard(self, cluster: str) -> None:
        rows = self._client.query(f"SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = '{cluster}'")
        shards = int(rows.result_rows[0][0])
        if shards == 0:
            raise MigrationError(f"system.clusters has no cluster {cluster!r}")
        if shards > 1:
            raise ShardedCluster(
                f"cluster {cluster!r} has {shards} shards; a row and its replacement must meet on one: "
                "name a cluster of one shard with as many replicas as you like"
            )

    def _is_prepared(self) -> bool:
        rows = self._client.query(
            f"SELECT count() FROM system.tables WHERE database = '{self._target.database}' AND name = '{RECORD_TABLE}'"
        ).result_rows
        return bool(rows[0][0])

    def _records(self) -> dict[int, _Record]:
        rows = self._client.query(
            "SELECT number, argMax(name, at), argMax(checksum, at) "
            f"FROM {self._target.database}.{RECORD_TABLE} GROUP BY number HAVING argMax(is_applied, at)"
        ).result_rows
        return {int(number): _Record(name, checksum) for number, name, checksum in rows}

    def _check(self, records: dict[int, _Record]) -> None:
        self._check_known(records)
        for migration in self._migrations:
            if problem := _problem(migration, records.get(migration.number)):
                raise MigrationChanged(problem)

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
