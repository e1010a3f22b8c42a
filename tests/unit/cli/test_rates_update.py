"""`spendstream rates update`: what a newer book of public prices changes, and from when it applies."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import genai_prices.data
import pytest

from spendstream.cli.root import run

FIRST = "2026-12-01"
PRICE = "                id='gpt-4o',"


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "books"
    monkeypatch.setenv("RATE_BOOKS", str(folder))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a later version: gpt-4o's input costs $7.25, not $2.5, and importing it ends the test."""
    before, mark, after = Path(genai_prices.data.__file__).read_text().partition(PRICE)
    assert mark
    data = before + mark + after.replace("input_mtok=Decimal('2.5')", "input_mtok=Decimal('7.25')", 1)
    path = tmp_path_factory.mktemp("package") / "genai_prices-9.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("genai_prices/data.py", data + "\nraise SystemExit('the package was run')\n")
        wheel.writestr("genai_prices/__init__.py", "raise SystemExit('the package was run')\n")
        wheel.writestr("genai_prices-9.0.dist-info/METADATA", "Name: genai-prices\nVersion: 9.0\n")
    return path


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    def command(*words: str) -> list[dict[str, Any]]:
        assert run(["rates", *words, "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return command


def test_a_change_is_shown_kept_and_applied_from_its_day_on(
    books: Path, package: Path, shown: Callable[..., list[dict[str, Any]]]
) -> None:
    (before,) = shown("show", "openai", "gpt-4o", "--at", "2026-11-30T23:59Z")
    change, *_, total = shown("update", str(package), "--from", FIRST)
    assert change == {
        "provider": "openai",
        "model": "gpt-4o",
        "service_tier": "standard",
        "rate": "input",
        "above_input_tokens": 0,
        "old_usd": "2.5",
        "new_usd": "7.25",
        "from": FIRST,
        "priced_by": "genai-prices",
    }
    (file,) = books.iterdir()
    assert (total["version"], total["from"], total["file"]) == ("9.0", FIRST, str(file))
    assert (total["added"], total["gone"], total["unusable"]) == ([], [], [])
    (after,) = shown("show", "openai", "gpt-4o", "--at", "2026-11-30T23:59Z")
    assert after["card"] == before["card"]
    assert after["valid_until"] == "2026-12-01T00:00:00+00:00"
    (then,) = shown("show", "openai", "gpt-4o", "--at", FIRST)
    assert then["usd_per_mtok"]["input"] == "7.25"
    (again,) = shown("update", str(package), "--from", FIRST)
    assert again["file"] is None
    assert list(books.iterdir()) == [file]


def test_a_change_under_a_card_of_yours_says_so(
    books: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: Callable[..., Any]
) -> None:
    card = tmp_path / "own.yaml"
    rates = "[{from: 2026-01-01, source: order form, usd_per_mtok: {input: 2, output: 8}}]"
    card.write_text(f"cards:\n  - {{provider: openai, model: gpt-4o, kind: contract, rates: {rates}}}\n")
    monkeypatch.setenv("RATE_CARDS", str(card))
    change, *_ = shown("update", str(package), "--dry-run")
    assert (change["model"], change["new_usd"], change["priced_by"]) == ("gpt-4o", "7.25", "contract")
    assert not books.exists()


def test_a_folder_that_is_a_file_is_said(books: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write_text("")
    assert run(["rates", "update", str(package)]) == 2
    assert f"{books}: File exists" in "".join(capsys.readouterr().err.split("\n"))


def test_a_dry_run_keeps_nothing(books: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rates", "update", str(package), "--from", FIRST, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "gpt-4o" in said
    assert "genai-prices 9.0 would apply to calls from 2026-12-01 on. Nothing was kept." in said
    assert not books.exists()


def test_a_version_is_downloaded_by_pip_as_it_is_configured(
    books: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here a folder is pip's index; the newest version in it is the default."""
    for version in ("8.9", "9.0"):
        named = tmp_path / package.name.replace("9.0", version)
        with zipfile.ZipFile(package) as wheel, zipfile.ZipFile(named, "w") as to:
            folder = f"genai_prices-{version}.dist-info"
            to.writestr("genai_prices/data.py", wheel.read("genai_prices/data.py"))
            to.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: genai-prices\nVersion: {version}\n")
            to.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for source, version in ((["genai-prices==8.9"], "8.9"), (["8.9"], "8.9"), ([], "9.0")):
        assert run(["rates", "update", *source, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["version"] == version
    assert run(["rates", "update", "7.7"]) == 2
    said = capsys.readouterr().err
    assert "pip can't download genai-prices==7.7" in said
    assert "You can name a file instead" in said
    assert not books.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["missing.json"], "missing.json: No such file"),
        (["."], ".: Is a directory"),
        (["data.json"], "data.json: not a list of providers"),
        (["data.json", "--from", "2026-12-01T06:00Z"], "prices change at midnight UTC"),
        (["data.json", "--from", "soon"], "not a valid time"),
    ],
)
def test_what_is_no_book_is_refused_in_a_line(
    words: list[str], why: str, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.json").write_text("{}")
    assert run(["rates", "update", *words]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    assert not books.exists()


def test_a_damaged_kept_book_is_named_by_every_command(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.mkdir()
    (books / "0001-x.json").write_text("{")
    for words in (["rates", "show", "openai", "gpt-4o"], ["rates", "update", "--dry-run", "x.json"]):
        assert run(words) == 2
        assert "0001-x.json: " in capsys.readouterr().err
