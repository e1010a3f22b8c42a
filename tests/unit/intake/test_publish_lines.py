"""Rows validated in batches get the same verdict, key and message as rows validated one by one."""

from __future__ import annotations

import io
import json
import uuid

from spendstream.intake import Row, RowError, UsageRow, read_lines, read_usage
from spendstream.publish import Outgoing, validate, validate_all

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


TABLE = '''occurred_at,service,provider,model_served,input_tokens,task_id,tags.x
2023-11-16 18:17:03.9799600,api,acme,acme-1,4808,,
2023-11-16 18:17:04,api,acme,acme-1,12.0,ticket-1,ü
2023-11-16 18:17:04,api,acme,acme-1,many,,
2023-11-16 18:17:04,api,acme,acme-1
1971-01-01 00:00:00,api,acme,acme-1,1,,
2023-11-16 18:17:04,,acme,acme-1,1,,
2023-11-16 18:17:04,api,acme,,1,,"two
lines"
2023-11-16 18:17:04,api,acme,acme-1,999999999999,,
2023-11-16 18:17:04,"api ""a""",acme,acme-1,1,,
'''


def outgoing(rows: list[Row]) -> list[Outgoing | RowError]:
    return [Outgoing(row.key, row.value) if isinstance(row, UsageRow) else row for row in rows]


def test_rows_of_a_table_and_batches_agree_in_order() -> None:
    header, _, body = TABLE.partition("\n")
    for copies in (1, 40):  # few rows are validated one by one, many in columns
        text = f"{header}\n{body * copies}".encode()
        one_by_one = list(read_usage(io.BytesIO(text), "usage.csv"))
        together = list(validate_all(read_lines(io.BytesIO(text), "usage.csv")))
        assert together == outgoing(one_by_one)
        assert sum(isinstance(row, RowError) for row in together) == 6 * copies
        assert len(together) == 9 * copies


def test_lines_and_rows_agree() -> None:
    text = b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(line).encode() for line in LINES) + b"\n{broken\n\xff\n  \n"
    one_by_one = list(read_usage(io.BytesIO(text), "usage.jsonl"))
    together = list(validate(list(read_lines(io.BytesIO(text), "usage.jsonl"))))
    assert together == outgoing(one_by_one)
    assert sum(isinstance(row, RowError) for row in together) == 5
