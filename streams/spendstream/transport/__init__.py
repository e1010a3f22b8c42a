"""Kafka into Faust, a fetch batch at a time."""
