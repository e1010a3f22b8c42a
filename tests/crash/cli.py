"""The command line as a user starts it: a process, with the environment of a crash test's world."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_OF_ANOTHER_STACK = ("KAFKA_", "CLICKHOUSE_", "METRICS_", "METER_", "WORKER_", "RATE_", "LOG_", "SINK_")


def run_cli(*arguments: str, env: Mapping[str, str], timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in this environment and nothing that the machine has set for another stack."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OF_ANOTHER_STACK)}
    return subprocess.run(
        [sys.executable, "-m", "spendstream.cli", *arguments],
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON objects that a command printed. Raises: AssertionError, where it failed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
