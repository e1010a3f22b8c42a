"""JSON of any shape becomes events through a mapping: paths, enclosing objects, arithmetic; each with its line."""

import gzip
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spendstream.intake import Left, MappingError, Row, RowError, TableMapping, UsageRow, read_usage
from spendstream.schemas.usage import UsageEvent

SETS = ["service=import", "provider=acme", "model_requested=acme-1"]
USAGE = [
    "occurred_at=at",
    "input_tokens=usage.prompt_tokens-usage.prompt_tokens_details.cached_tokens",
    "cache_read_tokens=usage.prompt_tokens_details.cached_tokens",
    "output_tokens=usage.completion_tokens",
]
CALL: dict[str, Any] = {
    "at": "2026-01-31T12:00:00Z",
    "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 400}},
}


def read(
    text: str | bytes, maps: list[str], *, name: str = "usage.jsonl", sets: list[str] = SETS, **options: Any
) -> list[Row]:
    data = text.encode() if isinstance(text, str) else text
    reading = {key: options.pop(key) for key in ("id_namespace", "file_format", "left") if key in options}
    return list(read_usage(io.BytesIO(data), name, TableMapping.from_pairs(maps, sets, **options), **reading))


def usages(rows: list[Row]) -> list[UsageEvent]:
    assert [str(row) for row in rows if isinstance(row, RowError)] == []
    return [row.usage for row in rows if isinstance(row, UsageRow)]


def errors(rows: list[Row]) -> list[str]:
    return [str(row) for row in rows if isinstance(row, RowError)]


def lines(*values: Any) -> str:
    return "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)


def test_dotted_paths_and_arithmetic_read_nested_usage() -> None:
    (usage,) = usages(read(lines(CALL), USAGE))
    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (600, 400, 50)


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}, {"cached_tokens": "null"}])
def test_an_absent_part_of_a_sum_counts_as_nothing(details: Any) -> None:
    other = {**CALL, "usage": {**CALL["usage"], "prompt_tokens_details": details}}
    _, usage = usages(read(lines(CALL, other), USAGE))
    assert (usage.input_tokens, usage.cache_read_tokens) == (1000, None)


def test_a_sum_of_nothing_is_absent() -> None:
    with_none = {"at": CALL["at"], "usage": {"completion_tokens": 5}}
    _, usage = usages(read(lines(CALL, with_none), USAGE))
    assert (usage.input_tokens, usage.output_tokens) == (None, 5)


def test_a_difference_below_zero_is_refused_with_its_parts() -> None:
    wrong = {**CALL, "usage": {"prompt_tokens": 822, "prompt_tokens_details": {"cached_tokens": 3103}}}
    (error,) = errors(read(lines(CALL, wrong), USAGE))
    assert error.startswith("usage.jsonl:2: input_tokens, path usage.prompt_tokens-")
    assert "comes to -2281, and a count can't be negative: usage.prompt_tokens is 822" in error


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("a+b*2", 14),
        ("(a+b)*2", 22),
        ("a - b - 1", 4),
        ("a*1000/c", 1600),
        ("1000*a", 8000),
        ('"p-q"-a', 92),
        ("p-q", 100),  # a member of that very name
        ('"p.q" + a', 208),
        ("p.q", 200),
        ("list.1", 7),
        ("list.0.x", 6),
    ],
)
def test_sources_calculate_and_names_are_taken_as_they_are_written(source: str, count: int) -> None:
    record = {"at": CALL["at"], "a": 8, "b": "3", "c": 5, "p-q": 100, "p.q": 200, "list": [{"x": 6}, 7]}
    (usage,) = usages(read(lines(record), ["occurred_at=at", f"input_tokens={source}"]))
    assert usage.input_tokens == count


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a+", "ends with an operator"),
        ("(a+b", "parenthesis is never closed"),
        ('"a-b', "quote is never closed"),
        ("a--b", "'-' stands where a name or a number is expected"),
        ("1+2", "reads no column"),
        ("a+b)", r"can't be read at '\)'"),
    ],
)
def test_arithmetic_that_can_not_be_read_is_refused(source: str, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        read(lines({"at": CALL["at"], "a": 1, "b": 2}), ["occurred_at=at", f"input_tokens={source}"])


@pytest.mark.parametrize(
    ("source", "message"),
    [("a/b", "8 / 0 has no result"), ("a/c", "'2.666666"), ("a-d", "d: 'x' is not a number"), ("e", "is an object")],
)
def test_arithmetic_without_a_result_is_an_error_of_its_row(source: str, message: str) -> None:
    record = {"at": CALL["at"], "a": 8, "b": 0, "c": 3, "d": "x", "e": {"f": 1}}
    (error,) = errors(read(lines(record), ["occurred_at=at", f"input_tokens={source}"]))
    assert message in error


def test_a_path_that_no_row_has_is_refused_before_the_first_row_unless_it_is_optional() -> None:
    misspelt = [*USAGE[:3], "output_tokens=usage.completion_token"]
    with pytest.raises(
        MappingError, match=r"None of the first 2 objects has 'usage.completion_token', mapped to output"
    ):
        read(lines(CALL, CALL), misspelt)
    (usage,) = usages(read(lines(CALL), [*USAGE[:3], "output_tokens=usage.completion_token?"]))
    assert usage.output_tokens is None


def test_a_path_that_one_row_in_a_hundred_has_is_found() -> None:
    rare = {**CALL, "tenant": {"name": "blue"}}
    found = usages(read(lines(*[CALL] * 99, rare), [*USAGE, "customer=tenant.name"]))
    assert [usage.customer for usage in found].count("blue") == 1


def test_a_document_of_several_lines_is_read_row_by_row_with_lines_and_places() -> None:
    text = json.dumps({"data": [{"results": [CALL, CALL]}, {"results": []}, {"results": [CALL]}]}, indent=1)
    rows = read(text, USAGE, name="page.json", each="data.results")
    assert len({usage.event_id for usage in usages(rows)}) == 3
    assert [row.place for row in rows] == [".data[0].results[0]", ".data[0].results[1]", ".data[2].results[0]"]
    assert [text.splitlines()[row.line - 1].strip() for row in rows] == ["{"] * 3


def test_members_of_an_object_are_rows_and_their_names_are_values() -> None:
    text = json.dumps({"task-1": {"cost": 0.48312120000000003}, 'say "hi"': {"cost": 2}})
    maps = ["task_id=@key", "provider_cost=cost", "tags.run=@file", "span_id=@line"]
    sets = [*SETS, "occurred_at=2026-01-31T12:00:00Z", "input_tokens=0"]
    rows = read(text, maps, sets=sets, name="runs/a.json", each="*")
    first, second = usages(rows)
    assert (first.task_id, str(first.provider_cost), first.tags) == ("task-1", "0.4831212", {"run": "runs/a.json"})
    assert (second.task_id, second.span_id) == ('say "hi"', "1")
    assert [row.place for row in rows] == ['.["task-1"]', r'.["say \"hi\""]']


def test_units_and_notes_of_an_object_are_kept_beside_mapped_ones() -> None:
    call = {**CALL, "units": {"pages": 3, "x": "0.5"}, "usage_notes": ["a", "b"], "n": {"seconds": 7.25}}
    (usage,) = usages(read(lines(call), [*USAGE, "units.audio_seconds=n.seconds"]))
    assert usage.units == {"pages": 3, "x": Decimal("0.5"), "audio_seconds": Decimal("7.25")}
    assert usage.usage_notes == ["a", "b"]


def test_a_value_of_the_enclosing_objects_is_read_with_carets() -> None:
    text = json.dumps({"id": "s1", "requests": [{"t": 5, "calls": [{"t": 0.25, "in": 3, "out": 1}]}]})
    maps = ["occurred_at=t+^t", "input_tokens=in", "output_tokens=out", "conversation_id=^^id"]
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)
    (usage,) = usages(
        read(
            text,
            maps,
            name="s.json",
            each="requests.calls",
            time_format="s",
            time_base=start,
        )
    )
    assert usage.occurred_at.isoformat() == "2026-01-31T12:00:05.250000+00:00"
    assert usage.conversation_id == "s1"


def test_rows_are_left_out_by_a_condition_and_counted() -> None:
    left = Left()
    rows = read(lines({**CALL, "type": "call"}, {**CALL, "type": "sub-agent"}), USAGE, skips=["type=sub*"], left=left)
    assert len(usages(rows)) == left.skipped == 1


def test_objects_without_rows_are_counted() -> None:
    left = Left()
    text = json.dumps([{"calls": [CALL]}, {"other": 1}])
    assert len(usages(read(text, USAGE, name="a.json", each="calls", left=left))) == 1
    assert (left.without["calls"], left.names["calls"]) == (1, ["other"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a": }]', "a.json:2:8: not valid JSON: Expecting value"),
        ('[{"a": 1}\n {"a": 1}]', "a.json:2:2: not valid JSON: expected ',' or ']'"),
        ('[{"a": 1},', "a.json:1:11: not valid JSON"),
        ("[1, 2]", "a.json:1:2: .[0]: text or a number where an object is expected"),
        ("[null]", "null where an object is expected: name the objects that are rows with --each"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_what_is_not_a_row_is_reported_with_line_and_column(text: str, message: str) -> None:
    maps = ["occurred_at=a", "input_tokens=a"]
    found = errors(read(text, maps, name="a.json"))
    assert any(message in error for error in found), found


def test_rows_before_damaged_json_are_read() -> None:
    text = f"[{json.dumps(CALL)},\n{json.dumps(CALL)},\n{{broken"
    rows = read(text, USAGE, name="a.json")
    assert [isinstance(row, UsageRow) for row in rows] == [True, True, False]
    assert rows[2].line == 3


def test_a_json_file_may_hold_lines() -> None:
    rows = read(lines(CALL, "{broken}", CALL), USAGE, name="export.json")
    assert [isinstance(row, UsageRow) for row in rows] == [True, False, True]


def test_a_json_file_of_events_needs_no_mapping() -> None:
    event = {**json.loads(lines(CALL)), "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77", "service": "x"}
    event |= {"occurred_at": event.pop("at"), "provider": "acme", "model_served": "m", "input_tokens": 4}
    rows = list(read_usage(io.BytesIO(json.dumps([event], indent=2).encode()), "events.json"))
    assert len(usages(rows)) == 1
    assert rows[0].line == 2


def test_equal_rows_of_a_document_are_several_calls_with_the_same_ids_each_time() -> None:
    text = json.dumps([CALL, CALL, CALL])
    first = [usage.event_id for usage in usages(read(text, USAGE, name="a.json"))]
    assert len(set(first)) == 3
    assert first == [usage.event_id for usage in usages(read(text, USAGE, name="elsewhere/a.json"))]


def test_an_event_id_of_the_row_is_kept() -> None:
    own = {**CALL, "event_id": "0192f0c1-7e1c-7d3a-9f51-3c1f9a5b2e77"}
    mixed = usages(read(lines(own, CALL), USAGE))
    assert str(mixed[0].event_id) == own["event_id"]
    assert mixed[1].event_id.version == 5


def test_tags_of_a_row_stay_and_are_text() -> None:
    (usage,) = usages(read(lines({**CALL, "tags": {"n": 1, "x": "y"}}), USAGE, sets=[*SETS, "tags.from=file"]))
    assert usage.tags == {"n": "1", "x": "y", "from": "file"}
    (error,) = errors(read(lines({**CALL, "tags": {"n": [1]}}), USAGE))
    assert "tags: a tag is a list" in error


@pytest.mark.parametrize("value", [123456789012345678901234567890, "9" * 5000, 1.5, "many", True, [1], {"a": 1}])
def test_a_value_that_is_no_count_is_an_error_of_its_row(value: Any) -> None:
    rows = read(lines(CALL, {**CALL, "usage": {"completion_tokens": value}}), USAGE)
    assert isinstance(rows[0], UsageRow)
    assert isinstance(rows[1], RowError)
    assert (rows[1].line, rows[1].field) == (2, "output_tokens")


def test_text_that_utf8_can_not_hold_affects_only_its_row() -> None:
    rows = read(
        lines({**CALL, "who": "a"}, '{"at": "2026-01-31T12:00:00Z", "who": "\\ud800"}', CALL), [*USAGE, "user=who"]
    )
    assert [isinstance(row, UsageRow) for row in rows] == [True, False, True]
    rows = read(lines(CALL).encode() + b'{"at": "\xff"}\n' + lines(CALL).encode(), USAGE)
    assert "not UTF-8" in errors(rows)[0]
    assert len(rows) == 3


def test_a_row_from_stdin_needs_an_id_or_a_namespace() -> None:
    with pytest.raises(MappingError, match="--id-namespace"):
        read(lines(CALL), USAGE, name="-")
    assert len(usages(read(lines(CALL), USAGE, name="-", id_namespace="feed"))) == 1


def test_counts_read_by_name_beside_mapped_ones_are_noted() -> None:
    left = Left()
    usages(read(lines({**CALL, "input_audio_tokens": 3}), USAGE, left=left))
    assert list(left.by_name) == ["input_audio_tokens"]
    left = Left()
    usages(read(lines({**CALL, "input_audio_tokens": 3}), USAGE, sets=[*SETS, "input_audio_tokens=0"], left=left))
    assert not left.by_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [("GPT 5 (high)", "gpt-5"), ("prod-eu-7", "gpt-5-mini"), ("gpt-4o", "gpt-4o"), ("unknown", None), ("a=b:c", "d")],
)
def test_values_are_replaced_by_a_map(text: str, expected: str | None) -> None:
    values = [
        "model_served:GPT 5 (high)=gpt-5",
        "model_served:prod-*=gpt-5-mini",
        "model_served:unknown=",
        "model_served:a=b:c=d",
    ]
    (usage,) = usages(read(lines({**CALL, "m": text}), [*USAGE, "model_served=m"], values=values))
    assert usage.model_served == expected


def test_a_true_or_false_can_be_a_tier() -> None:
    values = ["service_tier:true=batch", "service_tier:false=standard"]
    rows = read(lines({**CALL, "batch": True}, {**CALL, "batch": False}), [*USAGE, "service_tier=batch"], values=values)
    assert [usage.service_tier for usage in usages(rows)] == ["batch", "standard"]


@pytest.mark.parametrize(
    ("values", "skips", "message"),
    [
        (["model_served"], [], r"the form --value field:TEXT=value"),
        (["model_served=a"], [], r"the form --value field:TEXT=value"),
        (["modl_served:a=b"], [], r"no field 'modl_served'; the closest is 'model_served'"),
        ([], ["type"], r"the form --skip COLUMN=text"),
        ([], ["typ=a"], r"no 'typ', of --skip; the closest is 'at'"),
    ],
)
def test_an_invalid_value_map_or_condition_is_refused(values: list[str], skips: list[str], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        read(lines(CALL), USAGE, values=values, skips=skips)


def test_gzip_is_recognised_by_its_bytes_and_changes_no_id() -> None:
    plain = usages(read(lines(CALL, CALL), USAGE))
    packed = gzip.compress(lines(CALL, CALL).encode())
    assert usages(read(packed, USAGE, name="usage.jsonl.gz")) == plain
    assert usages(read(packed, USAGE)) == plain
    table = "at,in\n2026-01-31 12:00,5\n"
    maps = ["occurred_at=at", "input_tokens=in"]
    assert usages(read(gzip.compress(table.encode()), maps, name="a.csv.gz")) == usages(read(table, maps, name="a.csv"))


def test_a_truncated_gzip_gives_its_rows_and_an_error() -> None:
    many = [{**CALL, "n": n * 7919 % 10_007} for n in range(5_000)]
    packed = gzip.compress(lines(*many).encode())
    rows = read(packed[: len(packed) // 2], USAGE)
    assert isinstance(rows[-1], RowError)
    assert "the gzip file is damaged" in str(rows[-1])
    assert len(rows) > 1_000
    assert errors(rows) == [str(rows[-1])]
    with pytest.raises(MappingError, match="gzip file is damaged"):
        read(packed[:15], USAGE)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
        (b"\x28\xb5\x2f\xfd", "zstd -dc"),
        (b"PAR1", "Parquet"),
        (b"\xff\xfea\x00", "UTF-16"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_kind(start: bytes, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        read(start + b"..........", USAGE, name="usage.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_format": "ms"}, "count from a start: give it as the time base"),
        ({"time_format": "minutes"}, "unknown time format 'minutes'"),
    ],
)
def test_a_relative_time_needs_base_and_unit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        read(lines({"t": 5, "n": 1}), ["occurred_at=t", "input_tokens=n"], **options)
