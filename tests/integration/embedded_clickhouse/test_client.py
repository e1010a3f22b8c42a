"""clickhouse-connect, unmodified, works on the embedded ClickHouse as on a server."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.integration.embedded_clickhouse.requests import arrow_stream, ask

pytestmark = pytest.mark.clickhouse


def test_handshake_learns_version_time_zone_and_settings(client: Client) -> None:
    assert int(client.server_version.split(".")[0]) >= 24
    assert client.server_tz is UTC or str(client.server_tz) == "UTC"
    assert "max_threads" in client.server_settings


def test_rows_come_back_as_inserted(client: Client, table: str) -> None:
    summary = client.insert(table, [[1, "x"], [2, "ü\n\t\\"]], column_names=["a", "b"])
    assert summary.written_rows == 2
    assert client.query(f"SELECT * FROM {table} ORDER BY a").result_rows == [(1, "x"), (2, "ü\n\t\\")]
    assert client.command(f"SELECT count() FROM {table}") == 2


@pytest.mark.parametrize("codec", ["lz4", "zstd", "gzip", False])
def test_insert_of_several_compressed_blocks_is_whole(
    server: EmbeddedClickHouse, table: str, codec: str | bool
) -> None:
    rows = [[number, "x" * 10] for number in range(40_000)]  # the client sends a frame per 16,384 rows
    with clickhouse_connect.get_client(dsn=server.url, compress=codec) as client:
        client.insert(table, rows, column_names=["a", "b"])
        assert client.query(f"SELECT count(), sum(a) FROM {table}").result_rows == [(40_000, sum(range(40_000)))]


def test_arrow_goes_in_and_comes_out(client: Client, table: str) -> None:
    rows = pa.table({"a": pa.array([1, 2], pa.uint64()), "b": ["x", "y"]})
    client.insert_arrow(table, rows)
    assert client.query_arrow(f"SELECT * FROM {table} ORDER BY a").to_pylist() == rows.to_pylist()
    with client.query_arrow_stream(f"SELECT * FROM {table} ORDER BY a") as batches:
        assert sum(batch.num_rows for batch in batches) == 2


def test_result_is_streamed_block_by_block(client: Client) -> None:
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
        sizes = [len(block) for block in blocks]
    assert sum(sizes) == 300_000
    assert len(sizes) > 1


def test_abandoned_stream_does_not_hold_the_server(client: Client, server: EmbeddedClickHouse) -> None:
    body = client.raw_stream("SELECT number FROM numbers(10000000000)", fmt="Native")
    body.read(1000)
    body._connection.sock.shutdown(2)
    body.close()
    query = "SELECT count() FROM system.processes WHERE query LIKE '%10000000000%' AND query NOT LIKE '%processes%'"
    deadline = time.monotonic() + 60
    while (left := ask(server, body=query)[2]) != b"0\n":
        assert time.monotonic() < deadline, f"{left!r} statements still run"
        time.sleep(0.05)


def test_error_in_the_middle_of_a_stream_reaches_the_reader(client: Client) -> None:
    failing = "SELECT throwIf(number = 450000, 'boom') FROM numbers(1000000)"
    settings = {"max_threads": 1, "max_block_size": 10_000}
    with (
        pytest.raises(StreamFailureError, match="boom"),
        client.query_row_block_stream(failing, settings=settings) as blocks,
    ):
        for _ in blocks:
            pass


def test_parameters_are_bound_by_the_engine(client: Client) -> None:
    text, at = "it's \\ a\ttab\n", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    query = "SELECT {text:String}, {numbers:Array(UInt8)}, toUnixTimestamp({at:DateTime('UTC')})"
    row = client.query(query, parameters={"text": text, "numbers": [1, 2], "at": at}).result_rows[0]
    assert row == (text, [1, 2], int(at.timestamp()))


@pytest.mark.parametrize(
    ("statement", "code"),
    [("SELECT * FROM nowhere", 60), ("SELEKT 1", 62), ("SELECT nothing", 47), ("USE nowhere", 81)],
)
def test_errors_carry_the_code_of_clickhouse(client: Client, statement: str, code: int) -> None:
    with pytest.raises(DatabaseError, match=f"Code: {code}. DB::Exception") as raised:
        client.command(statement)
    assert raised.value.code == code


def test_insert_with_harmless_settings_is_accepted(client: Client, table: str) -> None:
    settings = {
        "async_insert": 1,
        "wait_for_async_insert": 1,
        "wait_end_of_query": 1,
        "max_insert_block_size": 1000,
        "insert_deduplicate": 0,
    }
    client.insert(table, [[1, "x"]], column_names=["a", "b"], settings=settings)
    assert client.command(f"SELECT count() FROM {table}") == 1


def test_session_keeps_its_temporary_table_to_itself(server: EmbeddedClickHouse) -> None:
    first = clickhouse_connect.get_client(dsn=server.url)
    second = clickhouse_connect.get_client(dsn=server.url)
    with first, second:
        first.command("CREATE TEMPORARY TABLE mine (a UInt8)")
        first.command("INSERT INTO mine VALUES (1), (2)")
        assert first.command("SELECT count() FROM mine") == 2
        with pytest.raises(DatabaseError, match="Code: 60"):
            second.command("SELECT count() FROM mine")


def test_settings_of_one_request_do_not_reach_the_next(client: Client) -> None:
    query = "SELECT getSetting('max_block_size')"
    before = client.command(query)
    assert client.command(query, settings={"max_block_size": 123}) == 123
    assert client.command(query) == before


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_arrow_stream_fills_every_column_type_of_the_ledger(client: Client, codec: str | None) -> None:
    event_id, at = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    cost = Decimal("-99999999999999999999999999.999999999999")
    columns = {
        "event_id": ("UUID", pa.array([event_id.bytes], pa.binary(16)), event_id),
        "at": ("DateTime64(6, 'UTC')", pa.array([at], pa.timestamp("us", "UTC")), at),
        "cost": ("Decimal(38, 12)", pa.array([cost], pa.decimal128(38, 12)), cost),
        "unpriced": ("Nullable(Decimal(38, 12))", pa.array([None], pa.decimal128(38, 12)), None),
        "team": ("LowCardinality(String)", pa.array(["core"]).dictionary_encode(), "core"),
        "tokens": ("UInt64", pa.array([2**62], pa.int64()), 2**62),
        "failed": ("Bool", pa.array([True]), True),
        "tags": ("Map(String, String)", pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())), {"k": "v"}),
        "region": ("String", pa.array([None], pa.string()), ""),
    }
    definitions = ", ".join(f"{name} {kind}" for name, (kind, _, _) in columns.items())
    client.command(f"CREATE OR REPLACE TABLE ledger ({definitions}, absent UInt8 DEFAULT 7) ENGINE = Memory")
    body = arrow_stream(pa.table({name: values for name, (_, values, _) in columns.items()}), codec)
    assert client.raw_insert("ledger", insert_block=body, fmt="ArrowStream").written_rows == 1
    row = client.query("SELECT * FROM ledger", column_tzs={"at": "UTC"}, tz_mode="aware").first_item
    assert row == {name: value for name, (_, _, value) in columns.items()} | {"absent": 7}


def test_view_over_final_shows_the_greatest_version_only(client: Client) -> None:
    client.command(
        "CREATE OR REPLACE TABLE totals (k UInt8, amount UInt64, through_offset UInt64)"
        " ENGINE = ReplacingMergeTree(through_offset) ORDER BY k"
    )
    client.command("CREATE OR REPLACE VIEW totals_v AS SELECT * FROM totals FINAL")
    for amount, offset in ((10, 1), (30, 3), (20, 2)):
        client.insert("totals", [[1, amount, offset]], column_names=["k", "amount", "through_offset"])
    assert client.query("SELECT sum(amount) FROM totals_v").result_rows == [(30,)]
    assert client.query("SELECT * FROM totals_v WHERE amount = 20").result_rows == []
