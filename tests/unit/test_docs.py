"""The documents name settings, commands, options, files and fields that exist, and all of them."""

from __future__ import annotations

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spendstream.cli import root
from spendstream.core.pricing import PriceBook
from spendstream.notifiers import render
from spendstream.notifiers.webhook import signature
from spendstream.schemas.alert import Attribution, Contributor, Part, Projection
from spendstream.schemas.usage import UsageEvent
from spendstream.settings import Settings
from spendstream.watches import read_watches
from tests.doc_blocks import (
    DOCUMENTS,
    ILLUSTRATIONS,
    NOT_RUN,
    ROOT,
    RUN,
    USER_DOCUMENTS,
    Block,
    Command,
    blocks,
    commands,
)
from tests.unit.notifiers.make import make_alert

MAX_README_WORDS = 900
UNSET = "–"
PACKAGE = ROOT / "streams/spendstream"
TEXTS = {path: path.read_text("utf-8") for path in DOCUMENTS}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")


def table_after(document: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    section = (ROOT / document).read_text("utf-8").split(f"# {heading}\n")[1].split("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def shown(default: Any) -> str:
    """A default as a person would set it."""
    if default in (None, "", ()):
        return UNSET
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


def test_the_readme_is_short() -> None:
    assert len(TEXTS[ROOT / "README.md"].split()) < MAX_README_WORDS


def test_the_readme_links_to_every_page() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in TEXTS[ROOT / "README.md"], page.name


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_documented_with_its_default(name: str) -> None:
    defaults = {row[0]: row[1] for row in table_after("docs/settings.md", "Settings")}
    assert defaults.get(f"`{name.upper()}`") == shown(Settings.model_fields[name].default)


def test_no_other_settings_are_documented_and_none_twice() -> None:
    listed = [row[0] for row in table_after("docs/settings.md", "Settings")]
    assert sorted(listed) == sorted(f"`{name.upper()}`" for name in Settings.model_fields)


def test_every_command_is_documented() -> None:
    listed = [row[0] for row in table_after("docs/operations.md", "Commands")]
    assert sorted(listed) == sorted(f"`{name}`" for name in root.COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_links_to_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[path]):
        file, _, heading = target.partition("#")
        if target.startswith("http"):
            continue
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_a_document_names_exist(path: Path) -> None:
    """A path begins at the repository's root or in the package; a lone file's name is that of some module."""
    named = re.findall(r"`([a-z][\w.-]*/[\w/.-]*|\w+\.py)`", TEXTS[path])
    places = (ROOT, PACKAGE)
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert not [name for name in missing if "/" in name or not any(PACKAGE.rglob(name))]


# Every block is run, or is known not to be.


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_a_block_is_run_or_is_an_illustration(block: Block) -> None:
    assert block.language in RUN or block.language in ILLUSTRATIONS


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_is_run_or_has_a_reason_not_to_be(command: Command) -> None:
    assert command.words[0] == "spendstream" or command.reason_not_run
    assert command.reason_not_run or command.block.path in USER_DOCUMENTS


@pytest.mark.parametrize("name", NOT_RUN)
def test_every_exception_is_still_needed(name: str) -> None:
    assert [command for command in commands() if " ".join(command.words).startswith(name)]


# What is not run exists at least.


def test_every_target_of_make_exists() -> None:
    named = {command.words[1] for command in commands() if command.words[0] == "make"}
    named |= {name for text in TEXTS.values() for name in re.findall(r"`make ([a-z-]+)", text)}
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name for text in TEXTS.values() for name in re.findall(r"spendstream\[(\w+)\]", text)}
    assert "worker" in named
    assert named <= extras.keys()


def test_every_profile_of_compose_exists() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"--profile (\w+)", text)}
    assert {"demo", "observability"} <= named
    assert named <= set(re.findall(r"profiles: \[(\w+)\]", COMPOSE))


def test_every_variable_that_is_exported_is_a_setting_with_a_valid_value() -> None:
    exported = [word for command in commands() if command.words[0] == "export" for word in command.words[1:]]
    assert exported
    for assignment in exported:
        name, _, value = assignment.partition("=")
        assert name.lower() in Settings.model_fields, name
        Settings.model_validate({name.lower(): value})


def options_of(words: list[str]) -> set[str]:
    """The options of the command that these words run."""
    name = words[1]
    command: Any = root._load(name, root.COMMANDS[name])
    if hasattr(command, "commands"):
        command = command.commands[words[2]]
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("command", [each for each in commands() if each.words[0] == "spendstream"], ids=str)
def test_a_command_and_its_options_exist(command: Command) -> None:
    used = {word.split("=")[0] for word in command.words if word.startswith("--")}
    assert used <= options_of(command.words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_the_text_mentions_exist(path: Path) -> None:
    for mentioned in re.findall(r"`spendstream ([a-z][^`]*)`", TEXTS[path]):
        words = ["spendstream", *mentioned.split()]
        used = {word for word in words if word.startswith("--")}
        assert used <= options_of(words), mentioned


# What needs no stack is run here.


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_yaml_example_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(block.text)
    if "cards:" in block.text:
        assert [card for card in PriceBook.load([file]).cards() if card.source != "genai-prices"]
    else:
        assert read_watches(file, Settings.model_fields["meter_dimensions"].default).watches


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_a_json_example_is_a_valid_event(block: Block) -> None:
    event = UsageEvent.model_validate_json(block.text)
    assert json.loads(block.text).keys() <= event.model_dump().keys()


@pytest.mark.parametrize("block", [each for each in blocks("python") if "await " not in each.text], ids=str)
def test_a_python_example_runs(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {})


def test_the_documented_check_of_a_webhook_accepts_what_is_sent_and_nothing_else() -> None:
    (block,) = (each for each in blocks("python") if "def is_genuine" in each.text)
    scope: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), scope)
    signed = signature(b"secret", "1772625600", b"{}")
    assert scope["is_genuine"](b"secret", "1772625600", signed, b"{}")
    assert not scope["is_genuine"](b"secret", "1772625600", signed, b"{ }")
    assert not scope["is_genuine"](b"secret", "1772625601", signed, b"{}")


def test_the_documented_alert_is_one_as_receivers_get_it() -> None:
    (block,) = blocks("text", documents=[ROOT / "docs/alerts.md"])
    change = Decimal("36.1")
    attribution = Attribution(
        observed_usd_per_minute=Decimal("41.2"),
        expected_usd_per_minute=Decimal("5.1"),
        parts=(Part(factor="volume", change_usd_per_minute=change, words="more calls: 412 a minute instead of 51"),),
        contributors=tuple(
            Contributor(
                dimension=dimension,
                value=value,
                change_usd_per_minute=change,
                observed_usd_per_minute=change,
                share=share,
            )
            for dimension, value, share in (("customer", "customer-007", 0.71), ("service", "support-bot", 0.64))
        ),
    )
    projection = Projection(excess_by_end_of_hour_usd=Decimal(1227), excess_by_end_of_month_usd=Decimal(259_920))
    assert render.text(make_alert(attribution=attribution, projection=projection, runbook="")) == block.text.rstrip()
