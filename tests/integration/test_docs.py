"""Every command, query and program of the documents runs, on a real Kafka and ClickHouse and beside a real worker."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import genai_prices.data
import pytest
from clickhouse_connect.driver.client import Client

from spendstream import as_record, usage_event
from spendstream.cli.root import run
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.doc_blocks import USER_DOCUMENTS, Block, Command, blocks, commands
from tests.kafka.server import LocalKafka

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse]

ETC = "/etc/spendstream"
PLACEHOLDERS = ("KAFKA_", "CLICKHOUSE_")
"""The documents set these variables to invented addresses and passwords; here the stack's own stay set."""

TODAY = datetime.now(UTC).date()
STANDS_FOR = {"2026-11-01": f"{TODAY - timedelta(1)}", "2026-11-08": f"{TODAY + timedelta(1)}"}
"""The days around the test stand for the week of the documented backtest."""

USD_OF_THE_TASK = Decimal("0.0045")
"""600 uncached tokens at $2.50, 400 cached at $1.25 and 250 of output at $10 a million: 0.0015 + 0.0005 + 0.0025."""

READS_OF_ALL = re.compile(r"FROM (spend_1[mhd]|calls_v|charges_v)\b")


class Stack:
    """Kafka, ClickHouse, a worker, and a folder with the files that the documents name."""

    def __init__(self, folder: Path, bootstrap: str, clickhouse_url: str) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.day = datetime.now(UTC).date()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "KAFKA_PARTITIONS": "1",
            "CLICKHOUSE_URL": clickhouse_url,
            "CLICKHOUSE_DATABASE": "documented",
            "METRICS_PORT": str(port),
        }

    def write_files(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir()
        for block in blocks("yaml", documents=USER_DOCUMENTS):
            (etc / ("ours.yaml" if "cards:" in block.text else "watches.yaml")).write_text(block.text)
        now = datetime.now(UTC).isoformat()
        (self.folder / "trace.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{now},600,200\n{now},30,4\n")
        event = {"event_id": str(uuid.uuid4()), "occurred_at": now, "service": "files", "provider": "openai"}
        event |= {"model_served": "gpt-4o", "input_tokens": 100, "output_tokens": 7}
        row = {"TIMESTAMP": now, "ContextTokens": "1,024", "GeneratedTokens": None}
        (self.folder / "more.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
        result = {"input_tokens": 9, "input_cached_tokens": 4, "output_tokens": 2, "model": "gpt-4o", "batch": True}
        page = {"data": [{"start_time": int(time.time()), "results": [result]}]}
        (self.folder / "usage.json").write_text(json.dumps(page, indent=2))
        calls = [{"t": 0, "type": "ping"}, {"t": 1500.5, "in": 5, "out": 2, "deployment": "prod-eu", "type": "call"}]
        (self.folder / "session.jsonl").write_text("".join(f"{json.dumps(call)}\n" for call in calls))
        with zipfile.ZipFile(self.folder / "genai_prices-9.0-py3-none-any.whl", "w") as wheel:
            wheel.write(str(genai_prices.data.__file__), "genai_prices/data.py")
            wheel.writestr("genai_prices-9.0.dist-info/METADATA", "Name: genai-prices\nVersion: 9.0\n")
        (self.folder / "events.jsonl").write_text(json.dumps(event) + "\n")

    def spendstream(self, words: list[str], text: str) -> int:
        """Run a command in this process, or in a shell where it reads from a file. Returns the exit status."""
        if "<" not in words:
            return run(words[1:])
        text = text.replace("spendstream ", f"{sys.executable} -m spendstream.cli ", 1)
        return subprocess.run(["bash", "-c", text], timeout=60, check=False).returncode

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        patch.chdir(self.folder)
        for name, value in self.environment.items():
            patch.setenv(name, value)


@pytest.fixture(scope="module")
def stack(
    real_kafka: LocalKafka, server: EmbeddedClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("documented"), real_kafka.bootstrap, server.url)
    made.write_files()
    log = made.folder / "worker.log"
    with pytest.MonkeyPatch.context() as patch:
        made.enter(patch)
        assert run(["topics"]) == 0
        assert run(["migrate"]) == 0
        worker = [sys.executable, "-m", "spendstream.cli", "worker"]
        with log.open("wb") as out, subprocess.Popen(worker, env=os.environ.copy(), stdout=out, stderr=out) as child:
            try:
                run_program(made, next(block for block in blocks("python") if "await " in block.text))
                assert run(["drain", "--timeout", "90"]) == 0, log.read_text()
                yield made
                assert child.poll() is None, log.read_text()
            finally:
                child.terminate()
                assert child.wait(30) == 0, log.read_text()


@pytest.fixture
def entered(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    stack.enter(monkeypatch)
    return stack


def run_program(stack: Stack, block: Block) -> None:
    """Run a program with top-level awaits, against this stack's Kafka and a provider that answers a fixed response."""
    answer = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "usage": {
            "prompt_tokens": 1_000,
            "completion_tokens": 250,
            "total_tokens": 1_250,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
    }

    async def create(**_: Any) -> Any:
        return SimpleNamespace(model_dump=lambda: answer)

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    scope: dict[str, Any] = {"client": client, "messages": []}
    text = block.text.replace("kafka-1:9092", stack.bootstrap)
    assert text != block.text
    code = compile(text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def main() -> None:
        await eval(code, scope)
        topic = scope["USAGE_TOPIC"]
        documented = json.loads(blocks("json")[0].text)  # the documents explain what it cost
        unpriced = usage_event("openai", {**answer, "model": "nobody-knows-1"}, service="support-bot", task_id="t-2")
        for key, value in (as_record(unpriced), as_record(documented), (b"broken", b'{"service": "support-bot"}')):
            await scope["producer"].send_and_wait(topic, value, key=key)
        await scope["producer"].stop()

    asyncio.run(main())


def test_there_is_one_program_that_publishes() -> None:
    assert [block.path.name for block in blocks("python") if "await " in block.text] == ["README.md"]


@pytest.mark.parametrize("path", USER_DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_commands_of_a_document_run_in_its_order(
    path: Path, entered: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in commands([path]):
        text = command.text.replace(ETC, str(entered.folder / "etc"))
        for documented, day in STANDS_FOR.items():
            text = text.replace(documented, day)
        here = Command(command.block, text)
        if here.words[0] == "export":
            for name, value in (word.split("=", 1) for word in here.words[1:]):
                if not name.startswith(PLACEHOLDERS):
                    monkeypatch.setenv(name, value)
        elif not here.reason_not_run:
            words = [os.path.expandvars(word) for word in here.words]
            capfd.readouterr()
            status = entered.spendstream(words, text)
            assert status == 0, f"{command}\n{''.join(capfd.readouterr())}"


@pytest.mark.parametrize("block", blocks("sql"), ids=str)
def test_a_query_runs_and_finds_what_was_published(block: Block, stack: Stack, client: Client) -> None:
    found = client.query(block.text, settings={"database": "documented"}).result_rows
    if datetime.now(UTC).date() == stack.day:  # past midnight, what was published is no longer today's
        assert found or not READS_OF_ALL.search(block.text)


def test_the_cost_per_outcome_is_the_cost_of_the_tasks_calls(stack: Stack, client: Client) -> None:
    sql = next(block.text for block in blocks("sql") if "usd_per_task" in block.text)
    rows = {row["feature"]: row for row in client.query(sql, settings={"database": "documented"}).named_results()}
    assert (rows["answer"]["tasks"], rows["answer"]["usd"]) == (1, USD_OF_THE_TASK)
    assert rows["answer"]["usd_per_task"] == USD_OF_THE_TASK
