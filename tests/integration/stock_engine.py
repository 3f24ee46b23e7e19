"""Print, as JSON, what SecretFlow does without our bends, and what two of them change (a script).

It ends as SecretFlow does after an error: by itself, with exit code 1.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from secretflow_task.utils.network import free_ports


class _RunsCode:
    def __reduce__(self) -> Any:
        return exec, ("import os; os.environ['SFWORKER_WAS_HERE'] = '1'",)


class _HoldsShares:
    def del_share(self, name: str) -> None:
        """As SecretFlow's."""


def _cached(adapt: Any = lambda model: model) -> bool:
    """Whether a regression would train with SPU's beaver cache."""
    from secretflow.ml.linear import SSRegression

    model = SSRegression(None)
    model._prepare_dataset = lambda data: (data, data.shape)
    model = adapt(model)
    x, y = SimpleNamespace(shape=(9, 2)), SimpleNamespace(shape=(9, 1), partitions={"alice": 0})
    model._pre_check(x, y, 1, 0.1, 4, "real", "logistic", "None", 0.1, 0.0, None, None, "naive_sgd")
    return bool(model.enable_spu_cache)


def _weights(rows: int) -> list[float]:
    """Weights after one epoch in batches of 4 over the first ``rows`` of ten rows."""
    from secretflow.ml.linear.linear_model import RegType
    from secretflow.ml.linear.ss_sgd import model as ss_sgd
    from secretflow.utils.sigmoid import SigType

    random = np.random.default_rng(0)
    x = np.hstack([random.normal(size=(10, 2)), np.ones((10, 1))])[:rows]
    y = random.integers(0, 2, (10, 1))[:rows]
    w, _ = ss_sgd._batch_update_w(
        x,
        y,
        np.zeros((3, 1)),
        0.5,
        0.3,
        sig_type=SigType.T1,
        reg_type=RegType.Logistic,
        penalty=ss_sgd.Penalty.L2,
        total_batch=rows // 4,
        batch_size=4,
        strategy=ss_sgd.Strategy.NAIVE_SGD,
        dk_arr=None,
    )
    return [float(value) for value in np.asarray(w).ravel()]


def _gains_of_a_split() -> list[float]:
    """What SGB's split finder hands out as gains, which its trainer then shows to all."""
    from secretflow.ml.boost.sgb_v.factory.components.split_finder.split_finder import SplitFinder

    class LabelHolder:
        """Runs here what a PYU would run there."""

        party = "alice"

        def __call__(self, function: Any, **_: Any) -> Any:
            return function

    finder = SplitFinder()
    finder.label_holder = LabelHolder()
    g, h = [np.array([[1.0, 3.0, 2.0]])], [np.array([[1.0, 2.0, 3.0]])]
    _, _, gains = finder.find_best_splits_level_wise(g, h, 0, 0)
    return [round(float(gain), 4) for gain in gains]


def _split_of(reg_lambda: float) -> int:
    """Which of three buckets SGB splits at; the first gains, and the last sends all rows left."""
    from secretflow.ml.boost.sgb_v.core.pure_numpy_ops.boost import find_best_splits_with_gains

    g, h = [np.array([[1.0, 3.0, 2.0]])], [np.array([[1.0, 2.0, 3.0]])]
    with np.errstate(invalid="ignore"):
        return int(find_best_splits_with_gains(g, h, reg_lambda, 0.0)[0][0])


def _smallest_bin(bins: int) -> int:
    """The smallest number of a bin, of 1,000 different values."""
    from secretflow.ml.boost.sgb_v.factory.components.order_map_manager.order_map_context import (
        OrderMapContext,
    )

    context = OrderMapContext()
    context.build_maps(np.arange(1000.0).reshape(-1, 1), bins)
    return int(context.get_order_map().min())


def _slope_of_the_tree_sigmoid() -> float:
    from secretflow.ml.boost.ss_xgb_v.core import node_split

    return round(
        float(node_split.sigmoid(np.float64(0.01)) - node_split.sigmoid(np.float64(-0.01))) / 0.02,
        3,
    )


def _messages_of_a_collected_share() -> int:
    """How many message numbers are gone after the garbage collector found one share."""
    from secretflow.device.device.spu import SPUObject
    from secretflow.distributed.fed.actor import FedActorHandle
    from secretflow.distributed.fed.global_context import get_global_context

    actor = FedActorHandle(_HoldsShares, "alice", "alice", {})
    actor.remote()
    cycle: list[Any] = [SPUObject(SimpleNamespace(actors={"alice": actor}), None, ["share"])]
    cycle.append(cycle)
    before = get_global_context()._seq_count
    del cycle
    gc.collect()
    return int(get_global_context()._seq_count - before)


def _programs_of_a_wait() -> tuple[int, bool]:
    """How many programs SS-XGB runs on the SPU to wait for a share, and whether it was there."""
    import secretflow as sf
    from secretflow.device.device.spu import SPUObject
    from secretflow.ml.boost.ss_xgb_v import booster

    programs: list[Any] = []
    made: list[str] = []

    def make() -> str:
        time.sleep(0.3)
        made.append("share")
        return made[0]

    class Device:
        """Notes the programs, and runs none."""

        actors: dict[str, Any] = {}

        def __call__(self, program: Any) -> Any:
            programs.append(program)
            return program

    booster.wait([SPUObject(Device(), None, [sf.PYU("alice")(make)().data])])
    return len(programs), bool(made)


def main() -> None:
    """Measure, print, and fail."""
    import jax._src.xla_bridge
    import secretflow as sf
    from secretflow.distributed.fed.exception import FedRemoteError
    from secretflow.utils import secure_pickle
    from spu import libspu

    from secretflow_task.engine import adapter

    facts: dict[str, Any] = {"backend_started": bool(jax._src.xla_bridge._backends)}
    secure_pickle.loads(pickle.dumps(_RunsCode()), filter_type=secure_pickle.FilterType.BLACKLIST)
    facts["peer_runs_code"] = "SFWORKER_WAS_HERE" in os.environ
    facts["error_text"] = str(pickle.loads(pickle.dumps(FedRemoteError("bob", ValueError("4711")))))
    description = libspu.link.Desc()
    facts["retries"] = [description.retry_opts.max_retry, description.retry_opts.retry_interval_ms]
    facts["cache"] = [_cached(), _cached(adapter.without_beaver_cache)]
    facts["weights"] = {"8": _weights(8), "10": _weights(10)}
    adapter.train_on_every_row()
    facts["weights_on_every_row"] = {"8": _weights(8), "10": _weights(10)}
    facts["tree_slope"], facts["gains"] = [_slope_of_the_tree_sigmoid()], [_gains_of_a_split()]
    adapter.use_exact_sigmoid_in_trees()
    adapter.hide_gains_of_splits()
    facts["tree_slope"] += [_slope_of_the_tree_sigmoid()]
    facts["gains"] += [_gains_of_a_split()]
    facts["split"] = [_split_of(1.0), _split_of(0.0)]
    facts["smallest_bin"] = {str(bins): _smallest_bin(bins) for bins in (100, 200)}
    address = f"127.0.0.1:{free_ports(1)[0]}"
    parties = {"alice": {"address": address, "listen_addr": address}}
    sf.init(
        cluster_config={"parties": parties, "self_party": "alice"},
        ray_mode=False,
        logging_level="error",
    )
    connections = psutil.Process().net_connections("tcp")
    facts["listens"] = sorted(
        {some.laddr.ip for some in connections if some.status == psutil.CONN_LISTEN}
    )
    facts["interrupt"] = signal.getsignal(signal.SIGINT).__module__
    facts["programs_of_a_wait"] = [_programs_of_a_wait()]
    adapter.wait_without_programs()
    facts["programs_of_a_wait"] += [_programs_of_a_wait()]
    facts["messages_of_a_collected_share"] = _messages_of_a_collected_share()
    print(json.dumps(facts))
    sys.stdout.flush()
    sf.shutdown(on_error=True)
    print("still here")


if __name__ == "__main__":
    main()
