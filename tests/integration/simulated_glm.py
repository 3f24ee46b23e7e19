"""Print, as JSON, whether the first step of `ss_glm` finds features to be independent (a script).

The parties are threads here, so that many tables can be tried.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import spu
from spu.utils import simulation

from secretflow_task.jobs.ml_task import irls

_FAMILY = irls.Family(1.0, "Logit", 16.0, 2.0**-12)


def is_sound(parties: Any, smallest: float, rows: int, seed: int, noise: float) -> bool:
    """What the step says of four features, of which the last is the second plus so much noise."""
    dice = np.random.default_rng(seed)
    features = dice.normal(size=(rows, 4))
    features[:, 3] = features[:, 1] + noise * dice.normal(size=rows)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    design = np.hstack([features, np.ones((rows, 1))])
    label = (dice.random((rows, 1)) < 0.5).astype(float)

    def step(x: Any, y: Any, weight: Any, z: Any) -> Any:
        sums = irls.start_sums((x, y, None, None), weight, z)
        return irls.step(*sums, None, None, shift=rows.bit_length() - 1, smallest=smallest, tol=0.0)

    _, verdict = simulation.sim_jax(parties, step)(design, label, *irls.start(_FAMILY, label))
    return bool(verdict[1])


def main() -> None:
    """``{"FM64": {"0.0": [...], "0.05": [...]}, ...}``, for tables of several sizes and seeds."""
    found: dict[str, dict[str, list[bool]]] = {}
    for field, smallest in (("FM64", 1e-3), ("FM128", 1e-5)):
        parties = simulation.Simulator.simple(
            2, spu.ProtocolKind.SEMI2K, getattr(spu.FieldType, field)
        )
        found[field] = {
            str(noise): [
                is_sound(parties, smallest, rows, seed, noise)
                for rows in sizes
                for seed in range(3)
            ]
            for noise, sizes in ((0.0, (100, 1000, 1900)), (0.05, (1000,)))
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
