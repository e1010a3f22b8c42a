"""What each command imports, and where the connections of a process come from."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from typing import Any

import faust
import pytest

from spendstream.agents.rate_books import RateBooks
from spendstream.app import build_app
from spendstream.cli.root import COMMANDS
from spendstream.clickhouse.client import clickhouse_settings
from spendstream.metrics import Metrics
from spendstream.settings import Settings
from spendstream.worker import build_sinks

ENGINES = {"faust", "mode", "polars", "pyarrow", "numpy", "genai_prices"}
KAFKA, CLICKHOUSE = {"aiokafka"}, {"clickhouse_connect"}


def imported(statement: str) -> set[str]:
    """Return the top-level modules that a process has imported after a statement, whatever it ended with."""
    script = f"import sys, json\ntry:\n {statement}\nfinally:\n print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_settings_import_no_engine_and_no_client() -> None:
    assert not imported("import spendstream.settings") & (ENGINES | KAFKA | CLICKHOUSE)


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        ("query", ENGINES | KAFKA),
        ("migrate", ENGINES | KAFKA),
        ("deadletters", ENGINES | KAFKA),
        ("topics", ENGINES | CLICKHOUSE),
        ("drain", ENGINES | CLICKHOUSE),
        ("doctor", {"faust", "mode"}),
        ("why", {"faust", "mode", "genai_prices"} | KAFKA),
        ("silence", {"faust", "mode", "polars", "genai_prices"} | CLICKHOUSE),
        ("watches", {"faust", "mode", "polars", "genai_prices"} | KAFKA | CLICKHOUSE),
        ("reconcile", {"faust", "mode", "genai_prices"}),
    ],
)
def test_a_command_imports_no_more_than_it_needs(command: str, needless: set[str]) -> None:
    assert not imported(f"import spendstream.cli.{COMMANDS[command].module}") & needless


def test_a_query_loads_neither_faust_nor_polars_even_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:9")  # nothing listens: the error is explained, too
    assert not imported("from spendstream.cli.root import run; run(['query', 'SELECT 1'])") & ENGINES


CONNECTION: dict[str, Any] = {
    "kafka_bootstrap_servers": "one:1,two:2",
    "kafka_sasl_username": "meter",
    "kafka_sasl_password": "s3cret",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
}


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_faust_connects_as_the_other_kafka_clients_do(protocol: Any) -> None:
    settings = Settings(kafka_security_protocol=protocol, **CONNECTION)
    kafka = settings.kafka_client()
    metrics = Metrics()
    app = build_app(settings, metrics, RateBooks(settings, metrics))
    assert [str(url) for url in app.conf.broker] == [f"kafka://{server}" for server in kafka["bootstrap_servers"]]
    assert app.conf.consumer_metadata_max_age_ms == kafka["metadata_max_age_ms"]
    credentials = app.conf.broker_credentials
    assert (credentials is None) == (protocol == "PLAINTEXT")
    if credentials is not None:
        assert credentials.protocol.value == protocol
    if isinstance(credentials, faust.SSLCredentials | faust.SASLCredentials) and protocol.endswith("SSL"):
        assert isinstance(credentials.__dict__.get("ssl_context") or credentials.__dict__["context"], ssl.SSLContext)
    if isinstance(credentials, faust.SASLCredentials):
        found = (credentials.mechanism.value, credentials.username, credentials.password)
        assert found == ("SCRAM-SHA-512", "meter", "s3cret")


def test_every_connection_to_clickhouse_has_every_setting_of_it() -> None:
    settings = Settings(
        clickhouse_url="https://click:8443",
        clickhouse_user="meter",
        clickhouse_password="s3cret",
        clickhouse_database="spend",
        clickhouse_cluster="main",
    )
    connection = clickhouse_settings(settings)
    assert (connection.url, connection.user, connection.password) == ("https://click:8443", "meter", "s3cret")
    assert (connection.database, connection.cluster) == ("spend", "main")
    for sink in build_sinks(settings, Metrics()):
        assert sink._writer._settings == connection
