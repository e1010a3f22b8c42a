"""The demo's live view: nothing that matters is cut off, and no amount is shown as a silent zero."""

import io
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.screen import Screen

from spendstream.demo.snapshot import Line, Snapshot, Spend
from spendstream.demo.view import line, picture, save

LINES = (
    Line("developer-platform", "code_agent", "claude-sonnet-4-5-20250929", Spend(1_234_567, Decimal("12345.678"))),
    Line("finance", "invoice_extraction", "gpt-5-mini", Spend(40, Decimal("0.0004"))),
    Line("research", "preview_evaluation", "aurora-1-preview", Spend(12, Decimal(0), 12)),
)
SNAPSHOT = Snapshot(LINES, LINES, (("not_json", 16),), 2_111.0, (1.1, 1.6), 30.0, 1_240_000)


def shown(width: int, height: int, snapshot: Snapshot = SNAPSHOT) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(picture(snapshot))
    return console.export_text().splitlines()


def shown_live(width: int, height: int, snapshot: Snapshot) -> list[str]:
    """As ``Live`` shows it: what is below the terminal's last line is cut off."""
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(Screen(picture(snapshot)))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(130, 40), (200, 60), (80, 40)])
def test_every_amount_is_shown_whole(width: int, height: int) -> None:
    lines = shown(width, height)
    text = "\n".join(lines)
    assert text.count("$12,345.68") >= 6  # last minute and total, by team, feature and model
    assert "$24,691.36" in text  # half a minute's spend, at its rate
    assert "1,234,567" in text
    assert "…" not in text
    assert max(map(len, lines)) <= width


def test_a_spend_below_a_cent_is_not_shown_as_nothing() -> None:
    text = "\n".join(shown(130, 40))
    assert "< $0.01" in text
    assert "$0.00" not in text


def test_a_model_without_a_price_is_said_to_have_none() -> None:
    text = "\n".join(shown(130, 40))
    assert "unpriced calls  aurora-1-preview 12" in text
    assert text.count("unpriced") == 1 + 2 * 3


def test_the_view_fits_the_height_of_the_terminal() -> None:
    many = tuple(Line(f"t{i}", f"f{i}", f"m{i}", Spend(2, Decimal(i), i // 39)) for i in range(40))
    for width in (130, 80):
        text = "\n".join(shown_live(width, 30, Snapshot(many, many, (("the_last_thing", 7),))))
        assert "the_last_thing 7" in text
        assert "m39" in text


def test_before_the_first_call_there_is_a_view_too() -> None:
    assert "$0.00" in "\n".join(shown(130, 40, Snapshot()))
    assert "none yet" in line(Snapshot())


def test_the_picture_is_an_svg_of_the_view(tmp_path: Path) -> None:
    save(SNAPSHOT, tmp_path / "docs" / "demo.svg")
    drawn = "".join(ElementTree.parse(tmp_path / "docs" / "demo.svg").getroot().itertext())
    assert "$12,345.68" in drawn
    assert "aurora-1-preview" in drawn
