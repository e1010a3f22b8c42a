"""Token buckets: disjoint parts of one call's usage, each with a rate of its own.

Buckets never overlap and sum to the call's total, so a cost is a plain sum of products.
Reasoning tokens are an output bucket: hidden from the reader, billed as output.
"""

from typing import Final

INPUT_BUCKETS: Final = (
    "input",  # uncached text input
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "cache_write",  # written with a lifetime that the provider didn't state
    "input_audio",
    "cache_read_audio",
    "input_image",
    "cache_read_image",
    "input_video",
)
OUTPUT_BUCKETS: Final = (
    "output",  # visible text output
    "reasoning",  # hidden, billed as output
    "output_audio",
    "output_image",
    "output_video",
)
TOKEN_BUCKETS: Final = INPUT_BUCKETS + OUTPUT_BUCKETS
"""Each has a field ``<bucket>_tokens`` on the event and the ledger."""

FEE_BUCKETS: Final = (
    "web_search",  # per search
    "request",  # per call
    "gpu",  # per GPU-second, self-hosted
    "units",  # all other billable units of the event together
)
COST_BUCKETS: Final = TOKEN_BUCKETS + FEE_BUCKETS
"""Each has a column ``cost_<bucket>_usd`` on the ledger and the rollups."""

PROMPT_PARTS: Final = ("system", "history", "retrieval", "tools", "logging")
"""What an input consists of, if the producer knows: ``prompt_<part>_tokens``. Parts of the input, not buckets."""


def tokens_field(bucket: str) -> str:
    """Return the event field that counts a bucket: ``tokens_field("input") == "input_tokens"``."""
    return f"{bucket}_tokens"


def cost_column(bucket: str) -> str:
    """Return the column that holds a bucket's cost in USD: ``cost_column("input") == "cost_input_usd"``."""
    return f"cost_{bucket}_usd"
