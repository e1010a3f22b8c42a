"""Plain HTTP requests, and bodies for them."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlencode, urlsplit

import pyarrow as pa

from spendstream.embedded.clickhouse import EmbeddedClickHouse

Reply = tuple[int, dict[str, str], bytes]


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
