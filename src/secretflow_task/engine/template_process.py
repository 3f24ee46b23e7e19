"""What the template process preloads: the engine and the job code, and nothing else runs in it."""

import gc
import os
import signal
import warnings

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.engine import adapter
from secretflow_task.engine import job_process  # noqa: F401  # pylint: disable=unused-import

# Standard output belongs to the command that started the node: SecretFlow greets there.
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
# `kill %1` signals the whole process group. The node lets its jobs end first, which need the
# template.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# JAX warns of every fork; `preload` keeps out of its way what the warning is about.
warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
adapter.preload()
TaskDispatcher.load_bodies()
# A job's collector would walk, and so copy, the engine's whole heap at every shutdown.
gc.collect()
gc.freeze()
