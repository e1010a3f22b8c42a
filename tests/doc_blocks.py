"""The fenced blocks of the documents, and the commands in them, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
USER_DOCUMENTS: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "schemas/README.md"]
DOCUMENTS: Final = [*USER_DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

RUN: Final = {
    "bash": "commands, in tests/integration/test_docs.py",
    "console": "commands, in tests/integration/test_docs.py",
    "sql": "on the real engine with migrated tables and data, in tests/integration/test_docs.py",
    "python": "with await in tests/integration/test_docs.py, else in tests/unit/test_docs.py",
    "yaml": "as rate cards or watches, in tests/unit/test_docs.py",
    "json": "as usage events, in tests/unit/test_docs.py",
}
"""What happens to a block of each language."""

ILLUSTRATIONS: Final = ("text", "mermaid")
"""Blocks of these languages hold output and drawings."""

NOT_RUN: Final = {
    "make": "builds, tests and benchmarks take minutes; every target is looked up in the Makefile",
    "pip": "would change this environment; every extra is looked up in pyproject.toml",
    "export": "sets variables: every one is a setting, and those without a placeholder apply to the commands below",
    "spendstream demo": "tests/integration/test_cli_stack.py runs it; its options are looked up",
    "spendstream up": "runs until stopped: tests/integration/test_cli_stack.py runs it; its options are looked up",
    "spendstream worker": "runs until stopped: one runs beside all other commands in tests/integration/test_docs.py",
}
"""Commands that the documents' test does not run as they stand, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line``: of its first line of text."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a bash or console block, without its comment."""

    block: Block
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def reason_not_run(self) -> str | None:
        return NOT_RUN.get(self.words[0]) or NOT_RUN.get(" ".join(self.words[:2]))

    def __str__(self) -> str:
        return f"{self.block}: {self.text}"


def blocks(*languages: str, documents: list[Path] = DOCUMENTS) -> list[Block]:
    """Return the blocks of these languages, of every language where none is given, in the order of the documents."""
    return [block for path in documents for block in _blocks(path) if not languages or block.language in languages]


def _blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text("utf-8").splitlines()
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number + 1, line.removeprefix("```").strip()
            continue
        start, language = opened
        yield Block(path, start, language, "\n".join(lines[start - 1 : number - 1]) + "\n")
        opened = None
    assert opened is None, f"{path.name}: a block that begins in line {opened} does not end"


def commands(documents: list[Path] = DOCUMENTS) -> list[Command]:
    """Return every command of the bash and console blocks. Continued lines are one command."""
    found = []
    for block in blocks("bash", "console", documents=documents):
        for line in block.text.replace("\\\n", " ").splitlines():
            text = line.removeprefix("$ ").strip()
            if text:
                found.append(Command(block, re.sub(r"\s{2,}#.*$", "", text)))
    return found
