"""A measure is added by one line in ``schemas/measures.py`` and one migration, as CONTRIBUTING says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

import spendstream
from spendstream.clickhouse import columns
from spendstream.clickhouse.migrate import load_migrations
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from tests.integration import new_measure

pytestmark = [pytest.mark.clickhouse, pytest.mark.timeout(600)]

NAME = "prompt_tools_tokens"
LINE = f'    summed("{NAME}", "Tokens of tool results in the prompt.", watched_as="tool tokens"),\n'
HERE = "    # New measures go here"
REPOSITORY = Path(__file__).parents[2]


def test_a_declared_measure_with_its_migration_goes_all_the_way(
    server: EmbeddedClickHouse, client: Client, tmp_path: Path
) -> None:
    shutil.copytree(Path(spendstream.__file__).parent, tmp_path / "spendstream")
    declaration = tmp_path / "spendstream" / "schemas" / "measures.py"
    before, after = declaration.read_text().split(HERE)
    declaration.write_text(before + LINE + HERE + after)
    database = f"db_{uuid.uuid4().hex[:12]}"

    def run(module: str, *arguments: str) -> str:
        path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        written = run(columns.__name__, NAME).split()
        number = f"{len(load_migrations()) + 1:04}"
        assert [Path(path).name for path in written] == [f"{number}_{NAME}.up.sql", f"{number}_{NAME}.down.sql"]
        assert all(Path(path).is_relative_to(tmp_path) for path in written)
        found = json.loads(run(new_measure.__name__, NAME, server.url, database))
    finally:
        client.command(f"DROP DATABASE IF EXISTS {database} SYNC")
    assert found == {
        "record": [5, 7, 30],
        "contract": [5, 7, 30],
        "recovered": [5, 7, 30],
        "detector": [5, 7, 30],
        "alert": ["search: tool tokens at 30 tool tokens/min, limit 20 tool tokens/min"],
        "migrations": [NAME],
        "differences of a record of an older release": [{NAME: -5}, {NAME: -7}, {NAME: -30}],
        "differences": [],
        "views": [[[5], [7], [30]], [[42]], [[42]]],
        "history": [5, 7, 30],
        "repair": [[[5], [7], [30]], [5, 7, 30], True],
        "columns after down": ["calls", "calls_v"],
    }
