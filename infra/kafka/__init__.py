"""Apache Kafka around the stream: a local one for tests, and the topics on any."""
