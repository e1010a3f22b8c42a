"""A client as any program has it, and a table to write to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from spendstream.embedded.clickhouse import EmbeddedClickHouse


@pytest.fixture
def client(server: EmbeddedClickHouse) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=server.url) as connected:
        yield connected


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    """A fresh table with columns ``a UInt64`` and ``b String DEFAULT 'none'``."""
    name = f"t_{uuid.uuid4().hex}"
    client.command(f"CREATE TABLE {name} (a UInt64, b String DEFAULT 'none') ENGINE = MergeTree ORDER BY a")
    yield name
    client.command(f"DROP TABLE {name}")
