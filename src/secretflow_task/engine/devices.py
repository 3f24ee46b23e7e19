"""Devices of an execution: one PYU per party, and the SPU and HEU that its task needs."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, Mapping

from typing_extensions import TypeVar

from secretflow_task.contract.errors import DeviceInitError
from secretflow_task.contract.job_spec import Listening
from secretflow_task.contract.protocols import Protocol
from secretflow_task.engine.adapter import LINK_DESC
from secretflow_task.engine.run import Run

Other = TypeVar("Other")
Input = TypeVar("Input", default=Any)  # what a task's ``prepare`` returns


class Devices(dict[str, Any], Generic[Input]):
    """``"spu"``, ``"heu"`` and one PYU per party name.

    ``"heu"`` makes the HEU, given the party that holds the secret key: only a task's input tells
    whose labels are to be encrypted.

    Attributes:
        run: progress, staging and models of the execution at the own party.
        inputs: what the ``prepare`` of the task that runs has returned.
    """

    inputs: Input

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def with_inputs(self, inputs: Other) -> Devices[Other]:
        """The same devices, for a task with these inputs."""
        devices: Devices[Other] = Devices(self.run)
        devices.update(self)
        devices.inputs = inputs
        return devices

    @property
    def self_party(self) -> str:
        """The party whose process this is."""
        return self.run.party


def create_devices(
    run: Run,
    needs: tuple[str, ...],
    spu_addresses: Mapping[str, str],
    listening: Listening | None = None,
) -> Devices:
    """Create the devices that a task needs; the cluster must be up.

    Raises:
        DeviceInitError: SecretFlow refuses the configuration.
    """
    import secretflow as sf

    devices = Devices(run)
    devices |= {party: sf.PYU(party) for party in run.parties}
    try:
        if "spu" in needs:
            listen = {run.party: listening.spu} if listening else {}
            devices["spu"] = _create_spu(run.protocol, spu_addresses, listen)
        if "heu" in needs:
            devices["heu"] = partial(_create_heu, run)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DeviceInitError(party=run.party, detail=str(error)) from None
    return devices


def _create_spu(protocol: Protocol, addresses: Mapping[str, str], listen: Mapping[str, str]) -> Any:
    import secretflow as sf

    cluster_def = {
        "nodes": [
            {"party": party, "address": address, "listen_address": listen.get(party, "")}
            for party, address in sorted(addresses.items())
        ],
        "runtime_config": {**protocol.runtime, "protocol": protocol.name, "field": protocol.field},
    }
    link_desc = LINK_DESC | dict(protocol.link_desc)
    if any(address.startswith("unix:") for address in addresses.values()):
        link_desc["brpc_channel_protocol"] = "baidu_std"  # brpc's HTTP takes no socket files
    return sf.SPU(cluster_def, link_desc=link_desc)


def _create_heu(run: Run, key_holder: str) -> Any:
    import secretflow as sf
    import spu

    heu_def = {
        "sk_keeper": {"party": key_holder},
        "evaluators": [{"party": party} for party in run.parties if party != key_holder],
        "mode": "PHEU",
        "he_parameters": {
            "schema": run.heu.scheme,
            "key_pair": {"generate": {"bit_size": run.heu.key_size}},
        },
    }
    try:
        return sf.HEU(heu_def, spu_field_type=getattr(spu.FieldType, run.protocol.field))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DeviceInitError(party=run.party, detail=str(error)) from None
