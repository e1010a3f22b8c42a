"""What curl and BI tools send is answered as a ClickHouse server answers it."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
import zlib
from collections.abc import Callable
from urllib.parse import urlsplit

import lz4.frame  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.embedded.compression import Frames, decompress, read_frames
from tests.integration.embedded_clickhouse.requests import arrow_stream, ask

pytestmark = pytest.mark.clickhouse


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


@pytest.mark.parametrize("statement", ["SELECT number, 'é' FROM numbers(200000)", "SHOW DATABASES"])
def test_answer_is_compressed_as_the_client_accepts_it(server: EmbeddedClickHouse, statement: str) -> None:
    plain = ask(server, body=statement)[2]
    for encoding in ("gzip", "deflate", "lz4", "zstd"):
        _, headers, body = ask(server, body=statement, headers={"Accept-Encoding": encoding})
        assert headers["Content-Encoding"] == encoding
        assert decompress(body, encoding) == plain
    _, headers, body = ask(server, body=statement, headers={"Accept-Encoding": "gzip"}, enable_http_compression="0")
    assert ("Content-Encoding" in headers, body) == (False, plain)


@pytest.mark.parametrize("method", ["LZ4", "ZSTD", "NONE"])
def test_clickhouses_own_frames_go_in_and_come_out(
    server: EmbeddedClickHouse, client: Client, table: str, method: str
) -> None:
    rows = b"".join(b"%d,x;y\n" % number for number in range(300_000))
    inserted = ask(server, query=f"INSERT INTO {table} FORMAT CSV", body=Frames(method).compress(rows), decompress="1")
    assert inserted[0] == 200
    query = f"SELECT * FROM {table} ORDER BY a FORMAT CSV"
    answer = ask(server, body=query, compress="1", network_compression_method=method)[2]
    assert read_frames(answer) == ask(server, body=query)[2]
    assert client.query(f"SELECT count() FROM {table}").result_rows == [(300_000,)]
    status, headers, _ = ask(server, query="SELECT 1", body=b"x" * 40, decompress="1")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (400, "271")


def test_native_answer_has_the_header_of_its_protocol_version(server: EmbeddedClickHouse) -> None:
    info = b"\x01\x00\x02\xff\xff\xff\xff\x00"
    for version, expected in (
        ("0", b"\x01\x01\x01a\x05UInt8\x01"),
        ("54405", info + b"\x01\x01\x01a\x05UInt8\x01"),
        ("54460", info + b"\x01\x01\x01a\x05UInt8\x00\x01"),
    ):
        assert ask(server, body="SELECT 1 AS a FORMAT Native", client_protocol_version=version)[2] == expected
    status, headers, _ = ask(server, body="SELECT sumState(1) FORMAT Native", client_protocol_version="54460")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (501, "48")


def test_every_column_of_a_native_answer_is_measured(server: EmbeddedClickHouse) -> None:
    expressions = (
        "number", "toString(number)", "repeat('é', number % 300)", "if(number % 2, NULL, toDecimal128(number, 12))",
        "toLowCardinality(toString(number % 7))", "toLowCardinality(if(number % 3, NULL, 'x'))", "range(number % 4)",
        "map('a', toLowCardinality(toString(number)))", "[]::Array(LowCardinality(String))", "(1, 'a', [number])",
        "'x'::Enum8('x' = 1, 'a, (b' = 2)", "(1, 'a')::Tuple(a UInt8, `b, c` String)", "generateUUIDv4()", "now64(6)",
    )  # fmt: skip
    for expression in expressions:
        query = f"SELECT {expression} AS a, number AS the_marked_one FROM numbers(70000) FORMAT Native"
        plain = ask(server, body=query)[2]
        body = ask(server, body=query, client_protocol_version="54460")[2]
        blocks = plain.count(b"\x0ethe_marked_one\x06UInt64")
        assert body.count(b"\x0ethe_marked_one\x06UInt64\x00") == blocks > 1, expression
        assert len(body) == len(plain) + blocks * (8 + 2), expression


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
