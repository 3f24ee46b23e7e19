"""One party of plain SecretFlow: joins a session and does what it reads, line by line.

Kept running it is the warm process that the worker is compared with; given one line it is the cold
script. Usage: python -m tests.performance.party PARTY PORT,PORT,PORT,PORT FOLDER
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from secretflow_task.engine.adapter import MESSAGE_OPTIONS
from tests.performance.works import OWN_CODE, PARTIES


def main() -> None:
    """Say ``ready``, do the work of a ``task_config``, say ``done``, and so on."""
    party, ports, root = (
        sys.argv[1],
        [int(port) for port in sys.argv[2].split(",")],
        Path(sys.argv[3]),
    )
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # SecretFlow greets there when it is imported, and prints later
    import secretflow as sf

    from tests.performance.directly import DIRECTLY, Session

    addresses = dict(zip(PARTIES, (f"127.0.0.1:{port}" for port in ports[:2])))
    sf.init(
        cluster_config={
            "parties": {
                name: {"address": address, "listen_addr": address}
                for name, address in addresses.items()
            },
            "self_party": party,
        },
        ray_mode=False,
        logging_level="error",
        job_name="direct",
        cross_silo_comm_options=dict(MESSAGE_OPTIONS),
    )
    session = Session(party, root, ports[2:])
    # Forgotten shares take message numbers: found at moments of chance the parties would wait for
    # ever.
    gc.disable()
    gc.freeze()
    answers.write("ready\n")
    for line in sys.stdin:
        config = json.loads(line)
        if config["task_type"] in OWN_CODE:
            from tests.performance.job_body import (
                run_body,  # with all that the worker's tasks import
            )

            run_body(session, config)
        else:
            DIRECTLY[config["task_type"]](session, config)
        answers.write("done\n")
        gc.collect()
        answers.write("ready\n")
    sf.shutdown()


if __name__ == "__main__":
    main()
