"""What holds in every test. Hypothesis: ``make test`` draws the same on every machine, ``make fuzz`` draws afresh."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import structlog
from _pytest.terminal import TerminalReporter
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ReadOnlyDatabase
from hypothesis.internal.conjecture import providers

from tests.kafka.server import LocalKafka

LocalKafka.optimises_hot_code = False

EXAMPLES = Path(__file__).parent / "examples"
"""The failures that ``make fuzz`` found. ``make test`` replays them; CONTRIBUTING.md says how to keep one."""

FUZZ_TIMES = 10
"""How many times as many examples ``make fuzz`` tries."""


class Failures(DirectoryBasedExampleDatabase):
    """Keeps the smallest example of each failure, and neither its larger forms nor examples that passed."""

    def save(self, key: bytes, value: bytes) -> None:
        if not key.endswith((b".secondary", b".pareto", self._metakeys_name)):
            super().save(key, value)

    def move(self, src: bytes, dest: bytes, value: bytes) -> None:
        self.delete(src, value)
        self.save(dest, value)


# A slow machine is not the code's fault: `make bench` measures speed.
settings.register_profile(
    "test",
    derandomize=False,  # it would replay nothing; each test gets a seed below
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=ReadOnlyDatabase(Failures(EXAMPLES)),
)
settings.register_profile("fuzz", settings.get_profile("test"), database=Failures(EXAMPLES), print_blob=True)
settings.load_profile("test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    laws = {item.obj for item in items if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)}
    if settings.get_current_profile_name() == "fuzz":
        for law in laws:
            now = law._hypothesis_internal_use_settings
            law._hypothesis_internal_use_settings = settings(now, max_examples=FUZZ_TIMES * now.max_examples)
    elif config.getoption("--hypothesis-seed") is None:
        # Hypothesis also draws constants of the modules imported so far, which depend on what ran before.
        providers._get_local_constants = providers.Constants
        for law in laws:
            law._hypothesis_internal_use_seed = 0


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print what tests measured with ``record_property("measured", ...)``, in whichever process they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {value}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, bool, bool]:
    """Leave logging as it was: a command run in the test's own process sets its level for good."""
    before = structlog.get_config()
    try:
        return (yield)
    finally:
        structlog.configure(**before)
