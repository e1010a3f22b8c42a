"""A mapping of its columns turns a foreign table into usage events, without code."""

import hashlib
import io
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from spendstream.intake import MappingError, Row, RowError, TableMapping, UsageRow, format_of, read_usage
from spendstream.intake.rows import ROW_IDS, row_id
from spendstream.schemas.usage import UsageEvent

MAPS = ["occurred_at=TIMESTAMP", "input_tokens=ContextTokens", "output_tokens=GeneratedTokens"]
SETS = ["service=azure-trace", "provider=azure", "model_requested=gpt-4"]
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE = Path(__file__).parents[4] / "shared" / "data" / "azure-llm-2023"


def read(text: str | bytes, mapping: TableMapping | None = None, name: str = "trace.csv", **options: str) -> list[Row]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_usage(io.BytesIO(data), name, mapping or TableMapping.from_pairs(MAPS, SETS), **options))


def usages(rows: list[Row]) -> list[UsageEvent]:
    assert [row for row in rows if isinstance(row, RowError)] == []
    return [row.usage for row in rows if isinstance(row, UsageRow)]


def error(rows: list[Row], line: int) -> RowError:
    return next(row for row in rows if isinstance(row, RowError) and row.line == line)


def test_a_trace_is_imported_by_mapping_its_columns() -> None:
    rows = read(TRACE)
    first = rows[0]
    assert isinstance(first, UsageRow)
    event = json.loads(first.value)
    assert event.pop("event_id") == str(first.usage.event_id)
    assert event == {
        "service": "azure-trace",
        "provider": "azure",
        "model_requested": "gpt-4",
        "occurred_at": "2023-11-16T18:17:03.979960Z",
        "input_tokens": 4_808,
        "output_tokens": 10,
    }
    assert [row.line for row in rows] == [2, 3]
    assert first.key == first.usage.partition_key == str(first.usage.event_id).encode()


def test_a_minted_id_is_the_version_five_uuid_of_the_standard_library() -> None:
    for line in range(200):
        digest = hashlib.sha256(f"a,{line}".encode()).hexdigest()
        assert row_id("é.csv", line, f"a,{line}") == str(uuid.uuid5(ROW_IDS, f"é.csv\n{line}\n{digest}"))


def test_importing_the_same_file_twice_makes_the_same_ids() -> None:
    ids = [usage.event_id for usage in usages(read(TRACE))]
    assert ids == [usage.event_id for usage in usages(read(TRACE))]
    assert len(set(ids)) == 2
    assert all(event_id.version == 5 for event_id in ids)


def test_line_ends_and_the_mapping_do_not_change_an_id() -> None:
    other = TableMapping.from_pairs(MAPS, [*SETS, "team=research"])
    converted = read(b"\xef\xbb\xbf" + TRACE.replace("\n", "\r\n").encode(), other)
    assert [u.event_id for u in usages(converted)] == [u.event_id for u in usages(read(TRACE))]


def test_equal_rows_in_two_lines_are_two_calls() -> None:
    line = "2023-11-16 18:17:03,1,1\n"
    rows = read("TIMESTAMP,ContextTokens,GeneratedTokens\n" + 2 * line)
    assert len({usage.event_id for usage in usages(rows)}) == 2


def test_another_namespace_makes_other_ids() -> None:
    by_name = {usage.event_id for usage in usages(read(TRACE))}
    assert by_name.isdisjoint(usage.event_id for usage in usages(read(TRACE, id_namespace="again")))
    assert by_name == {usage.event_id for usage in usages(read(TRACE, name="elsewhere/trace.csv"))}


def test_a_table_from_stdin_has_no_name_to_mint_ids_from() -> None:
    with pytest.raises(MappingError, match="--id-namespace"):
        read(TRACE, name="-")
    assert len(usages(read(TRACE, name="-", id_namespace="trace"))) == 2


def test_ids_of_the_table_are_kept_and_a_column_named_as_a_field_needs_no_mapping() -> None:
    text = "event_id,occurred_at,input_tokens,note\n00000000-0000-4000-8000-000000000001,2026-01-31T12:00:00Z,5,x\n"
    (usage,) = usages(read(text, TableMapping.from_pairs([], SETS)))
    assert (str(usage.event_id), usage.input_tokens) == ("00000000-0000-4000-8000-000000000001", 5)


def test_numbers_money_and_tags_are_converted_by_their_fields_type() -> None:
    text = "at,in,gpu,cost,exp,tier\n2026-01-31 12:00:00+01:00,374.0,1.5,0.012,blue,batch\n"
    maps = ["occurred_at=at", "input_tokens=in", "gpu_seconds=gpu", "provider_cost=cost", "tags.experiment=exp"]
    mapping = TableMapping.from_pairs([*maps, "service_tier=tier"], [*SETS, "tags.source=import", "attempt=2"])
    (usage,) = usages(read(text, mapping))
    assert (usage.input_tokens, usage.gpu_seconds, str(usage.provider_cost), usage.attempt) == (374, 1.5, "0.012", 2)
    assert usage.tags == {"source": "import", "experiment": "blue"}
    assert (usage.service_tier, usage.occurred_at) == ("batch", datetime(2026, 1, 31, 11, tzinfo=UTC))


def test_units_are_exact_and_count_as_usage() -> None:
    text = (
        'at,pages,secs,cost,why\n2026-01-31T12:00Z,"1,204",7.1000000000000005,($1.20),a bill\n2026-01-31T12:00Z,,1,,\n'
    )
    maps = [
        "occurred_at=at",
        "units.pages=pages",
        "units.audio_seconds=secs/2",
        "provider_cost=cost",
        "usage_notes=why",
    ]
    one, other = usages(read(text, TableMapping.from_pairs(maps, [*SETS, "units.images=1"])))
    assert one.units == {"images": 1, "pages": 1204, "audio_seconds": Decimal("3.55")}
    assert other.units == {"images": 1, "audio_seconds": Decimal("0.5")}
    assert (one.provider_cost, one.usage_notes) == (Decimal("-1.2"), ["a bill"])


@pytest.mark.parametrize("name", ["units", "tags"])
def test_a_set_of_names_is_mapped_one_at_a_time(name: str) -> None:
    with pytest.raises(MappingError, match=f"e.g. {name}\\."):
        TableMapping.from_pairs([f"{name}=x"])


def test_an_empty_cell_is_absent_not_zero() -> None:
    (usage,) = usages(read("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03, 7 ,\n"))
    assert (usage.input_tokens, usage.output_tokens) == (7, None)


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ("2023-11-16 18:17:03,12x,1", "input_tokens", "column ContextTokens: '12x' is not a whole number"),
        ("2023-11-16 18:17:03,1.5,1", "input_tokens", "'1.5' is not a whole number"),
        ("2023-11-16 18:17:03,1_000,1", "input_tokens", "not a whole number"),
        ("2023-11-16 18:17:03,-4,1", "input_tokens", "greater than or equal to 0"),
        ("yesterday,1,1", "occurred_at", "'yesterday' is not a valid time"),
        ("1700158623,1,1", "occurred_at", "is a number: give its unit"),
        ("2023-13-16 18:17:03,1,1", "occurred_at", "2023-13-16"),
        ("1970-01-01 00:00:00,1,1", "occurred_at", "2020"),
        ("2023-11-16 18:17:03,,", "input_tokens", "give the token counts"),
        ("2023-11-16 18:17:03,1", None, "2 cells, but the header has 3 columns"),
        ('2023-11-16 18:17:03,"1"x,1', None, "can't be read"),
    ],
)
def test_a_row_that_is_not_an_event_is_reported_by_line_and_the_rest_is_read(
    row: str, field: str | None, message: str
) -> None:
    rows = read(f"{TRACE}{row}\n2023-11-16 18:18:00,1,1\n")
    found = error(rows, 4)
    assert found.field == field
    assert message in found.message
    assert [r.line for r in rows if isinstance(r, UsageRow)] == [2, 3, 5]


def test_bytes_that_are_not_utf8_affect_only_their_line() -> None:
    rows = read(TRACE.encode() + b"2023-11-16 18:17:03,1,1\xff\n2023-11-16 18:17:05,1,1\n")
    assert "not UTF-8" in error(rows, 4).message
    assert len(rows) == 4


def test_lines_are_counted_through_quoted_line_breaks() -> None:
    text = 'TIMESTAMP,ContextTokens,GeneratedTokens,note\n2023-11-16 18:17:03,1,1,"a\nb"\nnever,1,1,c\n'
    assert "not a valid time" in error(read(text), 4).message


def test_a_quote_that_is_never_closed_is_reported_where_it_opens() -> None:
    assert "never closed, and hides 1 more line" in error(read(TRACE + '2023-11-16 18:17:03,"1,1\n2,2,2\n'), 4).message


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    rows = read(TRACE + "2023-11-16 18:17:03,1," + 2_500_000 * "1," + "\n2023-11-16 18:17:05,1,1\n")
    assert "longer than 1000000 bytes" in error(rows, 4).message
    assert isinstance(rows[-1], UsageRow)


@pytest.mark.parametrize(
    ("maps", "sets", "message"),
    [
        (["input_token=ContextTokens"], [], r"no field 'input_token'; the closest is 'input_tokens'"),
        ([], ["Servic=x"], r"no field 'Servic'; the closest is 'service'"),
        (["tags=X"], [], r"e\.g\. tags\.experiment=COLUMN"),
        (["input_tokens"], [], r"the form --map field=COLUMN"),
        (["input_tokens=A", "input_tokens=B"], [], r"given twice, as 'A' and 'B'"),
        (["service=A"], ["service=x"], r"both a column \(A\) and a value \('x'\)"),
        ([], ["event_id=1"], r"can't be the same in every row"),
    ],
)
def test_an_invalid_mapping_is_refused_with_the_fix(maps: list[str], sets: list[str], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        TableMapping.from_pairs(maps, sets)


@pytest.mark.parametrize(
    ("maps", "sets", "message"),
    [
        (
            [*MAPS[:2], "output_tokens=GeneratedToken"],
            SETS,
            r"No column 'GeneratedToken'.*closest is 'GeneratedTokens'",
        ),
        (MAPS, SETS[1:], r"No service, which every event needs: use --map service=COLUMN or --set service="),
        (MAPS, SETS[:2], r"No model_requested or model_served"),
        (MAPS[:1], SETS, r"No count \(e\.g\. input_tokens\), which"),
        (MAPS, [*SETS, "attempt=two"], r"--set attempt: 'two' is not a whole number"),
    ],
)
def test_a_mapping_that_does_not_fit_the_header_is_refused_before_the_first_row(
    maps: list[str], sets: list[str], message: str
) -> None:
    with pytest.raises(MappingError, match=message):
        read_usage(io.BytesIO(TRACE.encode()), "trace.csv", TableMapping.from_pairs(maps, sets))


def test_a_duplicate_column_is_refused_if_it_is_mapped() -> None:
    with pytest.raises(MappingError, match="has 2 columns"):
        read("TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens\n")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(MappingError, match="empty"):
        read("")


def test_a_files_format_follows_from_its_ending_or_the_mapping() -> None:
    mapped, plain = TableMapping.from_pairs(MAPS, SETS), TableMapping()
    assert [format_of(n, plain) for n in ("a.CSV", "a.tsv", "a.jsonl", "-")] == ["csv", "csv", "jsonl", "jsonl"]
    assert format_of("-", mapped) == "csv"


def test_tabs_and_semicolons_separate_too() -> None:
    assert len(usages(read(TRACE.replace(",", "\t"), name="trace.tsv"))) == 2
    assert len(usages(read(TRACE.replace(",", ";"), delimiter=";"))) == 2


@pytest.mark.skipif(not AZURE.exists(), reason="the trace is not beside the repository")
@pytest.mark.parametrize(
    ("name", "calls", "input_tokens", "output_tokens"),
    [("code.csv", 8_819, 18_059_974, 245_896), ("conv.csv", 19_366, 22_361_870, 4_088_665)],
)
def test_the_real_trace_comes_to_its_published_totals(
    name: str, calls: int, input_tokens: int, output_tokens: int
) -> None:
    with (AZURE / name).open("rb") as file:
        found = usages(list(read_usage(file, name, TableMapping.from_pairs(MAPS, SETS))))
    assert len({usage.event_id for usage in found}) == calls
    assert sum(usage.input_tokens or 0 for usage in found) == input_tokens
    assert sum(usage.output_tokens or 0 for usage in found) == output_tokens
