"""Kafka around the stream: its topics with their settings, reading one to its end, and acknowledged writes."""
