"""JSON lines are published unchanged, or refused by line number."""

import io
import json
from typing import Any

import pytest

from spendstream.intake import MappingError, RowError, TableMapping, UsageRow, check, read_usage
from spendstream.intake.rows import read_jsonl

EVENT: dict[str, Any] = {
    "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77",
    "occurred_at": "2026-01-31T12:00:00.5Z",
    "service": "search",
    "provider": "openai",
    "model_served": "gpt-5",
    "input_tokens": 5,
    "task_id": "t-1",
}


def line(**changes: Any) -> bytes:
    return json.dumps(EVENT | changes).encode() + b"\n"


def test_an_event_is_published_byte_for_byte() -> None:
    text = json.dumps(EVENT, indent=None, separators=(" , ", " : ")).encode()
    (row,) = map(check, read_jsonl([b"\xef\xbb\xbf" + text + b"\r\n"]))
    assert isinstance(row, UsageRow)
    assert (row.value, row.key, row.line) == (text, b"t-1", 1)


def test_blank_lines_are_skipped_and_still_counted() -> None:
    assert [row.line for row in read_jsonl([line(), b"\n", b"  \n", line()])] == [1, 4]


def test_a_last_line_without_its_end_is_read() -> None:
    assert len(list(read_jsonl(io.BytesIO(line() + line().rstrip())))) == 2


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"{", None),
        (b"[1]", None),
        (b'{"a": "\xff"}', None),
        (line(service=None), "service"),
        (line(input_tokens=-1), "input_tokens"),
        (line(input_tokens="5"), "input_tokens"),
        (line(occurred_at="2026-01-31T12:00:00"), "occurred_at"),
    ],
)
def test_a_line_that_is_not_an_event_is_reported_and_the_rest_is_read(text: bytes, field: str | None) -> None:
    rows = list(map(check, read_jsonl(io.BytesIO(line() + text.strip() + b"\n" + line()))))
    error = rows[1]
    assert isinstance(error, RowError)
    assert (error.line, error.field) == (2, field)
    assert str(error).startswith("line 2: ")
    assert isinstance(rows[2], UsageRow)


def test_a_line_longer_than_a_record_is_an_error_and_is_not_held_whole() -> None:
    rows = list(map(check, read_jsonl(io.BytesIO(line(team="x" * 3_000_000) + line()))))
    assert isinstance(rows[0], RowError)
    assert [row.line for row in rows] == [1, 2]


def test_a_path_that_json_lines_do_not_have_is_refused_rather_than_ignored() -> None:
    with pytest.raises(MappingError, match=r"no 'Team', mapped to team; the closest is 'team'"):
        read_usage(io.BytesIO(line(team="a")), "usage.jsonl", TableMapping.from_pairs(["team=Team"]))
