"""Publishing files of usage to Kafka: rows in, acknowledged records out, what is no event by its line."""

from streams.publish.errors import PublishFailed, TopicMissing
from streams.publish.lines import Line, read_lines
from streams.publish.publisher import PublishSettings, Summary, publish

__all__ = ["Line", "PublishFailed", "PublishSettings", "Summary", "TopicMissing", "publish", "read_lines"]
