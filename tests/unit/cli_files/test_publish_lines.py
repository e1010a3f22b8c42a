"""Lines judged in batches get the verdict, the key and the words that reading them one by one gives."""

from __future__ import annotations

import io
import json
import uuid

from streams.intake import RowError, UsageRow, read_usage
from streams.publish.lines import Outgoing, judge, read_lines

VALID = {
    "event_id": "0192F0C1-7E1C-7D3A-9F51-3C1F9A5B2E77",
    "occurred_at": "2026-01-31T12:00:00Z",
    "service": "api",
    "provider": "acme",
    "model_served": "acme-1",
    "input_tokens": 1,
}
LINES = [
    VALID,
    {**VALID, "conversation_id": "c", "task_id": "t"},
    {**VALID, "conversation_id": "gespräch", "task_id": ""},
    {**VALID, "event_id": uuid.UUID(int=5).hex},
    {**VALID, "input_tokens": -1},
    {"service": "api"},
    [],
    {**VALID, "tags": {"x": "\u00e9\n"}},
    {**VALID, "unknown": {"nested": [1]}},
]


def test_lines_and_rows_agree() -> None:
    text = b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(line).encode() for line in LINES) + b"\n{broken\n\xff\n  \n"
    one_by_one = list(read_usage(io.BytesIO(text), "usage.jsonl"))
    together = list(judge(list(read_lines(io.BytesIO(text)))))
    expected = [Outgoing(row.key, row.value) if isinstance(row, UsageRow) else row for row in one_by_one]
    assert together == expected
    assert sum(isinstance(row, RowError) for row in together) == 5
