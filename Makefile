PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

.DEFAULT_GOAL := help

# Where the environment forbids bytecode, every process that a test starts would compile the package again.
export PYTHONDONTWRITEBYTECODE :=

help: ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv with everything the demo and the tests need (idempotent)

# uv is ten times as fast as pip; pip knows indexes that only its own configuration names.
$(VENV)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"
	$(UV_INSTALL) --require-hashes -r requirements.lock || $(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

# Hashes, no addresses: the locks hold for any index that serves the same files.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE)

lock: setup ## pin all versions again; `make lock UPGRADE=--upgrade` takes the newest that pyproject.toml allows
	$(COMPILE) pyproject.toml --extra embedded --extra plot --group dev -o requirements.lock
	$(COMPILE) pyproject.toml --extra worker -c requirements.lock -o infra/docker/requirements.lock
	$(COMPILE) --group sdks -o tests/sdks/requirements.lock

demo: setup ## the whole stack on this machine with a realistic load and a live view, no Docker
	$(BIN)/spendstream demo

# Tests that kill processes wait most of the time, and are collected first: three at a time keep two cores busy, and short
# files fill the end. Polars has one thread, as in the worker.
test: setup kafka alertmanager sdks ## all tests, on a real Kafka, ClickHouse engine and Alertmanager
	POLARS_MAX_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

fuzz: setup sdks ## try the laws on fresh random examples; what fails lands in tests/examples, and `make test` replays it
	$(BIN)/pytest -q -n auto --maxprocesses 4 --timeout 3600 -m 'hypothesis and not broker and not clickhouse and not crash' --hypothesis-profile=fuzz

fast-tests: setup sdks ## the tests that need no broker, no ClickHouse and kill nothing
	$(BIN)/pytest -q -m 'not broker and not clickhouse and not crash'

kafka: setup ## fetch a local Apache Kafka from Maven Central, for the integration tests (idempotent)
	$(BIN)/python -m tests.kafka.install

alertmanager: setup ## fetch a local Prometheus Alertmanager, for the integration tests (idempotent)
	$(BIN)/python -m tests.alertmanager

sdks: setup ## fetch the providers' Python packages, for the tests on their types (idempotent)
	$(BIN)/python -m tests.sdks.install

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

price-history: setup ## derive the prices of the past again, from all releases of genai-prices (see CONTRIBUTING.md)
	$(BIN)/python -m spendstream.price_history

check-schemas: setup ## fail where schemas/json differs from the models
	$(BIN)/python -m spendstream.schemas.generate --check

check: lint types contract check-schemas fast-tests ## format, lint, types, import contract, schemas, fast tests

soak: setup kafka ## randomized crash soak: kills, rebalances, outages, then exact reconciliation
	$(BIN)/python -m tests.crash.soak

bench: setup kafka ## throughput and latency, with ratios measured side by side in one run
	$(UV_INSTALL) --group bench
	$(BIN)/python -m tests.bench

bench-alerts: setup ## quality and cost of anomaly alerts on labelled synthetic incidents
	$(BIN)/python -m tests.bench.alerts

.PHONY: help setup lock demo test fuzz fast-tests kafka alertmanager sdks format lint types contract schemas price-history check-schemas check soak bench bench-alerts
