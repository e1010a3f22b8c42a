"""The command line end to end, on the embedded stack, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from spendstream.schemas import topics

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(600)]

TEAMS = ("search", "support")
EVENTS = 1_000
DUPLICATES = 60
MALFORMED = (b"{", b"", b'{"event_id": "not one"}', b"\xff\xfe", b"[]", b"null", b"17")

CARD = """
cards:
  - provider: acme
    model: acme-1
    rates:
      - from: 2020-01-01
        source: "the test"
        usd_per_mtok: { input: 3, output: 15 }
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "spendstream.cli", *arguments]


def run(*arguments: str, env: Mapping[str, str] = {}, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=clean(env), cwd=cwd, capture_output=True, text=True, timeout=150, check=False
    )


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without variables that may belong to another stack."""
    names = ("KAFKA_", "CLICKHOUSE_", "METRICS_", "METER_", "WORKER_", "RATE_", "LOG_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(names)}, **env}


@contextmanager
def process(*arguments: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command(*arguments), env=clean(env), stdout=out, stderr=out) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 150.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / ".spendstream" / "state"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "cards.yaml"
    path.write_text(CARD)
    return path


@pytest.fixture
def stack(tmp_path: Path, state_dir: Path, card: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = tmp_path / "up.log"
    arguments = ("up", "--no-worker", "--state-dir", str(state_dir))
    with process(*arguments, env={"RATE_CARDS": str(card)}, log=log) as up:
        wait_for(lambda: "ready" in log.read_text() or up.poll() is not None, "the stack is not ready")
        assert up.poll() is None, log.read_text()
        yield up


def read_env(state_dir: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (state_dir / "env").read_text().splitlines())


def usage_events() -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    return [
        {
            "event_id": str(uuid.uuid4()),
            "occurred_at": now.isoformat(),
            "service": "test",
            "team": TEAMS[number % 2],
            "provider": "acme",
            "model_served": "acme-1",
            "input_tokens": 1_000 + number,
            "output_tokens": 7 * number,
        }
        for number in range(EVENTS)
    ]


def cost_usd(events: list[dict[str, Any]], team: str) -> Decimal:
    return sum(
        (Decimal(3 * e["input_tokens"] + 15 * e["output_tokens"]) / 1_000_000 for e in events if e["team"] == team),
        Decimal(0),
    )


async def publish(bootstrap: str, records: list[tuple[bytes | None, bytes]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topics.USAGE, value, key) for key, value in records])
    finally:
        await producer.stop()


def records(events: list[dict[str, Any]]) -> list[tuple[bytes | None, bytes]]:
    encoded = [(event["event_id"].encode(), json.dumps(event).encode()) for event in events]
    # The meter forwards a record without a key to the partition of its id, where its duplicate is.
    repeated = [(None if at % 3 == 0 else key, value) for at, (key, value) in enumerate(encoded[:DUPLICATES])]
    return encoded + repeated + [(b"broken", value) for value in MALFORMED]


def test_published_usage_is_drained_and_queried_exactly(
    tmp_path: Path, state_dir: Path, stack: subprocess.Popen[bytes]
) -> None:
    env = read_env(state_dir)
    events = usage_events()
    asyncio.run(publish(env["KAFKA_BOOTSTRAP_SERVERS"], records(events)))

    undrained = run("drain", "--timeout", "1", env=env)
    assert undrained.returncode == 1
    assert "spendstream-meter" in undrained.stdout

    with process("worker", env=env, log=tmp_path / "worker.log") as worker:
        drained = run("drain", "--timeout", "60", "--json", env=env)
        assert drained.returncode == 0, drained.stdout + (tmp_path / "worker.log").read_text()
        assert json.loads(drained.stdout)["ok"] is True

        # found through the working folder alone: `tmp_path` holds .spendstream/state
        sql = "SELECT team, sum(calls) AS calls, sum(cost_usd) AS cost_usd FROM {} GROUP BY team ORDER BY team"
        expected = [
            {"team": team, "calls": EVENTS // 2, "cost_usd": f"{cost_usd(events, team):.12f}"} for team in TEAMS
        ]
        rollups = run("query", sql.format("spend_1m"), "--json", cwd=tmp_path)
        assert [json.loads(row) for row in rollups.stdout.splitlines()] == expected, rollups.stderr
        ledger = run("query", sql.format("(SELECT *, 1 AS calls FROM calls_v)"), "--json", cwd=tmp_path)
        assert [json.loads(row) for row in ledger.stdout.splitlines()] == expected, ledger.stderr
        letters = run("query", "SELECT count() AS n FROM dead_letters_v", "--json", cwd=tmp_path)
        assert json.loads(letters.stdout) == {"n": len(MALFORMED)}

        checkup = run("doctor", "--json", cwd=tmp_path)
        assert checkup.returncode == 0, checkup.stdout

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0, (tmp_path / "worker.log").read_text()

    twice = run("up", "--state-dir", str(state_dir))
    assert twice.returncode == 1
    assert "in use" in twice.stderr

    stack.send_signal(signal.SIGINT)
    assert stack.wait(20) == 0
    for arguments in (["drain"], ["query", "SELECT 1"], ["topics"], ["migrate"]):
        gone = run(*arguments, cwd=tmp_path)
        assert gone.returncode == 1
        assert "answer" in gone.stderr, gone.stderr
        assert "Traceback" not in gone.stderr


def test_a_worker_that_dies_is_restarted_and_stops_with_the_stack(tmp_path: Path, state_dir: Path) -> None:
    log = tmp_path / "up.log"
    with process("up", "--state-dir", str(state_dir), env={}, log=log) as up:
        wait_for(lambda: "ready" in log.read_text() or up.poll() is not None, "the stack is not ready")
        assert up.poll() is None, log.read_text()
        first = only_worker(up.pid)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: "restarted, as process" in log.read_text(), log.read_text())
        second = only_worker(up.pid)
        assert second != first
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0, log.read_text()
    assert not Path(f"/proc/{second}").exists()


def only_worker(parent: int) -> int:
    """The process id of the worker that a stack started."""
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    children = [int(pid) for each in threads for pid in each.read_text().split()]
    workers = [pid for pid in children if b"spendstream.cli\0worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (pid,) = workers
    return pid


def test_the_demo_accounts_for_every_record(tmp_path: Path) -> None:
    done = run("demo", "--seconds", "5", "--plain", "--rate", "500", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ published" in done.stdout
    assert "✓ ledger" in done.stdout
    assert "✗" not in done.stdout
    # every team's calls have a price, including self-hosted ones; only the unknown preview has none
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines if "unpriced" in line[1:2]} <= {"preview_evaluation", "aurora-1-preview"}
    assert not list(tmp_path.iterdir())
