"""Ports for servers that are killed and started again at the same address."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

# Below the range from which systems draw the local ports of outgoing connections (Linux: from 32768). While a server
# inside that range is down, any client, even one trying to reach it, may be given its port, and it can't come back.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_ATTEMPTS = 100


def lasting_port(host: str = LOOPBACK) -> int:
    """Return a free TCP port that no outgoing connection will take while its server is down.

    Raises: OSError, when 100 random ports between 20,000 and 32,000 are all taken.
    """
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_FIRST_PORT} and {_LAST_PORT} on {host}")
