"""The meter's state in Kafka: written by a flush, read back by a recovery."""
