"""The mapping from what is on the wire to rows, without Kafka and without ClickHouse."""
