"""ClickHouse's tables and views: numbered migrations, from one source for a single node and for a cluster."""
