"""A local Apache Kafka for tests, from Maven Central."""
