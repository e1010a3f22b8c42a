"""Readiness of a Kafka-protocol broker, asked without an event loop."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

_METADATA_KEY, _METADATA_VERSION = 3, 1
_CORRELATION_ID = 1
_CLIENT_ID = b"readiness"
# An empty list of topics: brokers only. (Some brokers create a topic that is asked for by name.)
_METADATA_REQUEST = (
    struct.pack(">hhih", _METADATA_KEY, _METADATA_VERSION, _CORRELATION_ID, len(_CLIENT_ID))
    + _CLIENT_ID
    + struct.pack(">i", 0)
)
_TIMEOUT_S = 2.0


def answers_metadata(host: str, port: int) -> Callable[[], bool]:
    """Return a probe: true once the broker at `host:port` answers a metadata request and names a live broker.

    A port that accepts connections is not enough: Kafka listens before it may serve.
    """

    def probe() -> bool:
        try:
            with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
                connection.sendall(struct.pack(">i", len(_METADATA_REQUEST)) + _METADATA_REQUEST)
                # Answer: its size, our correlation id, the number of live brokers.
                answer = _read_exactly(connection, 12)
        except OSError:
            return False
        _, correlation_id, brokers = struct.unpack(">iii", answer)
        return bool(correlation_id == _CORRELATION_ID and brokers > 0)

    return probe


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        chunk = connection.recv(size - len(read))
        if not chunk:
            raise ConnectionResetError("the broker closed the connection before it answered")
        read += chunk
    return read
