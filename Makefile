PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

help: ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv with everything the demo and the tests need (idempotent)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,dev]'
	touch $@

demo: setup ## the whole stack on this machine with a realistic load and a live view, no Docker
	$(BIN)/spendstream demo

test: setup kafka ## all tests, on a real Kafka and the real ClickHouse engine
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

fast-tests: setup ## the tests that need no broker, no ClickHouse and kill nothing
	$(BIN)/pytest -q -m 'not broker and not clickhouse and not crash'

kafka: setup ## fetch a local Apache Kafka from Maven Central, for the integration tests (idempotent)
	$(BIN)/python -m tests.kafka.install

format: setup ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix --quiet .

lint: setup ## format and lint, without changing anything
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: setup ## mypy, strict
	$(BIN)/mypy

contract: setup ## what may import what
	$(BIN)/lint-imports

schemas: setup ## regenerate schemas/json from the models
	$(BIN)/python -m spendstream.schemas.generate

check-schemas: setup ## fail where schemas/json differs from the models
	$(BIN)/python -m spendstream.schemas.generate --check

check: lint types contract check-schemas fast-tests ## format, lint, types, import contract, schemas, fast tests

soak: setup kafka ## randomized crash soak: kills, rebalances, outages, then exact reconciliation
	$(BIN)/python -m tests.crash.soak

bench: setup kafka ## throughput and latency, with ratios measured side by side in one run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,dev,bench]'
	$(BIN)/python -m tests.bench

bench-alerts: setup ## quality and cost of anomaly alerts on labelled synthetic incidents
	$(BIN)/python -m tests.bench.alerts

.PHONY: help setup demo test fast-tests kafka format lint types contract schemas check-schemas check soak bench bench-alerts
