"""In-memory twins of what a test would otherwise need SQLite, a node or SecretFlow for.

Each keeps the contract of the real one; `tests/contract` runs one suite on both.
"""

from secretflow_task.testing.channel import MemoryChannel
from secretflow_task.testing.jobs import JobSide, MemoryJob, ScriptedTemplate, scripted_job
from secretflow_task.testing.outbox import MemoryOutbox
from secretflow_task.testing.settlement import MemoryCable, MemorySettlement

__all__ = [
    "JobSide",
    "MemoryCable",
    "MemoryChannel",
    "MemoryJob",
    "MemoryOutbox",
    "MemorySettlement",
    "ScriptedTemplate",
    "scripted_job",
]
