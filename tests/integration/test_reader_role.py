"""The role of BI tools reads every view and no table: on the real engine, as a user with nothing but that role."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.migrate import MigrationSettings, Migrator, Target, reader_statements
from tests.doc_blocks import ROOT, blocks

pytestmark = pytest.mark.clickhouse

VIEWS: Final = (
    *("spend_1m", "spend_1h", "spend_1d", "calls_v", "charges_v", "dead_letters_v"),
    *("alerts_v", "alerts_current", "rate_cards_v", "rates_v"),
)
TABLES: Final = ("calls", "rollups_1m", "dead_letters", "alerts", "rate_cards", "schema_migrations")
_ENGINE: Final = """
import json, sys
import chdb
from clickhouse_connect.driver.exceptions import DatabaseError
from spendstream.clickhouse.migrate import MigrationSettings, Migrator

connection = chdb.connect(sys.argv[1])
class Client:
    def command(self, sql):
        try:
            return connection.query(sql.replace("DEFINER = CURRENT_USER", "DEFINER = owner"))
        except chdb.ChdbError as error:
            raise DatabaseError(str(error)) from None
    def query(self, sql):
        rows = json.loads(bytes(connection.query(sql, "JSONCompact").bytes()))["data"]
        return type("Result", (), {"result_rows": rows})
def run(sql):
    try:
        return str(connection.query(sql, "CSV"))
    except Exception as error:
        return str(error)
if sys.argv[2] == "migrate":
    Migrator(Client(), MigrationSettings()).up()
print(json.dumps([run(sql) for sql in json.load(sys.stdin)]))
"""
"""The engine knows one user, ``default``, with the rights that its configuration gives it: the reader's, in one run."""


def ask(folder: Path, what: str, statements: list[str], users: str, roles: str = "") -> list[Any]:
    config, known = folder / "config.xml", folder / "users.xml"
    known.write_text(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas>"
        f"<users>{users}{_user('owner')}</users><roles>{roles}</roles></clickhouse>"
    )
    config.write_text(
        f"<clickhouse><user_directories><users_xml><path>{known}</path></users_xml></user_directories></clickhouse>"
    )
    done = subprocess.run(
        [sys.executable, "-c", _ENGINE, f"{folder / 'data'}?config-file={config}", what],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _user(name: str, grants: str = "") -> str:
    return (
        f"<{name}><password></password><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<quota>default</quota>{grants}</{name}>"
    )


def _grants(*statements: str) -> str:
    return "<grants>" + "".join(f"<query>{statement}</query>" for statement in statements) + "</grants>"


def test_a_reader_reads_every_view_and_no_table_and_changes_nothing(tmp_path: Path) -> None:
    create, *grants = reader_statements(VIEWS, Target())
    role = create.split()[-1]
    row = "INSERT INTO spendstream.calls (event_id, occurred_at, cost_usd) VALUES (generateUUIDv4(), now(), 1.5)"
    assert ask(tmp_path, "migrate", [row], _user("default")) == [""]

    reader = _user("default", _grants(f"GRANT {role}"))
    roles = f"<{role}>{_grants(*(grant.removesuffix(f' TO {role}') for grant in grants))}</{role}>"

    def as_reader(*statements: str) -> list[Any]:
        return ask(tmp_path, "ask", list(statements), reader, roles)

    views = as_reader(*(f"SELECT count() FROM spendstream.{view}" for view in VIEWS))
    assert dict(zip(VIEWS, views, strict=True)) == {view: "1\n" if view == "calls_v" else "0\n" for view in VIEWS}
    refused = as_reader(
        *(f"SELECT count() FROM spendstream.{table}" for table in TABLES),
        row,
        "DROP VIEW spendstream.calls_v",
        "CREATE VIEW spendstream.mine AS SELECT * FROM spendstream.calls_v",
    )
    assert all("ACCESS_DENIED" in answer for answer in refused), refused
    assert as_reader("SELECT cost_usd FROM spendstream.calls_v") == ["1.5\n"]


def test_migrating_makes_the_role_where_the_user_may(client: Client) -> None:
    sent: list[str] = []

    class Recording:
        def command(self, cmd: str) -> Any:
            sent.append(cmd)
            return None if "ROLE" in cmd or cmd.startswith("GRANT") else client.command(cmd)

        query = staticmethod(client.query)

    target = Target("readable")
    try:
        Migrator(Recording(), MigrationSettings(target)).up()
    finally:
        client.command("DROP DATABASE IF EXISTS readable SYNC")
    assert [sql for sql in sent if "readable_bi" in sql] == reader_statements(sorted(VIEWS), target)


def test_migrating_goes_on_where_the_user_may_not_make_roles(client: Client) -> None:
    migrator = Migrator(client, MigrationSettings(Target("unreadable")))
    try:
        migrator.up()
        assert not migrator.apply_view_rights()
    finally:
        client.command("DROP DATABASE IF EXISTS unreadable SYNC")


@pytest.mark.parametrize("cluster", [None, "main"])
def test_the_statements_of_the_role_are_valid_sql(client: Client, cluster: str | None) -> None:
    for sql in reader_statements(VIEWS, Target("spend", cluster)):
        assert client.command(f"EXPLAIN AST {sql}")
        assert ("ON CLUSTER 'main'" in sql) == (cluster is not None)


def test_the_statements_that_the_documentation_gives_are_valid_sql(client: Client) -> None:
    page = ROOT / "docs/sql.md"
    given = [sql for block in blocks("text", documents=[page]) for sql in block.text.split(";\n") if sql]
    assert {sql.split()[0] for sql in given} == {"CREATE", "GRANT"}
    for sql in given:
        assert client.command(f"EXPLAIN AST {sql}")
