"""`spendstream why` and a join explain every kind of call to the last digit: real Kafka, worker and engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from clickhouse_connect.driver.client import Client

from spendstream import usage_event
from spendstream.cli.root import run
from spendstream.clickhouse.client import INSERT_SETTINGS
from spendstream.embedded.clickhouse import EmbeddedClickHouse
from spendstream.schemas import topics
from tests.kafka.server import LocalKafka

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.timeout(600)]

DATABASE = "explained"
AT = datetime.now(UTC) - timedelta(minutes=1)
CARDS = """
cards:
  - provider: acme
    model: acme-1
    kind: contract
    rates:
      - from: 2020-01-01
        source: "contract 7, clause 3"
        usd_per_mtok: {input: 3, cache_read: 0.3, output: 15}
        usd_per_web_search: 0.01
        usd_per_request: 0.0005
        tiers:
          - {above_input_tokens: 1000, usd_per_mtok: {input: 6, output: 22.5}}
        service_tiers:
          batch: {multiplier: 0.5}
  - provider: acme
    model: acme-scan
    rates:
      - from: 2020-01-01
        source: price list
        usd_per_mtok: {input: 0.0833333333333333, output: 0.1}
        usd_per_unit: {pages: 0.002, audio_seconds: 0.0001}
  - provider: acme
    model: acme-voice
    rates: [{from: 2020-01-01, source: price list, usd_per_unit: {characters: 0.000015}}]
  - provider: openai
    model: gpt-4o-mini
    kind: contract
    rates: [{from: 2020-01-01, source: contract 8, discount_percent: 12.5}]
adjustments:
  - {provider: acme, model: acme-*, region: us-gov, from: 2020-01-01, multiplier: 1.1, source: "price list, page 2"}
deployments:
  - deployment: llama-h100
    model: llama-3
    hardware: h100
    gpus: 4
    rates:
      - {from: 2020-01-01, source: invoice 12, usd_per_gpu_hour: 2.49}
"""


def event(name: str, **fields: Any) -> dict[str, Any]:
    """An event whose id follows from its name."""
    usual = {"service": "api", "provider": "acme", "model_served": "acme-1", "occurred_at": AT.isoformat()}
    return {"event_id": event_id(name), **usual, **fields}


def event_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def kept_usage() -> dict[str, Any]:
    """A response of OpenAI's, with the provider's own counts kept."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 250, "prompt_tokens_details": {"cached_tokens": 400}}
    response = {"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "usage": usage}
    made = usage_event("openai", response, service="api", occurred_at=AT, keep_usage=True)
    return {**made, "event_id": event_id("kept")}


EVENTS = [
    event("plain", input_tokens=600, cache_read_tokens=400, output_tokens=50, reasoning_tokens=7, team="search"),
    event("tiered", input_tokens=1_001, output_tokens=50, web_searches=2),
    event("batch", input_tokens=999, output_tokens=1, service_tier="batch"),
    event(
        "gpu", provider="vllm", model_served="llama-3", deployment="llama-h100", input_tokens=9, gpu_seconds=1.234567
    ),
    event("untimed", provider="vllm", model_served="llama-3", deployment="llama-h100", input_tokens=9),
    event("unknown", provider="openai", model_served="gpt-4oo", input_tokens=9),
    event("own amount", input_tokens=1_000, provider_cost="0.0031"),
    event("flex", input_tokens=1_000, service_tier="flex"),
    event("units", model_served="acme-scan", input_tokens=7, units={"pages": 3, "input_audio_seconds": "7.25"}),
    event("partial", model_served="acme-scan", units={"pages": 2, "widgets": 5}),
    event("region", model_served="acme-scan", input_tokens=7, output_tokens=50, region="us-gov"),
    event("share", provider="openai", model_served="gpt-4o-mini", input_tokens=1_000, output_tokens=50),
    event("prepaid", provider="openai", model_served="gpt-4o", input_tokens=1_000, capacity="provisioned"),
    event("step", input_tokens=10, context_step=1_000),
    event("no units", model_served="acme-voice", input_tokens=10),
    kept_usage(),
]
PRICED = {
    # 600 at 3, 400 at 0.3, 57 at 15 a million, and the request
    "plain": Decimal("0.0018") + Decimal("0.00012") + Decimal("0.000855") + Decimal("0.0005"),
    # 1,001 at 6, 50 at 22.5 a million, two searches, and the request
    "tiered": Decimal("0.006006") + Decimal("0.001125") + Decimal("0.02") + Decimal("0.0005"),
    # 999 at 1.5, 1 at 7.5 a million, and the request
    "batch": Decimal("0.0014985") + Decimal("0.0000075") + Decimal("0.0005"),
    # 1.234567 s of four GPUs at 2.49 an hour: 0.00341563536666..., to 12 decimals
    "gpu": Decimal("0.003415635367"),
    "own amount": Decimal("0.0035"),
    "flex": Decimal("0.0035"),
    # 7 at 0.0833333333333333 a million is 0.000000583333..., three pages, 7.25 s
    "units": Decimal("0.000000583333") + Decimal("0.006") + Decimal("0.000725"),
    "partial": Decimal("0.004"),
    # 7 at 0.09166666666666663, 50 at 0.11 a million
    "region": Decimal("0.000000641667") + Decimal("0.0000055"),
    # 1,000 at 0.15, 50 at 0.6 a million, less an eighth
    "share": Decimal("0.00013125") + Decimal("0.00002625"),
    "prepaid": Decimal(0),
    "step": Decimal("0.00006") + Decimal("0.0005"),
    # 600 at 2.5, 400 at 1.25, 250 at 10 a million
    "kept": Decimal("0.0045"),
}


async def publish(bootstrap: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topics.USAGE, value, key=b"k")
    finally:
        await producer.stop()


@pytest.fixture(scope="module")
def stack(
    real_kafka: LocalKafka, server: EmbeddedClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Everything above was published and is drained."""
    folder = tmp_path_factory.mktemp("why")
    (folder / "cards.yaml").write_text(CARDS)
    log = folder / "worker.log"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "KAFKA_BOOTSTRAP_SERVERS": real_kafka.bootstrap,
            "KAFKA_PARTITIONS": "1",
            "CLICKHOUSE_URL": server.url,
            "CLICKHOUSE_DATABASE": DATABASE,
            "RATE_CARDS": str(folder / "cards.yaml"),
            "WORKER_ROLES": "meter,sink",
            "METRICS_PORT": "0",
        }.items():
            patch.setenv(name, value)
        assert run(["topics"]) == 0
        assert run(["migrate"]) == 0
        broken = event("broken", input_tokens=-1)
        asyncio.run(publish(real_kafka.bootstrap, [json.dumps(each).encode() for each in (*EVENTS, broken)]))
        worker = [sys.executable, "-m", "spendstream.cli", "worker"]
        with log.open("wb") as out, subprocess.Popen(worker, env=os.environ.copy(), stdout=out, stderr=out) as child:
            try:
                assert run(["drain", "--timeout", "90"]) == 0, log.read_text()
            finally:
                child.terminate()
                assert child.wait(30) == 0, log.read_text()
        yield


def why(capfd: pytest.CaptureFixture[str], name: str, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    done = run(["why", event_id(name), "--json"])
    printed = capfd.readouterr()
    assert done == status, printed
    (line,) = printed.out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("name", PRICED)
def test_the_charges_of_a_call_are_quantity_times_rate_and_sum_to_its_cost(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    call = why(capfd, name)
    assert Decimal(call["cost_usd"]) == Decimal(call["recomputed_usd"]) == PRICED[name]
    assert call["agrees"]
    assert call["problems"] == []
    assert sum(Decimal(charge["cost_usd"] or 0) for charge in call["charges"]) == PRICED[name]
    for charge in call["charges"]:
        if charge["item"] == "widgets":
            assert (charge["rate_usd"], charge["cost_usd"]) == (None, None)
            continue
        amount = Decimal(charge["quantity"]) * Decimal(charge["rate_usd"]) / charge["per"]
        assert amount.quantize(Decimal("1e-12")) == Decimal(charge["cost_usd"])
    assert call["rate_card"]["reference"] or name == "prepaid"


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("name", PRICED)
def test_a_join_explains_a_call_as_the_command_does(
    name: str, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    sql = f"SELECT * FROM {DATABASE}.charges_v WHERE event_id = '{event_id(name)}'"
    rows = {row["item"]: row for row in client.query(sql).named_results()}
    assert sum(row["cost_usd"] or 0 for row in rows.values()) == PRICED[name]
    for charge in why(capfd, name)["charges"]:
        row = rows.pop(charge["item"])
        for column in ("quantity", "rate_usd", "cost_usd", "multiplier"):
            assert row[column] == (None if charge[column] is None else Decimal(charge[column])), column
        for column in ("per", "unit", "minimum", "priced_as"):
            assert row[column] == charge[column], column
    assert rows == {}


@pytest.mark.usefixtures("stack")
def test_the_step_and_the_tier_that_applied_are_stated(capfd: pytest.CaptureFixture[str]) -> None:
    tiered = {charge["item"]: charge for charge in why(capfd, "tiered")["charges"]}
    assert tiered["input"]["above_input_tokens"] == 1_000
    assert why(capfd, "step")["context_step"] == 1_000
    assert (tiered["web_search"]["quantity"], tiered["web_search"]["rate_usd"]) == ("2", "0.01")
    assert why(capfd, "batch")["rate_card"]["service_tier"] == "batch"
    flex = why(capfd, "flex")
    assert (flex["service_tier"], flex["rate_card"]["service_tier"], flex["price_quality"]) == (
        "flex",
        "standard",
        "substituted",
    )
    assert flex["price_notes"]


@pytest.mark.usefixtures("stack")
def test_units_factors_and_what_has_no_rate_are_stated(capfd: pytest.CaptureFixture[str]) -> None:
    units = {charge["item"]: charge for charge in why(capfd, "units")["charges"]}
    assert (units["pages"]["quantity"], units["pages"]["unit"], units["pages"]["rate_usd"]) == ("3", "pages", "0.002")
    assert units["input_audio_seconds"]["priced_as"] == "audio_seconds"
    partial = why(capfd, "partial")
    assert (partial["price_quality"], partial["price_notes"]) == ("partial", ["no rate for widgets"])
    region, share = why(capfd, "region"), why(capfd, "share")
    assert region["rate_card"]["multipliers"][0]["reference"] == "price list, page 2"
    assert [charge["multiplier"] for charge in region["charges"]] == ["1.1", "1.1"]
    assert [charge["multiplier"] for charge in share["charges"]] == ["0.875", "0.875"]
    assert why(capfd, "prepaid")["rate_source"] == "prepaid"


@pytest.mark.usefixtures("stack")
def test_what_the_provider_said_stands_beside_what_we_say(capfd: pytest.CaptureFixture[str]) -> None:
    kept = why(capfd, "kept")
    assert kept["provider_usage"]["prompt_tokens_details.cached_tokens"] == "400"
    assert kept["rate_card"]["reference"].startswith("https://")
    assert kept["rate_card"]["source"] == "genai-prices"
    assert Decimal(why(capfd, "own amount")["provider_cost"]) == Decimal("0.0031")


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("unknown", "unknown_model", "openai gpt-4o"),
        ("untimed", "no_rate_for_bucket", "gpu_seconds"),
        ("no units", "no_rate_for_bucket", "characters"),
    ],
)
def test_a_call_without_a_price_says_why_and_what_would_fix_it(
    name: str, reason: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    call = why(capfd, name)
    assert (call["cost_usd"], call["unpriced_reason"], call["agrees"]) == (None, reason, True)
    assert says in " ".join(call["why_unpriced"])
    assert call["charges"][0]["quantity"] in ("9", "10")


@pytest.mark.usefixtures("stack")
def test_a_dead_letter_is_named_with_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    (letter,) = why(capfd, "broken", status=1)["dead_letters"]
    assert (letter["reason"], letter["field"], letter["offset"]) == ("out_of_range", "input_tokens", len(EVENTS))
    assert run(["why", event_id("broken")]) == 1
    assert "out_of_range" in capfd.readouterr().err


@pytest.mark.usefixtures("stack")
def test_an_id_that_nobody_published_says_where_it_looked(capfd: pytest.CaptureFixture[str]) -> None:
    assert why(capfd, "never", status=1)["found"] is False
    assert run(["why", event_id("never")]) == 1
    assert f"{DATABASE}.calls_v at http://" in capfd.readouterr().err
    assert run(["why", "not-an-id"]) == 2
    assert "not a UUID" in capfd.readouterr().err


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("name", [*PRICED, "unknown", "untimed", "no units"])
def test_people_read_the_same(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["why", event_id(name)]) == 0
    printed = capfd.readouterr().out
    assert printed.startswith(f"${PRICED[name].normalize():f}: " if name in PRICED else "no price: ")
    assert "offset" in printed


@pytest.mark.usefixtures("stack")
def test_an_amount_that_is_not_the_cards_is_said_loudly(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows that were changed, or a card that was: neither passes for an explanation."""
    copy(client, "plain", "dearer", cost_input_usd="0.001800000001")
    ((card_id,),) = client.query(
        f"SELECT rate_card_id FROM {DATABASE}.calls_v WHERE event_id = '{event_id('plain')}'"
    ).result_rows
    changed = why(capfd, "dearer", status=1)
    assert changed["agrees"] is False
    assert "cost_input_usd" in changed["problems"][0]
    altered = (
        f"SELECT * REPLACE (replaceOne(record, '\"15\"', '\"14\"') AS record, 'altered' AS rate_card_id) "
        f"FROM {DATABASE}.rate_cards"
    )
    client.command(f"INSERT INTO {DATABASE}.rate_cards {altered} WHERE rate_card_id = '{card_id}'")
    for name, card in (("altered", "altered"), ("lost", "0123456789abcdef")):
        copy(client, "plain", name, rate_card_id=card)
        (problem,) = why(capfd, name, status=1)["problems"]
        assert card in problem


def copy(client: Client, name: str, to: str, **columns: str) -> None:
    replaced = ", ".join(f"'{value}' AS {column}" for column, value in {"event_id": event_id(to), **columns}.items())
    source = f"SELECT * REPLACE ({replaced}) FROM (SELECT * FROM {DATABASE}.calls WHERE event_id = '{event_id(name)}')"
    client.command(f"INSERT INTO {DATABASE}.calls {source}", settings=INSERT_SETTINGS)
