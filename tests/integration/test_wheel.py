"""What ``pip install spendstream`` brings into a service: a wheel from a clean tree, in a fresh environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from spendstream.schemas.usage import UsageEvent
from tests.kafka.server import LocalKafka

ROOT: Final = Path(__file__).parents[2]
MAX_INSTALLED_MB: Final = 25.0
MAX_IMPORT_MS: Final = 200.0
WORKER_ONLY: Final = ("faust", "mode", "polars", "pyarrow", "numpy", "msgspec", "structlog", "genai_prices", "typer")

pytestmark = pytest.mark.broker

PUBLISH: Final = """
    import asyncio, json, sys
    import schemas, streams, infra                     # the service's own
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from spendstream import USAGE_TOPIC, as_record, usage_event

    assert schemas.MINE and streams.MINE and infra.MINE

    RESPONSE = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "usage": {
            "prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
    }

    async def main(servers):
        event = usage_event("openai", RESPONSE, service="support-bot", model="gpt-4o", team="support", task_id="t-1")
        key, value = as_record(event)
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic(USAGE_TOPIC, num_partitions=1, replication_factor=1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
            await producer.send_and_wait(USAGE_TOPIC, value, key=key)
        consumer = AIOKafkaConsumer(USAGE_TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest")
        async with consumer:
            record = await asyncio.wait_for(consumer.getone(), 30)
        print(json.dumps({"key": record.key.decode(), "value": record.value.decode()}))

    asyncio.run(main(sys.argv[1]))
"""


class Service:
    """A service's own folder and environment, with the wheel installed and nothing of this repository on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "service"
        self.python = folder / "venv" / "bin" / "python"
        self.site = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        # Nothing that a developer's shell sets for Python, such as a path or PYTHONDONTWRITEBYTECODE.
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        self.folder.mkdir()
        (self.folder / "infra").mkdir()
        for name in ("schemas.py", "streams.py", "infra/__init__.py"):
            (self.folder / name).write_text("MINE = True\n")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=240
        )

    def script(self, text: str, *arguments: str) -> str:
        """Run a script of the service. Return what it printed."""
        path = self.folder / "app.py"
        path.write_text(textwrap.dedent(text))
        done = self.run(self.python, path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _must(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _tracked_files(target: Path) -> None:
    """Copy what git tracks, as a clean clone would have it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("wheel")
    clone, dist = folder / "clone", folder / "dist"
    clone.mkdir()
    _tracked_files(clone)
    _must(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=clone)
    (wheel,) = dist.glob("*.whl")
    service = Service(folder)
    uv = Path(sys.executable).with_name("uv")
    _must(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    pins = clone / "requirements.lock"
    _must(uv, "pip", "install", "-q", "--compile-bytecode", "--python", service.python, "-c", pins, wheel, cwd=folder)
    return service


def test_a_service_with_a_schemas_py_of_its_own_publishes_through_the_public_names(
    service: Service, real_kafka: LocalKafka
) -> None:
    """A service may have modules named as folders of this repository: the wheel brings one name, ``spendstream``."""
    received: dict[str, Any] = json.loads(service.script(PUBLISH, real_kafka.bootstrap))
    event = UsageEvent.model_validate_json(received["value"])
    assert received["key"] == "t-1"
    assert (event.input_tokens, event.cache_read_tokens, event.output_tokens) == (600, 400, 200)


def test_the_wheel_installs_one_top_level_name(service: Service) -> None:
    files = next(service.site.glob("spendstream-*.dist-info/RECORD")).read_text().splitlines()
    top = {line.split("/")[0] for line in files} - {".."}
    assert {name for name in top if not name.endswith(".dist-info")} == {"spendstream"}


def test_the_base_install_is_light(service: Service, record_property: Callable[[str, object], None]) -> None:
    """What a web service pays for metering itself: disk with compiled bytecode, and CPU time at each start."""
    installed_mb = sum(path.stat().st_size for path in service.site.rglob("*") if path.is_file()) / 1e6
    timing = (
        "import time; t = time.process_time(); from spendstream import UsageEvent, as_record, usage_event; "
        "print(time.process_time() - t)"
    )
    import_ms = min(float(service.run(service.python, "-c", timing).stdout) for _ in range(7)) * 1000
    record_property("measured", f"base install {installed_mb:.1f} MB, import spendstream {import_ms:.0f} ms of CPU")
    assert installed_mb < MAX_INSTALLED_MB
    assert import_ms < MAX_IMPORT_MS


def test_importing_the_public_names_loads_nothing_of_the_worker(service: Service) -> None:
    loaded = service.script("import spendstream, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not set(WORKER_ONLY) & set(loaded)


def test_the_command_line_of_a_base_install_says_what_to_install(service: Service) -> None:
    told = service.run(service.python.with_name("spendstream"), "query", "SELECT 1")
    assert told.returncode == 1
    assert told.stderr.strip().endswith("the command line needs: pip install 'spendstream[worker]'")


def test_every_public_name_is_there_and_the_version_is_the_projects(service: Service) -> None:
    told = service.script("import spendstream as s; print(s.__version__, all(hasattr(s, n) for n in s.__all__))")
    version, complete = told.split()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert complete == "True"
