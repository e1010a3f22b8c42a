"""Kafka around the stream: its topics with their settings, and whether a broker answers."""
