"""The native engine under JAX: a differentiable operation, and where it can't run."""

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ostinato import native
from ostinato.doors.jax_calls import CoreCall, by_run, mapped, target
from ostinato.doors.tracing import EXPORTING, is_exporting
from ostinato.native import RunSpec

__all__ = ["fused", "native_why_not"]

Tensors = tuple[Any, ...]

# Of FFI API 0.1, which the handlers are built on, and of custom_partitioning's sharding rules.
OLDEST_JAX = (0, 7, 2)

_REGISTERING = threading.Lock()


def fused(specs: tuple[RunSpec, ...], operands: Tensors) -> Tensors:
    """Runs layers over sequences on the native engine; differentiable once.

    Args:
        specs: The runs, of one batch size. `training` and `wants_dx` are ignored: both follow from
            what is differentiated.
        operands: The inputs of `ostinato::forward` (native/core/ostinato.h), run after run.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    results: Tensors = _operation(specs)(*operands)
    return results


def native_why_not(x: Any) -> str | None:
    """Why JAX can't run the native engine on such an array, or None where it can."""
    platform = _platform(x)
    if platform != "cpu":
        return f"JAX computes on {platform}, and the native engine is for the CPU"
    if isinstance(x, jax.core.Tracer) and is_exporting():
        return EXPORTING
    with _REGISTERING:
        return _registered()


def _platform(x: Any) -> str:
    """Where x is; what is being traced has no device yet, and goes where JAX puts new arrays."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        return str(next(iter(x.devices())).platform)
    device = jax.config.jax_default_device
    if device is None:
        return str(jax.default_backend())
    return device if isinstance(device, str) else str(device.platform)


@functools.cache
def _registered() -> str | None:
    """Registers the handlers with XLA; why that can't be, or None."""
    reason = native.why_not()
    if reason is not None:
        return reason
    if jax.__version_info__ < OLDEST_JAX:
        oldest = ".".join(map(str, OLDEST_JAX))
        return f"it needs JAX {oldest} or newer, and this is {jax.__version__}"
    handlers = native.jax_handlers()
    if not handlers:
        return "the native engine was built without JAX's headers"
    # A handler that XLA refuses while its CPU backend starts takes that backend down; once it
    # runs, the refusal is an error here.
    jax.local_devices(backend="cpu")
    try:
        for function, handler in handlers.items():
            jax.ffi.register_ffi_target(target(function), handler, platform="cpu")
    except jax.errors.JaxRuntimeError as error:
        return f"JAX {jax.__version__} refuses it: {error}"
    return None


# The operation and its gradient.


# What the gradient needs: run by run what `ostinato::backward` reads, its gradients aside; `rows`
# (see CoreCall.results); and an array whose shape has a 1 for each run whose dx is wanted, else a
# 0. Nothing else that's known while tracing is safe here: JAX calls the rule once for each set of
# differentiated operands, but keeps for all of them the structure that the last call returned.
Kept = tuple[tuple[Tensors, ...], Any, Any]


@functools.cache
def _operation(specs: tuple[RunSpec, ...]) -> Callable[..., Tensors]:
    """The operation of these runs, under jit: outside, a custom_vjp takes 250 us instead of 5."""
    plain = tuple(replace(spec, training=0, wants_dx=0) for spec in specs)
    training = tuple(replace(spec, training=1) for spec in plain)
    inference = mapped(CoreCall("forward", plain))

    def infer(*operands: Any) -> Tensors:
        return inference(*operands)

    def forward(*primals: Any) -> tuple[Tensors, Kept]:
        return _forward(training, primals)

    def backward(kept: Kept, gradients: Tensors) -> Tensors:
        return _backward(training, kept, gradients)

    operation: Any = jax.custom_vjp(infer)
    # With symbolic zeros the rules see whether x is differentiated: the first layer's isn't.
    operation.defvjp(forward, backward, symbolic_zeros=True)
    compiled: Callable[..., Tensors] = jax.jit(operation)
    return compiled


def _forward(specs: tuple[RunSpec, ...], primals: Tensors) -> tuple[Tensors, Kept]:
    call = CoreCall("forward", specs)
    outputs = _once(call)(*(primal.value for primal in primals))
    inputs_by_run = by_run(call.operands, primals)
    *outputs_by_run, (rows,) = by_run(call.results, outputs)
    results: list[Any] = []
    kept, wants_dx = [], []
    for spec, names, inputs, (*shown, saved) in zip(
        specs, call.operands, inputs_by_run, outputs_by_run, strict=True
    ):
        known = {name: primal.value for name, primal in zip(names, inputs, strict=True)}
        known["saved"] = saved
        reads = native.backward_operands(spec)
        kept.append(tuple(known[name] for name in reads if name in known))
        wants_dx.append(int(inputs[0].perturbed))
        results += shown
    return tuple(results), (tuple(kept), rows, jnp.zeros(wants_dx, bool))


def _backward(specs: tuple[RunSpec, ...], kept: Kept, gradients: Tensors) -> Tensors:
    """The gradients of all operands; None for masks.

    For an x that isn't differentiated it's zeros, which JAX drops, and not None: JAX 0.7 wants one
    structure for all sets of differentiated operands.
    """
    tensors_by_run, rows, wanted_by_run = kept
    pairs = zip(specs, wanted_by_run.shape, strict=True)
    call = CoreCall("backward", tuple(replace(spec, wants_dx=wanted) for spec, wanted in pairs))
    shown = tuple(native.forward_results(spec)[:-1] for spec in specs)
    operands: list[Any] = []
    for tensors, run in zip(tensors_by_run, by_run(shown, gradients), strict=True):
        operands += [*tensors, *map(_materialised, run)]
    pulled = by_run(call.results, _once(call)(*operands, rows))
    wanted: list[Any] = []
    for spec, names, (x, *_), run in zip(specs, call.results, tensors_by_run, pulled, strict=True):
        found = {"d_x": jnp.zeros_like(x), **dict(zip(names, run, strict=True))}
        wanted += [found.get(f"d_{name}") for name in native.forward_operands(spec)]
    return tuple(wanted)


def _materialised(gradient: Any) -> Any:
    if isinstance(gradient, SymbolicZero):
        return jnp.zeros(gradient.shape, gradient.dtype)
    return gradient


@functools.cache
def _once(call: CoreCall) -> Callable[..., Tensors]:
    """The call, which says so when it's asked for a derivative."""

    def run(*operands: Any) -> Tensors:
        return mapped(call)(*operands)

    def refuse(primals: Tensors, tangents: Tensors) -> tuple[Tensors, Tensors]:
        raise TypeError(
            f"[ostinato] {call.function}: expected first derivatives only, got a second one. "
            'The portable engine has it: `with ostinato.use_engine("scan")`.'
        )

    operation: Any = jax.custom_jvp(run)
    operation.defjvp(refuse)
    differentiable_once: Callable[..., Tensors] = operation
    return differentiable_once
