"""Devices of an execution: one PYU per party, and the SPU and HEU that its task needs."""

from __future__ import annotations

from typing import Any, Mapping

from secretflow_task.engine_adapter import LINK_DESC
from secretflow_task.errors import DeviceInitError
from secretflow_task.requests import HeuConfig, Protocol
from secretflow_task.run import Run


class Devices(dict[str, Any]):
    """``"spu"``, ``"heu"`` and one PYU per party name.

    Attributes:
        run: progress, staging and models of the execution at the own party.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    @property
    def self_party(self) -> str:
        """The party whose process this is."""
        return self.run.party


def create_devices(
    run: Run, needs: tuple[str, ...], spu_addresses: Mapping[str, str], heu: HeuConfig | None
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
            devices["spu"] = _create_spu(run.protocol, spu_addresses)
        if "heu" in needs:
            devices["heu"] = _create_heu(run.parties, run.protocol, heu or HeuConfig())
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DeviceInitError(party=run.party, detail=str(error)) from None
    return devices


def _create_spu(protocol: Protocol, addresses: Mapping[str, str]) -> Any:
    import secretflow as sf

    cluster_def = {
        "nodes": [{"party": party, "address": address} for party, address in sorted(addresses.items())],
        "runtime_config": {**protocol.runtime, "protocol": protocol.name, "field": protocol.field},
    }
    return sf.SPU(cluster_def, link_desc=LINK_DESC | dict(protocol.link_desc))


def _create_heu(parties: list[str], protocol: Protocol, config: HeuConfig) -> Any:
    import secretflow as sf
    import spu

    keeper = config.sk_keeper or parties[0]
    evaluators = config.evaluators or [party for party in parties if party != keeper]
    heu_def = {
        "sk_keeper": {"party": keeper},
        "evaluators": [{"party": party} for party in evaluators],
        "mode": "PHEU",
        "he_parameters": {
            "schema": config.scheme,
            "key_pair": {"generate": {"bit_size": config.key_size}},
        },
    }
    return sf.HEU(heu_def, spu_field_type=getattr(spu.FieldType, protocol.field))
