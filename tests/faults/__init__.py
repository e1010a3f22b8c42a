"""Things that go wrong between the sinks and ClickHouse, on purpose."""
