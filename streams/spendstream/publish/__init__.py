"""Publishing files of usage to Kafka: rows in, acknowledged records out, what is no event by its line."""

from spendstream.publish.errors import PublishFailed, TopicMissing
from spendstream.publish.lines import Outgoing, judge_all
from spendstream.publish.publisher import PublishSettings, Summary, publish

__all__ = ["Outgoing", "PublishFailed", "PublishSettings", "Summary", "TopicMissing", "judge_all", "publish"]
