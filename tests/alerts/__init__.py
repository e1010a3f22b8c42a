"""Alerts from usage event to webhook: a real Kafka, the real ClickHouse engine, worker processes, killed for real."""
