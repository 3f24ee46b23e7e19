"""Tasks that look at a job process from inside, or go wrong in it on purpose."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable
from unittest import mock

from secretflow_task.contract.errors import ValueRange
from secretflow_task.contract.task_config import Reads, TaskConfig
from secretflow_task.contract.task_dispatcher import Task
from secretflow_task.jobs import psi_task

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run

FOREIGN_TEXT = (
    "customer 4711 has 12,345.67"  # what an error inside a device task must not tell the peers
)


class ProbeConfig(TaskConfig):
    """``what`` names a function below; ``at`` is the party where it does what others do not."""

    where: Reads
    what: str
    at: str = "bob"
    times: int = 1
    after: float = 0.0


def prepare(run: Run, config: ProbeConfig) -> None:
    """Do nothing, or go wrong before cryptography starts."""
    if config.what.startswith("early_") and run.party == config.at:
        _FUNCTIONS[config.what](run, config)
    run.agree()


def probe(devices: Devices, task_config: ProbeConfig) -> dict[str, Any]:
    """Call the function that the request names."""
    if task_config.what.startswith("early_"):
        return {}
    return _FUNCTIONS[task_config.what](devices, task_config) or {}


class LeakConfig(TaskConfig):
    """``how`` is a key of `LEAKS`."""

    where: Reads
    how: str


# What bob shows alice of his table, and what a test that reads alice's side must say of it.
LEAKS: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, str]]] = {
    "a cell": (lambda table: table["b1"][7], ("cell", "b1")),
    "a cell as float32": (lambda table: table["b1"].astype("float32")[7:8], ("cell", "b1")),
    "cells in another order": (lambda table: sorted(table["b1"]), ("cell", "b1")),
    "a cell as text": (lambda table: f"it was {table['b1'][7]!r}.", ("cell", "b1")),
    "cells as bytes": (lambda table: table["b1"].tobytes(), ("cell", "b1")),
    "a scaled column": (lambda table: (table["b1"] - table["b1"].mean()) / 3, ("column", "b1")),
    "a matrix with a column": (
        lambda table: table["b1"].repeat(3).reshape(-1, 3) * [0, -2, 1e3],
        ("column", "b1"),
    ),
    "the codes of a column": (
        lambda table: [ord(cell[0]) % 7 for cell in table["city"]],
        ("column", "city"),
    ),
    "a category": (lambda table: {"x": [table["city"][3]]}, ("text", "city")),
    "a mean": (lambda table: table["b2"].mean(), ("mean", "b2")),
    "a deviation": (lambda table: {"b2": table["b2"].std()}, ("std", "b2")),
    "a sum": (lambda table: table["b2"].sum(), ("sum", "b2")),
    "through shares": (lambda table: table["b3"], ("cell", "b3")),
    "through facts": (lambda table: table["b3"].mean(), ("mean", "b3")),
}


def _leaked(run: Run, config: LeakConfig) -> Any:
    table = run.read(config.where, "where")
    if run.party != "bob":
        return None
    columns = {name: table.numbers([name]).ravel() for name in ("b1", "b2", "b3")}
    return LEAKS[config.how][0]({**columns, "city": table.text("city")})


def prepare_leak(run: Run, config: LeakConfig) -> Any:
    """Leak through the facts, where that is how."""
    value = _leaked(run, config)
    run.agree(
        **({"of_bob": float(value)} if config.how == "through facts" and value is not None else {})
    )
    return value


def leak(devices: Devices, task_config: LeakConfig) -> dict[str, Any]:
    """Show alice something of bob's table, as no task must."""
    import secretflow as sf

    own, alice = devices.inputs, devices["alice"]
    value = devices["bob"](lambda: own)()
    if task_config.how == "through shares":
        value = value.to(devices["spu"])
    if task_config.how != "through facts":
        sf.wait(alice(lambda shown: None)(value.to(alice)))
    return {}


def modules(_devices: Devices, _config: ProbeConfig) -> dict[str, Any]:
    """What the job process has imported."""
    return {
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "threads": threading.active_count(),
    }


def place(_devices: Devices, _config: ProbeConfig) -> dict[str, Any]:
    """Where and how the job process lives."""
    files = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "folder": os.getcwd(),
        "temporary": os.environ["TMPDIR"],
        "files": files,
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


def arrays(devices: Devices, config: ProbeConfig) -> dict[str, Any]:
    """Work that hangs in a child of a process that started JAX, and a program for the SPU."""
    import jax.numpy as jnp
    import numpy as np
    import secretflow as sf

    numbers = np.random.default_rng(0).permutation(300_000)
    for _ in range(config.times):
        sorted_all = np.asarray(jnp.sort(jnp.asarray(numbers)))
        assert (sorted_all == np.arange(300_000)).all()
        spu = devices["spu"]
        own = devices["alice"](lambda: np.arange(100.0).reshape(10, 10))().to(spu)
        total = sf.reveal(spu(lambda x: jnp.max(x) + (x @ x.T).sum())(own))
    return {"total": float(total)}


def adapter(devices: Devices, _config: ProbeConfig) -> dict[str, Any]:
    """What the bends of the engine adapter have become in a real job."""
    import pickle

    import secretflow as sf
    from secretflow.device.device import spu as sf_spu
    from secretflow.distributed.fed.exception import FedRemoteError
    from secretflow.utils import secure_pickle
    from spu import libspu

    from secretflow_task.engine import codec

    # The SPU's link is made when it is first used.
    sf.reveal(devices["spu"](lambda x: x + 1)(devices["alice"](lambda: 1.0)().to(devices["spu"])))
    try:
        secure_pickle.loads(
            pickle.dumps(RunsCode()), filter_type=secure_pickle.FilterType.BLACKLIST
        )
        refused = False
    except pickle.UnpicklingError:
        refused = True
    description = libspu.link.Desc()
    sf_spu._fill_link_desc_attrs(link_desc={}, tls_opts=None, desc=description)
    error = codec.decode(codec.encode(FedRemoteError("bob", ValueError(FOREIGN_TEXT))))
    return {
        "refused": refused and "SFWORKER_WAS_HERE" not in os.environ,
        "retries": description.retry_opts.max_retry,
        "retry_pause": description.retry_opts.retry_interval_ms,
        "error": str(error),
        "interrupt": signal.getsignal(signal.SIGINT).__module__,
        "listens": _listens(),
    }


class RunsCode:
    """Unpickled where nothing stops it, it runs code."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.environ['SFWORKER_WAS_HERE'] = '1'",)


def sends_code(devices: Devices, config: ProbeConfig) -> None:
    """One party sends another what runs code when it is unpickled."""
    import pickle

    import secretflow as sf

    from secretflow.distributed.fed.proxy.grpc import grpc

    if devices.self_party == config.at:
        grpc.secure_pickle.dumps = lambda value: pickle.dumps(RunsCode())
    sf.reveal(devices[config.at](lambda: 1)())


def collects(devices: Devices, config: ProbeConfig) -> dict[str, Any]:
    """Shares that only the garbage collector finds, which comes at one party only."""
    import secretflow as sf
    from secretflow.device.device.spu import SPURuntime

    spu = devices["spu"]
    x = devices["alice"](lambda: 1.0)().to(spu)
    delete, deleted = SPURuntime.del_share, []
    counting = mock.patch.object(
        SPURuntime, "del_share", lambda *call: (deleted.append(1), delete(*call))[1]
    )
    with counting:
        for _ in range(config.times):
            cycle: list[Any] = [spu(lambda x: x + 1)(x)]
            cycle.append(cycle)
        del cycle
        if devices.self_party == config.at:
            gc.collect()
        total = sf.reveal(spu(lambda x: x + 41)(x))
        sf.reveal(spu(lambda x: x)(x))
    return {"total": float(total), "deleted": len(deleted)}


def _listens() -> list[str]:
    import psutil

    connections = psutil.Process().net_connections("tcp")
    return sorted(
        {
            connection.laddr.ip
            for connection in connections
            if connection.status == psutil.CONN_LISTEN
        }
    )


def fails_in_device(devices: Devices, config: ProbeConfig) -> None:
    """A device task of one party raises, with data in the text."""
    import secretflow as sf

    def fail() -> None:
        raise ValueError(FOREIGN_TEXT)

    sf.reveal(devices[config.at](fail)())


def fails_in_driver(devices: Devices, config: ProbeConfig) -> None:
    """The driver of one party raises while the others wait for a value of it."""
    import secretflow as sf

    if devices.self_party == config.at:
        raise ValueError(FOREIGN_TEXT)
    sf.reveal(devices[config.at](lambda: 1)())


def fails_last(devices: Devices, config: ProbeConfig) -> None:
    """One party fails while the other has its output ready."""
    run = devices.run
    run.stage(f"{config.where[run.party]}.out.csv", "where").write_text("ready\n")
    if devices.self_party == config.at:
        time.sleep(0.5)  # the other one's result is with its node now
        raise ValueRange(party=run.party)


def waits(devices: Devices, config: ProbeConfig) -> None:
    """Both parties wait for a value that does not come, with an output half written."""
    import secretflow as sf

    run = devices.run
    run.stage(f"{config.where[run.party]}.out.csv", "where").write_text("half")
    run.progress(0.5, "waiting")
    sf.reveal(devices[config.at](lambda: time.sleep(60))())


def early_waits(run: Run, _config: ProbeConfig) -> None:
    """One party's check of its input takes long."""
    time.sleep(60)


def early_dies(run: Run, _config: ProbeConfig) -> None:
    """One party's process is killed before it is prepared."""
    os.kill(os.getpid(), signal.SIGKILL)


def leaves(devices: Devices, config: ProbeConfig) -> None:
    """One party's process ends itself, as SecretFlow does."""
    if devices.self_party == config.at:
        os._exit(1)
    time.sleep(60)


def _at_its_moment(devices: Devices, config: ProbeConfig, fault: Callable[[], object]) -> None:
    """One party has the fault after a moment, while the other waits for a value of it."""
    import secretflow as sf

    if devices.self_party == config.at:
        time.sleep(config.after)
        fault()
    sf.reveal(devices[config.at](lambda: 1)())


def segfault(devices: Devices, config: ProbeConfig) -> None:
    """Native code dies."""
    _at_its_moment(devices, config, lambda: os.kill(os.getpid(), signal.SIGSEGV))


def leaves_early(devices: Devices, config: ProbeConfig) -> None:
    """The process ends itself as if all were well, without a result."""
    _at_its_moment(devices, config, lambda: os._exit(0))


def eats_memory(devices: Devices, config: ProbeConfig) -> None:
    """The process grows by 100 MB at a time."""
    held: list[bytearray] = []

    def eat() -> None:
        while True:
            held.append(bytearray(os.urandom(1) * 100_000_000))
            time.sleep(0.1)

    _at_its_moment(devices, config, eat)


def loops(devices: Devices, config: ProbeConfig) -> None:
    """The process computes for ever."""

    def loop() -> None:
        while True:
            pass

    _at_its_moment(devices, config, loop)


def floods_pipe(devices: Devices, config: ProbeConfig) -> None:
    """The process reports more than anyone can read."""

    def flood() -> None:
        for step in range(100_000):
            devices.run.progress(step / 200_000, "flood")

    _at_its_moment(devices, config, flood)


def floods_log(devices: Devices, config: ProbeConfig) -> None:
    """The process writes 1 GB to its log."""

    def flood() -> None:
        for _ in range(1000):
            os.write(1, b"x" * 999_999 + b"\n")

    _at_its_moment(devices, config, flood)


def swapped_psi(devices: Devices, task_config: psi_task.PsiConfig) -> dict[str, Any]:
    """`psi` in which one party writes two of its rows in each other's place."""
    output_rows = psi_task._output_rows

    def swapped(*arguments: Any) -> Any:
        rows = output_rows(*arguments).to_pylist()
        rows[0], rows[1] = rows[1], rows[0]
        return rows

    with mock.patch.object(
        psi_task, "_output_rows", swapped if devices.self_party == "bob" else output_rows
    ):
        return psi_task.execute_psi(devices, task_config)


def foreign_row_psi(devices: Devices, task_config: psi_task.PsiConfig) -> dict[str, Any]:
    """`psi` in which one party writes a row without a match in the place of one with a match."""
    output_rows = psi_task._output_rows

    def replaced(*arguments: Any) -> Any:
        rows = output_rows(*arguments).to_pylist()
        others = set(range(devices.inputs.table.rows)) - set(rows)
        return [min(others), *rows[1:]]

    with mock.patch.object(
        psi_task, "_output_rows", replaced if devices.self_party == "alice" else output_rows
    ):
        return psi_task.execute_psi(devices, task_config)


_FUNCTIONS = {
    function.__name__: function
    for function in (
        modules,
        place,
        arrays,
        adapter,
        collects,
        sends_code,
        fails_in_device,
        fails_in_driver,
        fails_last,
        waits,
        early_waits,
        early_dies,
        leaves,
        segfault,
        leaves_early,
        eats_memory,
        loops,
        floods_pipe,
        floods_log,
    )
}
TASKS = {
    task.task_type: task
    for task in (
        Task("leak", leak, LeakConfig, ("spu",), prepare_leak),
        Task("probe", probe, ProbeConfig, ("spu",), prepare),
        Task("psi_swapped", swapped_psi, psi_task.PsiConfig, ("spu",), psi_task.prepare_psi),
        Task(
            "psi_foreign_row", foreign_row_psi, psi_task.PsiConfig, ("spu",), psi_task.prepare_psi
        ),
        Task(
            "plain",
            lambda devices, task_config: {"got": dict(task_config), "devices": sorted(devices)},
        ),
    )
}
