"""From Kafka to ClickHouse: what the meter published becomes rows, each counted once however often it is written.

A sink reads one topic in a consumer group of its own, encodes many records as one insert, and commits what was
inserted. Records that are read again are inserted again; the tables replace rows of the same key, so nothing changes.
"""
