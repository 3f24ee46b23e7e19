"""What the template process preloads: the engine and the job code, and nothing else runs in it."""

import gc

from secretflow_task import engine_adapter
from secretflow_task.jobs import *  # noqa: F401,F403  # pylint: disable=wildcard-import,unused-wildcard-import
from secretflow_task.job_process import run_job  # noqa: F401  # pylint: disable=unused-import

engine_adapter.preload()
# A job's collector leaves what is here alone: it would walk, and so copy, the engine's whole heap at every shutdown.
gc.collect()
gc.freeze()
