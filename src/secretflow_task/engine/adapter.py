"""Every place where we bend SecretFlow 1.14.0b0.

SecretFlow is pinned; nothing outside this module and ``jobs/`` knows its internals. Each bend says
what breaks without it, and has a test in ``tests/integration/test_engine_adapter.py`` that fails
when a release no longer needs it. Importing this module imports nothing of the engine.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Callable

from secretflow_task.engine import codec, programs

# SPU's link: SecretFlow's own first connection sleeps a second when the peer is not listening yet,
# and a dead peer is noticed after 9 s. With these pauses both take milliseconds and about 2 s.
LINK_RETRIES = {
    "max_retry": 20,
    "retry_interval_ms": 20,
    "retry_interval_incr_ms": 20,
    "max_retry_interval_ms": 200,
}
LINK_DESC = {
    "connect_retry_times": 60,
    "connect_retry_interval_ms": 100,
    "brpc_channel_protocol": "http",
    "brpc_channel_connection_type": "pooled",
    "recv_timeout_ms": 3_600_000,
    "http_timeout_ms": 60_000,
}
# gRPC's default policy waits 5 s before it tries a peer again that was not listening yet.
MESSAGE_OPTIONS = {
    "timeout_in_ms": 60_000,
    "grpc_retry_policy": {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}


def preload() -> None:
    """Import the engine without initialising JAX's backend, for the template process.

    ``sml.gaussian_process._gpc`` makes a ``jnp.array`` at import, which starts JAX's CPU backend; a
    child that is forked afterwards hangs on the first array that is large enough for the backend's
    thread pool.

    Raises:
        RuntimeError: the backend was started all the same.
    """
    import jax.numpy
    import numpy
    from jax._src import xla_bridge

    jax_array = jax.numpy.array
    jax.numpy.array = numpy.array
    try:
        import sml.gaussian_process._gpc  # noqa: F401  # pylint: disable=unused-import
    finally:
        jax.numpy.array = jax_array
    import secretflow.ml.linear  # pylint: disable=unused-import
    import secretflow.stats  # noqa: F401  # pylint: disable=unused-import

    if xla_bridge._backends:  # pylint: disable=protected-access
        raise RuntimeError("JAX's backend was started in the template process")
    # JAX warns of every fork, whether it has started its backend or not.
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)


def is_preloaded() -> bool:
    """Whether this process has the engine without having started JAX's backend."""
    backends = getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None)
    return "secretflow" in sys.modules and backends == {}


def install() -> None:
    """Bend SecretFlow in this process; call it once, before `secretflow.init`."""
    # Without it every error ends the process with os._exit(1), unreported.
    os.environ["SF_UT_DO_NOT_EXIT_ENV_FLAG"] = "1"
    _listen_on_loopback()
    _speak_without_pickle()
    programs.install()
    _retry_links_fast()
    _forget_shares_without_a_message()


def keep_running_on_error() -> None:
    """Call after `secretflow.init`: its SIGINT handler ends the process before it can report."""
    signal.signal(signal.SIGINT, lambda *_: None)


def without_beaver_cache(model: Any) -> Any:
    """Return an ``SSRegression`` that trains without SPU's beaver cache.

    With the cache ``sig_type='real'`` on SEMI2K gives random weights of about 1e30, with no error.
    """
    check = type(model)._pre_check  # pylint: disable=protected-access
    # A cycle would keep the training data until the garbage collector comes.
    itself: Any = weakref.proxy(model)

    def check_then_disable(*args: Any, **kwargs: Any) -> None:
        check(itself, *args, **kwargs)
        itself.enable_spu_cache = False

    model._pre_check = check_then_disable  # pylint: disable=protected-access
    return model


def train_on_every_row() -> None:
    """Let ``SSRegression`` use the last, short batch, which it drops.

    A short batch of m rows takes m/batch_size of a step, so that every row has the same weight in
    an epoch.
    """
    from secretflow.ml.linear.ss_sgd import model as ss_sgd

    update = ss_sgd._batch_update_w  # pylint: disable=protected-access
    if getattr(update, "on_every_row", False):
        return

    def update_on_every_row(
        x: Any,
        y: Any,
        w: Any,
        learning_rate: Any,
        l2_norm: Any,
        *,
        total_batch: int,
        batch_size: int,
        **rest: Any,
    ) -> Any:
        w, norms = update(
            x, y, w, learning_rate, l2_norm, total_batch=total_batch, batch_size=batch_size, **rest
        )
        left = x.shape[0] - total_batch * batch_size
        if left:
            share = left / batch_size
            tail = slice(x.shape[0] - left, x.shape[0])
            w, _ = update(
                x[tail],
                y[tail],
                w,
                learning_rate * share,
                l2_norm * share,
                total_batch=1,
                batch_size=left,
                **rest,
            )
        return w, norms

    update_on_every_row.on_every_row = True  # type: ignore[attr-defined]
    ss_sgd._batch_update_w = update_on_every_row  # pylint: disable=protected-access


def use_exact_sigmoid_in_trees() -> None:
    """Let SS-XGB compute its gradients with the logistic function.

    Its approximation is twice as steep at 0, so that trees take steps about twice as large as
    XGBoost's and probabilities are not calibrated. The exponential is raised from an eighth, where
    SPU's is precise, and the score is kept where it cannot overflow.
    """
    from secretflow.ml.boost.ss_xgb_v.core import node_split

    node_split.sigmoid = _sigmoid


def _sigmoid(score: Any) -> Any:
    import jax.numpy as jnp

    power = jnp.exp(jnp.clip(score, -15.0, 15.0) * -0.125)
    for _ in range(3):
        power = power * power
    return 1.0 / (1.0 + power)


def wait_without_programs() -> None:
    """SS-XGB waits after each step: it compiles, sends and runs a program that returns nothing.

    That takes a tenth of the time of a small training. The names of shares come when the shares are
    there.
    """
    from secretflow.ml.boost.ss_xgb_v import booster

    booster.wait = _wait


def _wait(objects: Any) -> None:
    import jax
    import secretflow as sf
    from secretflow import distributed
    from secretflow.device.device.spu import SPUObject

    names = []
    others = []
    for leaf in jax.tree_util.tree_leaves(objects):
        if isinstance(leaf, SPUObject):
            names.extend(leaf.shares_name)
        else:
            others.append(leaf)
    sf.wait(others)
    distributed.get(names)


def hide_gains_of_splits() -> None:
    """SGB shows every party the gain of each split, which only its feature importances use."""
    import numpy as np
    from secretflow.ml.boost.sgb_v.factory.components.split_finder.split_finder import SplitFinder

    find = SplitFinder.find_best_splits_level_wise
    if getattr(find, "hides_gains", False):
        return

    def find_and_hide(self: Any, *args: Any) -> tuple[Any, Any, Any]:
        buckets, worthwhile, gains = find(self, *args)
        return buckets, worthwhile, self.label_holder(np.zeros_like)(gains)

    find_and_hide.hides_gains = True  # type: ignore[attr-defined]
    SplitFinder.find_best_splits_level_wise = find_and_hide


def _listen_on_loopback() -> None:
    """SecretFlow's gRPC server listens on all interfaces, whatever ``listen_addr`` says."""
    import grpc
    from secretflow.distributed.fed import api
    from secretflow.distributed.fed.proxy.grpc import fed_pb2_grpc
    from secretflow.distributed.fed.proxy.grpc.grpc import GrpcProxy

    class LoopbackGrpcProxy(GrpcProxy):  # type: ignore[misc]
        """Listens on the address that it was given."""

        def _start_server(self) -> None:
            server = grpc.server(ThreadPoolExecutor(max_workers=8), options=self._grpc_options)
            fed_pb2_grpc.add_SfFedProxyServicer_to_server(self, server)
            server.add_insecure_port(self._listen_addr)  # RuntimeError when the port is taken
            server.start()
            self._server = server

    api.GrpcProxy = LoopbackGrpcProxy


def _speak_without_pickle() -> None:
    """SecretFlow unpickles what a peer sends and what a share file holds, so a peer can run code
    here.

    Its own guard refuses a few names and lets all others through; nothing reads its
    ``serializing_allowed_list``. An allow-list is no wall either: a forged ``numpy.dtype`` writes
    anywhere in memory.
    """
    from secretflow.device.device import spu
    from secretflow.distributed.fed.proxy.grpc import grpc
    from secretflow.utils import secure_pickle

    def loads(data: bytes, **_rest: Any) -> Any:
        return codec.decode(data)

    def load(file: Any, **_rest: Any) -> Any:
        return codec.load(file)

    def refuse(_self: Any, _module: str, _name: str) -> Any:
        raise pickle.UnpicklingError("nothing is unpickled here")

    plain = SimpleNamespace(
        dumps=codec.encode,
        loads=loads,
        dump=codec.dump,
        load=load,
        FilterType=secure_pickle.FilterType,
    )
    grpc.secure_pickle = plain
    spu.pickle = plain
    secure_pickle.SecureUnpickler.find_class = refuse


def _retry_links_fast() -> None:
    """``link_desc`` refuses retry options, so they are set where it is applied."""
    from secretflow.device.device import spu

    fill = spu._fill_link_desc_attrs  # pylint: disable=protected-access

    def fill_with_retries(link_desc: Any, tls_opts: Any, desc: Any) -> None:
        fill(link_desc=link_desc, tls_opts=tls_opts, desc=desc)
        for name, value in LINK_RETRIES.items():
            setattr(desc.retry_opts, name, value)

    spu._fill_link_desc_attrs = fill_with_retries  # pylint: disable=protected-access


def _forget_shares_without_a_message() -> None:
    """A share that Python forgets is deleted by a call that takes the next message number.

    When the garbage collector finds it, that is at another moment at every party: their numbers
    part, and they wait for each other for ever. If it comes while a call is being submitted, that
    call waits for itself. Here a share is deleted later, by its own party alone and without a
    number.
    """
    from secretflow.data.core.partition import Partition
    from secretflow.device.device.spu import SPUObject
    from secretflow.distributed.fed.global_context import get_global_context

    forgotten: deque[tuple[Any, Any]] = deque()
    initialise = SPUObject.__init__

    def forget(self: Any) -> None:
        if hasattr(self, "shares_name"):
            forgotten.append((self.device, self.shares_name))

    def delete_forgotten() -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        context = get_global_context(assert_none=False)
        if context is None:
            return
        while forgotten:
            device, names = forgotten.popleft()
            for name, (party, actor) in zip(names, device.actors.items()):
                if party == context.get_party():
                    context.submit_task(_call_without_number(actor.del_share, name))

    def initialise_and_delete(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        delete_forgotten()

    SPUObject.__init__ = initialise_and_delete
    SPUObject.__del__ = forget
    Partition.__del__ = lambda self: None  # the same fault; its data stay until the job ends


def _call_without_number(method: Any, argument: Any) -> Callable[[], Any]:
    """What a call of an actor's method runs at its own party."""
    holder = method._fed_call_holder  # pylint: disable=protected-access

    def call() -> Any:
        dependencies = holder.resolve_dependencies(argument)
        return holder._task_impl(*dependencies)  # pylint: disable=protected-access

    return call
