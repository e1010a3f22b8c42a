"""The fast reader stays fast beside bad lines."""

import json
import uuid

from spendstream.core.decode.fast import read_fast


def _line(number: int) -> bytes:
    event = {"event_id": str(uuid.UUID(int=number + 1)), "occurred_at": "2026-05-01T00:00:00Z", "input_tokens": number}
    return json.dumps({**event, "service": "chat", "provider": "openai", "model_served": "gpt-4o"}).encode()


def test_one_line_of_broken_json_costs_its_neighbours_nothing_but_a_second_reading() -> None:
    lines = [_line(i) for i in range(4000)]
    lines[1234] = b'{"event_id": 1,}'
    read = read_fast(lines)
    assert not read.certain[1234]
    assert read.certain.sum() >= len(lines) - 256
    assert read.frame["input_tokens"][3999] == 3999


def test_a_key_at_the_edge_of_a_block_is_counted_once() -> None:
    for padding in range(40):
        lines = [b'{"service":"' + b"x" * (200 + padding) + b'"}', *(_line(i) for i in range(1500))]
        assert read_fast(lines).certain.all()
