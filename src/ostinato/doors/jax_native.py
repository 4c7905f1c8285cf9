"""The native engine under JAX: a differentiable operation, and where it can't run."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import jax

from ostinato import native
from ostinato.doors.jax_calls import CoreCall, fold, partitioned, target
from ostinato.doors.jax_operation import call
from ostinato.doors.tracing import EXPORTING, is_exporting
from ostinato.signatures import Signature, Spec, pullback, signature

__all__ = ["native_run", "native_why_not", "platform_of", "traced_for"]

Tensors = tuple[Any, ...]
Twin = Callable[[tuple[Spec, ...], Tensors], Tensors]

# Of FFI API 0.1, which the handlers are built on, and of custom_partitioning's sharding rules.
OLDEST_JAX = (0, 7, 2)

_REGISTERING = threading.Lock()


def native_run(specs: tuple[Spec, ...], operands: Tensors, twin: Twin | None = None) -> Tensors:
    """Runs layers over sequences on the native engine.

    Args:
        specs: The runs, of one batch size. `training` and `wants_dx` are ignored: both follow from
            what is differentiated.
        operands: The inputs of `ostinato::forward` or of a routine (see `ostinato.doors`).
        twin: The same function of specs and operands on the portable engine: for forward mode,
            second derivatives, and programs that are written for elsewhere.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    results: Tensors = _operation(specs, twin)(*operands)
    return results


def native_why_not(x: Any) -> str | None:
    """Why JAX can't run the native engine on such an array, or None where it can."""
    platform = platform_of(x)
    if platform != "cpu":
        return f"JAX computes on {platform}, and the native engine is for the CPU"
    if isinstance(x, jax.core.Tracer) and is_exporting():
        return EXPORTING
    with _REGISTERING:
        return _registered()


_TRACED_FOR: ContextVar[str | None] = ContextVar("traced_for", default=None)


@contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Inside, what is being traced is taken to go to a platform."""
    token = _TRACED_FOR.set(platform)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def platform_of(x: Any) -> str:
    """Where x is; what is being traced has no device yet, and goes where JAX puts new arrays."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        return str(next(iter(x.devices())).platform)
    if (platform := _TRACED_FOR.get()) is not None:
        return platform
    device = jax.config.jax_default_device
    if device is None:
        return str(jax.default_backend())
    return device if isinstance(device, str) else str(device.platform)


def too_old() -> str | None:
    """That JAX is older than the handlers need, or None."""
    if jax.__version_info__ >= OLDEST_JAX:
        return None
    oldest = ".".join(map(str, OLDEST_JAX))
    return f"it needs JAX {oldest} or newer, and this is {jax.__version__}"


@functools.cache
def _registered() -> str | None:
    """Registers the handlers with XLA; why that can't be, or None."""
    reason = native.why_not() or too_old()
    if reason is not None:
        return reason
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


@dataclass(frozen=True)
class _Layers:
    """Layers over sequences, as an `Operation`.

    Attributes:
        specs: The runs; `training` and `wants_dx` are 0.
        twin: The same in plain JAX: see `native_run`.
    """

    specs: tuple[Spec, ...]
    twin: Twin | None

    platform = "cpu"

    @property
    def result_axes(self) -> tuple[int, ...]:
        return (0,) * len(self._inference.result_axes)

    @property
    def _inference(self) -> CoreCall:
        return CoreCall("forward", self.specs)

    @property
    def _training(self) -> CoreCall:
        return CoreCall("forward", tuple(replace(spec, training=1) for spec in self.specs))

    @property
    def _signature(self) -> Signature:
        return signature("forward", self._training.specs)

    @functools.cached_property
    def differentiable(self) -> tuple[bool, ...]:
        return self._signature.differentiable

    def result_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        return self._inference.result_types(operands)

    def kept_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        types = self._training.result_types(operands)
        rows = jax.ShapeDtypeStruct(operands[0].shape[:1], "int32")
        return [*(types[place] for place in self._signature.saved), rows]

    def infer(self, operands: Tensors) -> Tensors:
        return partitioned(self._inference)(*operands)

    def forward(self, operands: Tensors) -> tuple[Tensors, Tensors]:
        """Keeps what each run saved, and `rows` (see CoreCall.results)."""
        *outputs, rows = partitioned(self._training)(*operands)
        results = tuple(outputs[place] for place in self._signature.shown)
        return results, (*(outputs[place] for place in self._signature.saved), rows)

    def backward(
        self, operands: Tensors, kept: Tensors, gradients: Tensors, wanted: tuple[int, ...]
    ) -> Tensors:
        *all_saved, rows = kept
        route = pullback(self.specs, tuple(place in wanted for place in range(len(operands))))
        known = (*operands, *all_saved)
        known = (*(known[place] for place in route.kept), *gradients)
        core = CoreCall("backward", route.backward.specs)
        pulled = partitioned(core)(*(known[place] for place in route.operands), rows)
        places = (route.gradients[place] for place in wanted)
        return tuple(pulled[place] for place in places if place is not None)

    def folded(self, size: int, mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
        return fold(self._inference, size, mapped, operands)

    def plain(self, operands: Tensors) -> Tensors:
        if self.twin is None:
            raise TypeError(
                "[ostinato] forward: has first derivatives in reverse mode only, and no program "
                "for elsewhere. The portable engine has all: "
                '`with ostinato.use_engine("scan")`.'
            )
        return self.twin(self.specs, operands)


@functools.cache
def _operation(specs: tuple[Spec, ...], twin: Any) -> Callable[..., Tensors]:
    """The operation of these runs, under jit: outside, it takes 250 us instead of 5."""
    layers = _Layers(tuple(replace(spec, training=0, wants_dx=0) for spec in specs), twin)

    def run(*operands: Any) -> Tensors:
        return call(layers, operands)

    compiled: Callable[..., Tensors] = jax.jit(run)
    return compiled
