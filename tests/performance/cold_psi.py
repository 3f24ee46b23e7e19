"""One party of a PSI as a plain SecretFlow script: what the worker is compared with.

Usage: cold_psi.py PARTY FED_PORT,FED_PORT,SPU_PORT,SPU_PORT FOLDER
"""

import os
import sys

import secretflow as sf

from secretflow_task.engine_adapter import LINK_DESC, MESSAGE_OPTIONS

party, ports, folder = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
parties = ("alice", "bob")
os.chdir(folder)
addresses = {name: f"127.0.0.1:{port}" for name, port in zip(parties, ports[:2])}
sf.init(
    cluster_config={
        "parties": {
            name: {"address": address, "listen_addr": address} for name, address in addresses.items()
        },
        "self_party": party,
    },
    ray_mode=False,
    logging_level="error",
    job_name="cold",
    cross_silo_comm_options=dict(MESSAGE_OPTIONS),
)
spu = sf.SPU(
    {
        "nodes": [{"party": name, "address": f"127.0.0.1:{port}"} for name, port in zip(parties, ports[2:])],
        "runtime_config": {"protocol": "SEMI2K", "field": "FM128"},
    },
    link_desc=LINK_DESC,
)
spu.psi(
    keys={name: ["uid"] for name in parties},
    input_path={name: f"{folder}/{name}.csv" for name in parties},
    output_path={name: f"{folder}/{name}.out.csv" for name in parties},
    receiver="alice",
    table_keys_duplicated={name: True for name in parties},
)
sf.shutdown()
