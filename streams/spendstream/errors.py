"""The root of spendstream's errors. Each room defines its own below it.

SpendstreamError
├── core.documents.DocumentError          a rate card or watches file can't be used; says file, line, column
├── state.recovery.InterruptedFlush       a crash left half a flush, and the settings that could finish it changed
├── sinks.writer.SinkError                ClickHouse is unavailable, or refuses rows
├── clickhouse.migrate.MigrationError     migrations and database don't fit together
├── kafka.topics.TopicNotCreated          the broker refused a topic
├── drain.TopicsMissing                   a topic does not exist
├── publish.PublishFailed                 Kafka did not acknowledge everything
├── reconcile.NotRepairable               rollups can't be repaired safely at present
└── embedded.process.ProcessFailed        a local server did not start

Bad input is not among them: it becomes a dead letter with a reason code. A bug is not either: it crashes.
"""


class SpendstreamError(Exception):
    """Something that the operator can fix; the message says how."""
