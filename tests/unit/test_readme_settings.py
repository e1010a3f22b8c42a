"""The README names every setting with its default, every command, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli.root import COMMANDS
from spendstream.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
UNSET = "–"


def table_of(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def shown(default: Any) -> str:
    """A default as a person would set it."""
    if default in (None, "", ()):
        return UNSET
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_in_the_readme_with_its_default(name: str) -> None:
    defaults = {row[0]: row[1] for row in table_of("Settings")}
    assert defaults.get(f"`{name.upper()}`") == shown(Settings.model_fields[name].default)


def test_the_readme_lists_no_other_settings_and_none_twice() -> None:
    listed = [row[0] for row in table_of("Settings")]
    assert sorted(listed) == sorted(f"`{name.upper()}`" for name in Settings.model_fields)


def test_the_readme_lists_every_command() -> None:
    assert sorted(row[0] for row in table_of("Commands")) == sorted(f"`{name}`" for name in COMMANDS)


def test_the_readme_invokes_only_commands_that_exist() -> None:
    invoked = set(re.findall(r"(?:^|`)spendstream ([a-z]+)", README, re.MULTILINE))
    assert "publish" in invoked
    assert invoked <= COMMANDS.keys()


def test_every_variable_that_the_readme_exports_is_a_setting() -> None:
    exports = re.findall(r"^export (.+)$", README, re.MULTILINE)
    exported = [name for line in exports for name in re.findall(r"(\w+)=", line)]
    assert exported
    assert {name.lower() for name in exported} <= Settings.model_fields.keys()


def test_files_that_the_documents_link_to_exist() -> None:
    root = Path(__file__).parents[2]
    for document in sorted(root.glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            if not target.startswith(("http", "docs/demo.svg")):
                assert (root / target).exists(), f"{document.name}: {target}"


def test_paths_that_the_documents_name_exist() -> None:
    root = Path(__file__).parents[2]
    for document in sorted(root.glob("*.md")):
        named = re.findall(r"`((?:streams|schemas|infra|tests)/[\w/.-]+)`", document.read_text("utf-8"))
        missing = [path for path in named if not (root / path).exists()]
        assert not missing, document.name
