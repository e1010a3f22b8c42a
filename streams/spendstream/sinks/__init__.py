"""From Kafka to ClickHouse: what the meter published becomes rows, each counted once however often it is written.

A sink reads one topic in a consumer group of its own, lands many records in one insert, and commits what was inserted.
Records that are read again are inserted again; the tables replace rows of the same key, so that changes nothing.
"""
