"""What the nodes on a Redis say of themselves, in their leases."""

from __future__ import annotations

import json
from typing import Any

from secretflow_task.broker.keys import NODES, lease_key


def living_nodes(redis: Any) -> list[dict[str, Any]]:
    """What the nodes that share a Redis say of themselves; raises `redis.RedisError`."""
    leases = [redis.get(lease_key(_text(node_id))) for node_id in redis.zrange(NODES, 0, -1)]
    return [json.loads(lease) for lease in leases if lease]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
