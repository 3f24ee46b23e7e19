"""The names under which Redis keeps what nodes, clients and listeners share."""

from __future__ import annotations

STREAM = "task_status_stream"
STREAM_OPEN = "sfworker:stream:open"  # how many bytes have come since a place was noted
STREAM_MARKS = "sfworker:stream:marks"  # places on the stream, between which are so many bytes each
GROUP = "task_status_listener"  # of the listeners, which write the stream to a database
CHANNEL = "task_status_events"
LIST = "task_status_queue"
NODES = "sfworker:nodes"  # all nodes, by the time of their last renewal
CONFIRMED = "sfworker:confirmed"  # written to see whether replicas follow
LEASE_PREFIX = "sfworker:node:"
MOST_REJECTED = 1000  # entries of a quarantine, the newest
RECORD_SECONDS = 7 * 24 * 3600
CANCEL_SECONDS = 24 * 3600


def queue_keys(queue: str) -> list[str]:
    """The lists of a queue: kombu has one for each step of priority."""
    return [queue, *(f"{queue}\x06\x16{step}" for step in (3, 6, 9))]


def record_key(execution_id: str, party: str) -> str:
    """The key of an execution's record at a party: its node, epoch, last event and end."""
    return f"sfworker:execution:{execution_id}:{party}"


def cancel_key(execution_id: str) -> str:
    """The key that says that an execution is cancelled, wherever it is."""
    return f"sfworker:cancelled:{execution_id}"


def rejected_key(queue: str) -> str:
    """The key of a queue's quarantine: a stream of what lay in it and is no request."""
    return f"{queue}.rejected"


def taken_key(node_id: str) -> str:
    """The key of what a node has taken and not ended: the request, by the key of its record at a
    party.
    """
    return f"sfworker:taken:{node_id}"


def lease_key(node_id: str) -> str:
    """The key of a node's lease, which holds what the node says of itself."""
    return LEASE_PREFIX + node_id


def mark_key(node_id: str) -> str:
    """The key of what a node has sent last, by which it notices that Redis has lost something."""
    return f"sfworker:mark:{node_id}"


def unacknowledged_keys(node_id: str) -> dict[str, str]:
    """Where Celery keeps what it has delivered to a node and not heard of since, by kombu's
    options.
    """
    return {
        "unacked_key": f"sfworker:unacked:{node_id}",
        "unacked_index_key": f"sfworker:unacked_index:{node_id}",
        "unacked_mutex_key": f"sfworker:unacked_mutex:{node_id}",
    }
