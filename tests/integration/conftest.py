"""The real parts that the integration tests run on: each module starts its own, and stops it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from spendstream.clickhouse.client import ClickHouseSettings, open_client
from spendstream.embedded.broker import EmbeddedBroker
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.kafka.server import LocalKafka


@pytest.fixture(scope="module")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A running Apache Kafka. Without its jars the test fails, and says `make kafka`: it is never skipped."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="module")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(log_path=tmp_path_factory.mktemp("embedded") / "broker.log") as running:
        yield running


@pytest.fixture(params=["real_kafka", "embedded_broker"])
def broker(request: pytest.FixtureRequest) -> Any:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """The real ClickHouse engine, behind its HTTP interface."""
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: EmbeddedClickHouse) -> Iterator[Client]:
    """The product's own client of the server."""
    with open_client(ClickHouseSettings(server.url)) as connected:
        yield connected
