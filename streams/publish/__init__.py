"""Publishing files of usage to Kafka: rows in, acknowledged records out, what is no event by its line."""

from streams.publish.errors import PublishFailed, TopicMissing
from streams.publish.lines import Outgoing, judge_all
from streams.publish.publisher import PublishSettings, Summary, publish

__all__ = ["Outgoing", "PublishFailed", "PublishSettings", "Summary", "TopicMissing", "judge_all", "publish"]
