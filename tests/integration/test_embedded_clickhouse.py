"""The embedded ClickHouse answers as a ClickHouse server does, and survives what one survives."""

from __future__ import annotations

import gzip
import http.client
import json
import signal
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, StreamFailureError

from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.process import ProcessFailed

pytestmark = pytest.mark.clickhouse

Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedClickHouse) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=server.url) as connected:
        yield connected


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    """A fresh table with columns `a UInt64` and `b String DEFAULT 'none'`."""
    name = f"t_{uuid.uuid4().hex}"
    client.command(f"CREATE TABLE {name} (a UInt64, b String DEFAULT 'none') ENGINE = MergeTree ORDER BY a")
    yield name
    client.command(f"DROP TABLE {name}")


def ask(
    server: EmbeddedClickHouse,
    path: str = "/",
    *,
    method: str = "POST",
    body: Any = None,
    headers: dict[str, str] | None = None,
    **parameters: str,
) -> Reply:
    """Send one plain HTTP request, as curl would. Return status, headers and body."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    try:
        connection.request(method, f"{path}?{urlencode(parameters)}", body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def arrow_stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# clickhouse-connect, unmodified


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
    deadline = time.monotonic() + 10
    while (left := ask(server, body=query)[2]) != b"0\n":
        assert time.monotonic() < deadline, f"{left!r} statements still run"
        time.sleep(0.05)


def test_error_in_mid_stream_reaches_the_reader(client: Client) -> None:
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


# curl and BI tools


@pytest.mark.parametrize("path", ["/", "/ping"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_is_answered(server: EmbeddedClickHouse, path: str, method: str) -> None:
    status, headers, body = ask(server, path, method=method)
    assert status == 200
    assert body == (b"" if method == "HEAD" else b"Ok.\n")
    assert "X-ClickHouse-Server-Display-Name" in headers


def test_query_may_be_a_parameter_a_body_or_both(server: EmbeddedClickHouse) -> None:
    assert ask(server, method="GET", query="SELECT 1")[2] == b"1\n"
    assert ask(server, body="SELECT 2")[2] == b"2\n"
    assert ask(server, query="SELECT", body="3")[2] == b"3\n"
    assert ask(server, body=iter([b"SELECT ", b"4"]))[2] == b"4\n"  # chunked


def test_long_query_may_come_as_a_form(server: EmbeddedClickHouse) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {n:UInt8} + 1\r\n'
    form += b'--x\r\nContent-Disposition: form-data; name="param_n"\r\n\r\n4\r\n--x--\r\n'
    assert ask(server, body=form, headers={"Content-Type": "multipart/form-data; boundary=x"})[2] == b"5\n"


def test_default_format_and_database_are_parameters(server: EmbeddedClickHouse) -> None:
    query = "SELECT currentDatabase() AS db"
    _, headers, body = ask(server, body=query, default_format="JSONCompact", database="system")
    assert json.loads(body)["data"] == [["system"]]
    assert headers["X-ClickHouse-Format"] == "JSONCompact"
    assert headers["Content-Type"].startswith("application/json")
    assert ask(server, body=f"{query} FORMAT JSONEachRow", default_format="JSON")[2] == b'{"db":"default"}\n'


def test_rows_of_an_insert_may_follow_in_the_body(server: EmbeddedClickHouse, client: Client, table: str) -> None:
    ask(server, query=f"INSERT INTO {table} FORMAT JSONEachRow", body='{"a": 1}\n{"a": 2, "b": "x"}')
    ask(server, body=f"INSERT INTO {table} FORMAT CSV\n3,y\n")
    ask(server, query=f"INSERT INTO {table} VALUES", body="(4, 'z')")
    assert client.query(f"SELECT * FROM {table} ORDER BY a").result_rows == [(1, "none"), (2, "x"), (3, "y"), (4, "z")]


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("lz4", lambda data: lz4.frame.compress(data[:3]) + lz4.frame.compress(data[3:])),
    ],
)
def test_compressed_body_is_read(server: EmbeddedClickHouse, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body = ask(server, body=compress(b"SELECT 1"), headers={"Content-Encoding": encoding})[2]
    assert body == b"1\n"


@pytest.mark.parametrize(("encoding", "status"), [("lz4", 400), ("gzip", 400), ("zstd", 400), ("snappy", 404)])
def test_body_that_cannot_be_decompressed_is_refused(server: EmbeddedClickHouse, encoding: str, status: int) -> None:
    answered, headers, body = ask(server, body=b"SELECT 1", headers={"Content-Encoding": encoding})
    assert answered == status
    assert body.startswith(f"Code: {headers['X-ClickHouse-Exception-Code']}. DB::Exception: ".encode())


@pytest.mark.parametrize(
    ("statement", "status", "code"),
    [
        ("SELECT * FROM nowhere", 404, "60"),
        ("SELEKT", 400, "62"),
        ("SELECT throwIf(1)", 500, "395"),
        ("SELECT 1 INTO OUTFILE 'x'", 500, "344"),
        ("INSERT INTO nowhere FORMAT CSV\n1", 404, "60"),
    ],
)
def test_error_is_a_status_a_header_and_a_text(
    server: EmbeddedClickHouse, statement: str, status: int, code: str
) -> None:
    answered, headers, body = ask(server, body=statement)
    assert (answered, headers["X-ClickHouse-Exception-Code"]) == (status, code)
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_unknown_setting_is_refused(server: EmbeddedClickHouse) -> None:
    status, headers, _ = ask(server, body="SELECT 1", nonsense="1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "115")


def test_get_reads_only(server: EmbeddedClickHouse, table: str) -> None:
    status, headers, _ = ask(server, method="GET", query=f"DROP TABLE {table}")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "164")


def test_web_page_is_refused(server: EmbeddedClickHouse) -> None:
    assert ask(server, body="SELECT 1", headers={"Origin": "http://example.com"})[0] == 403


def test_connection_is_kept_alive_through_an_error(server: EmbeddedClickHouse) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    statuses, sockets = [], set()
    for statement in ("SELECT 1", "SELEKT", "SELECT number FROM numbers(200000)", "SELECT 2"):
        connection.request("POST", "/", body=statement)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        sockets.add(connection.sock.getsockname())
    connection.close()
    assert statuses == [200, 400, 200, 200]
    assert len(sockets) == 1


def test_ping_is_prompt_while_inserts_run(server: EmbeddedClickHouse, client: Client, table: str) -> None:
    body = arrow_stream(pa.table({"a": pa.array(range(500_000), pa.uint64()), "b": ["x" * 50] * 500_000}))
    inserting = threading.Thread(
        target=lambda: [client.raw_insert(table, insert_block=body, fmt="ArrowStream") for _ in range(4)]
    )
    inserting.start()
    waits_s = []
    while inserting.is_alive():
        started = time.monotonic()
        assert ask(server, "/ping", method="GET")[0] == 200
        waits_s.append(time.monotonic() - started)
        time.sleep(0.01)
    inserting.join()
    assert client.command(f"SELECT count() FROM {table}") == 2_000_000
    assert sorted(waits_s)[len(waits_s) // 2] < 0.1
    assert max(waits_s) < 2


# The process


def test_second_server_on_one_folder_says_why_it_fails(server: EmbeddedClickHouse) -> None:
    with pytest.raises(ProcessFailed, match=r"exited with status 3 .*\n.* is in use by another ClickHouse server"):
        EmbeddedClickHouse(server.path).start()
    assert ask(server, body="SELECT 1")[0] == 200
    assert json.loads((server.path / "server.json").read_text()) == {"url": server.url, "pid": server.pid}


def test_taken_port_says_so(server: EmbeddedClickHouse, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"exited with status 4 .*\n.*can't listen on 127.0.0.1"):
        EmbeddedClickHouse(tmp_path, server.port).start()


@pytest.mark.crash
def test_acknowledged_inserts_survive_kill_nine_and_unacknowledged_ones_are_whole_or_absent(tmp_path: Path) -> None:
    rows_per_insert = 2_000
    acknowledged: set[int] = set()
    server = EmbeddedClickHouse(tmp_path)

    def insert_until_refused(writer: int) -> None:
        try:
            with clickhouse_connect.get_client(dsn=server.url) as client:
                for number in range(writer * 100_000, writer * 100_000 + 10_000):
                    rows = pa.table({"batch": pa.array([number] * rows_per_insert, pa.uint64())})
                    client.raw_insert("batches", insert_block=arrow_stream(rows), fmt="ArrowStream")
                    acknowledged.add(number)
        except (OperationalError, DatabaseError):
            return

    with server:
        with clickhouse_connect.get_client(dsn=server.url) as client:
            client.command("CREATE TABLE batches (batch UInt64) ENGINE = MergeTree ORDER BY batch")
        for round_number in range(3):
            writers = [
                threading.Thread(target=insert_until_refused, args=(round_number * 10 + number,)) for number in range(2)
            ]
            for writer in writers:
                writer.start()
            time.sleep(0.4)
            assert server.kill() == -signal.SIGKILL
            for writer in writers:
                writer.join()
            server.start()
        with clickhouse_connect.get_client(dsn=server.url) as client:
            found = dict(client.query("SELECT batch, count() FROM batches GROUP BY batch").result_rows)
    assert len(acknowledged) > 20
    assert acknowledged <= found.keys()
    # The client sends an insert again when the connection breaks, so one may stand twice, but never in part.
    assert {count % rows_per_insert for count in found.values()} == {0}


def test_server_stops_cleanly_lets_statements_end_and_comes_back_on_its_port(tmp_path: Path) -> None:
    server = EmbeddedClickHouse(tmp_path).start()
    url, replies = server.url, []
    ask(server, body="CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
    ask(server, body="INSERT INTO kept VALUES (1)")
    running = threading.Thread(target=lambda: replies.append(ask(server, body="SELECT sleep(1)")))
    running.start()
    time.sleep(0.3)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 3
    running.join()
    assert [(status, body) for status, _, body in replies] == [(200, b"0\n")]
    with server:
        assert server.url == url
        assert ask(server, body="SELECT count() FROM kept")[2] == b"1\n"
