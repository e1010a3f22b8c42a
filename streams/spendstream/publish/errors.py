"""How publishing a file can fail.

SpendstreamError
├── TopicMissing     the usage topic is not there: run `spendstream topics`
└── PublishFailed    Kafka did not acknowledge everything; publishing the same file again is harmless
"""

from spendstream.errors import SpendstreamError


class TopicMissing(SpendstreamError):
    """Nothing was published: the topic does not exist, and one that Kafka makes by itself has the wrong settings."""


class PublishFailed(SpendstreamError):
    """Kafka is away or refused records. ``acknowledged``: how many it took before."""

    def __init__(self, acknowledged: int, cause: BaseException) -> None:
        super().__init__(
            f"Kafka did not take everything ({cause!r}); {acknowledged} records are published. "
            "Publish the same file again: an event_id counts once"
        )
        self.acknowledged = acknowledged
