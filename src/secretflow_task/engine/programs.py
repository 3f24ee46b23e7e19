"""SPU programs: each party compiles its own, all agree on it, and each runs its own.

SecretFlow lets the first party compile and the others run what they receive, so a changed first
party has their inputs revealed to it. Here nothing of a program crosses: a party compiles the
function that its own code calls with, for the shapes, types and visibilities that its own runtime
holds under the names of the inputs.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Callable

from secretflow_task.contract.errors import ProgramMismatch


def install() -> None:
    """Replace SecretFlow's way in this process; also for the calls that its own classes make."""
    from secretflow.device.device import spu

    spu.SPU.__call__ = _call
    spu.SPURuntime.run_own = _run_own


def _call(
    device: Any,
    function: Callable[..., Any],
    *,
    static_argnames: Any = None,
    num_returns_policy: Any = None,
    user_specified_num_returns: int = 1,
    copts: Any = None,
) -> Callable[..., Any]:
    """In place of ``SPU.__call__``, with its arguments."""
    import spu as spu_library
    from secretflow.device.device import spu
    from secretflow.device.kernels.spu import SPUObject

    policies = spu.SPUCompilerNumReturnsPolicy
    policy = num_returns_policy or policies.SINGLE
    if policy is policies.FROM_COMPILER:
        raise NotImplementedError("how many values a program returns is the caller's to say")
    count = user_specified_num_returns if policy is policies.FROM_USER else 1
    options = copts or spu_library.CompilerOptions()

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fixed, kwargs = spu._argnames_partial_except(function, static_argnames, kwargs)
        placed = device._place_arguments(*args, **kwargs)
        name = spu.get_fn_code_name(function)
        outputs = []
        for rank, actor in enumerate(device.actors.values()):
            call = actor.run_own.options(num_returns=2 * count)
            outputs.append(call.remote(policy, fixed, name, options, *_share_names(placed, rank)))
        values = []
        for number in range(count):
            shares = [output[count + number] for output in outputs]
            values.append(SPUObject(device, outputs[0][number], shares))
        return values[0] if count == 1 else values

    return wrapper


def _share_names(values: Any, rank: int) -> Any:
    """Of SPU objects in any nesting: the names of the shares that one party has."""
    import jax

    return jax.tree_util.tree_map(lambda value: value.shares_name[rank], values)


def _run_own(
    runtime: Any, policy: Any, function: Any, name: str, options: Any, args: Any, kwargs: Any
) -> Any:
    """Compile for what the own runtime holds, agree with the others, and run."""
    import jax
    from secretflow.device.device import spu

    def meta_of(share: str) -> Any:
        meta = runtime.runtime.get_var_meta(share)
        return spu.SPUValueMeta(
            spu.shape_spu_to_np(meta.shape),
            spu.dtype_spu_to_np(meta.data_type),
            meta.visibility,
            runtime.conf.protocol,
            runtime.conf.field,
            runtime.conf.fxp_fraction_bits,
        )

    meta_args, meta_kwargs = jax.tree_util.tree_map(meta_of, (args, kwargs))
    executable, output = spu._spu_compile(function, options, name, *meta_args, **meta_kwargs)
    inputs = jax.tree_util.tree_leaves((meta_args, meta_kwargs))
    digest = program_digest(executable, inputs, options, runtime.cluster_def["runtime_config"])
    agree(runtime, digest)
    return runtime.run(policy, output, executable, *jax.tree_util.tree_leaves((args, kwargs)))


def program_digest(executable: Any, inputs: list[Any], options: Any, configuration: Any) -> str:
    """SHA-256 of all that says what a program computes; not of its names, which are random."""
    settings = {}
    for option in dir(options):
        if not option.startswith("_"):
            settings[option] = str(getattr(options, option))
    shape = {
        "inputs": [[list(one.shape), str(one.dtype), int(one.vtype)] for one in inputs],
        "outputs": len(executable.output_names),
        "options": settings,
        "configuration": configuration,
    }
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode())
    digest.update(executable.code)
    return digest.hexdigest()


def agree(runtime: Any, digest: str) -> None:
    """Compare the next program with those of the other parties.

    Each says the digest bound to its own rank, so an echo of ours is another text.

    Raises:
        ProgramMismatch: a party would run another program.
    """
    said = runtime.link.all_gather(_bound(digest, runtime.rank))
    for rank, node in enumerate(runtime.cluster_def["nodes"]):
        if said[rank] != _bound(digest, rank):
            peer = node["party"]
            problem = f"{peer} would run another program than {runtime.party}; neither was run."
            raise ProgramMismatch(problem, party=peer)


def _bound(digest: str, rank: int) -> str:
    return hashlib.sha256(f"{rank}:{digest}".encode()).hexdigest()
