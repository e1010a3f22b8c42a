"""How a loop of ours is a member of a consumer group, beside Faust's."""

from typing import Any, Final

_SHORTEST_HEARTBEAT_MS: Final = 100
_WEEK_MS: Final = 7 * 24 * 3600 * 1000


def membership(group: str, session_timeout_s: float, longest_poll_ms: int = _WEEK_MS) -> dict[str, Any]:
    """Return the arguments of an aiokafka consumer in a group, which commits by itself what it has delivered.

    A member that sends heartbeats may wait ``longest_poll_ms`` between two polls: by default however long a receiver
    or a ClickHouse is away.
    """
    session_ms = int(session_timeout_s * 1000)
    return {
        "group_id": group,
        "enable_auto_commit": False,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": max(_SHORTEST_HEARTBEAT_MS, session_ms // 4),
        "max_poll_interval_ms": longest_poll_ms,
    }
