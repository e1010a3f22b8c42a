"""``spendstream query``: SQL to ClickHouse."""

from typing import Annotated, Any

import typer

from spendstream.cli.console import echo_json, out, table
from spendstream.cli.environment import load_settings
from spendstream.sinks.clickhouse import open_client
from spendstream.worker import clickhouse_settings


def query(
    sql: Annotated[str, typer.Argument(help="One statement. Unqualified names are of the configured database.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a row; amounts as strings.")] = False,
) -> None:
    """Ask ClickHouse. The views spend_1m, spend_1h, spend_1d and calls_v are always free of duplicates."""
    settings = load_settings()
    # A database that is missing is an error of the statement, not of the connection: it has a hint then.
    with open_client(clickhouse_settings(settings)) as client:
        client.database = settings.clickhouse_database
        result = client.query(sql)
    _show(list(result.column_names), result.result_rows, as_json)


def _show(columns: list[str], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            echo_json(dict(zip(columns, row, strict=True)))
    else:
        out.print(table(columns, rows))
