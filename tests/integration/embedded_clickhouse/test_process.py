"""The embedded ClickHouse's process: one a folder, and what it survives."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.embedded.process import ProcessFailed
from tests.integration.embedded_clickhouse.requests import arrow_stream, ask

pytestmark = pytest.mark.clickhouse


def test_second_server_on_one_folder_says_why_it_fails(server: EmbeddedClickHouse) -> None:
    with pytest.raises(ProcessFailed, match=r"exited with status 3 .*\n.* is in use by another ClickHouse server"):
        EmbeddedClickHouse(server.path).start()
    assert ask(server, body="SELECT 1")[0] == 200
    assert json.loads((server.path / "server.json").read_text()) == {"url": server.url, "pid": server.pid}


def test_port_in_use_is_reported(server: EmbeddedClickHouse, tmp_path: Path) -> None:
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
