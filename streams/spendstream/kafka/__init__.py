"""Kafka around the stream: its topics with their settings, reading one to its end, acknowledged writes, and the way
into Faust."""
