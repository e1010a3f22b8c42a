"""``spendstream query``: runs SQL on ClickHouse."""

from typing import Annotated

import typer

from spendstream.cli.console import echo_json, out, table
from spendstream.cli.environment import load_settings
from spendstream.clickhouse.client import clickhouse_settings, open_client


def query(
    sql: Annotated[str, typer.Argument(help="One statement. Unqualified names refer to CLICKHOUSE_DATABASE.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per row, with amounts as strings.")] = False,
) -> None:
    """Run SQL on ClickHouse. The views spend_1m, spend_1h, spend_1d and calls_v never contain duplicates."""
    settings = load_settings()
    # Set after connecting, so that a missing database is an error of the statement, which explain() has a hint for.
    with open_client(clickhouse_settings(settings)) as client:
        client.database = settings.clickhouse_database
        result = client.query(sql)
    if as_json:
        for row in result.result_rows:
            echo_json(dict(zip(result.column_names, row, strict=True)))
    else:
        out.print(table(result.column_names, result.result_rows))
