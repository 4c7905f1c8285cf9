"""The native CPU engine as Python sees it: specs, names and shapes of native/core/ostinato.h.

No framework here: the doors pass their tensors as addresses. Where the extension isn't built, or
can't run, `why_not` says so and everything else of the engine is out of reach.
"""

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

SIMPLE_RNN, LSTM, GRU, GRU_RESET_BEFORE = range(4)  # kinds
FLOAT32, FLOAT64, BOOLEAN = range(3)  # dtypes of tensors

# An address, one of the dtypes above, and a shape. The memory is dense, row-major and on the CPU.
View = tuple[int, int, Sequence[int]]
Sizes = tuple[Any, ...]  # a shape; sizes may be a framework's symbols

_GATES = {SIMPLE_RNN: 1, LSTM: 4, GRU: 3, GRU_RESET_BEFORE: 3}


@dataclass(frozen=True)
class RunSpec:
    """One layer over one sequence. The fields are those of the header, in its order; flags 0 or 1.

    Attributes:
        kind: SIMPLE_RNN, LSTM, GRU (with reset_after) or GRU_RESET_BEFORE.
        activation: Its place in `activation_names()`.
        recurrent_activation: Likewise; ignored for SIMPLE_RNN.
        has_bias: Whether there is a bias.
        has_mask: Whether there is a mask of timesteps.
        input_masks: Number of dropout masks of the inputs: 0, 1 or the gates.
        recurrent_masks: Number of dropout masks of the state: 0 or the gates.
        go_backwards: Whether x and mask are read from the last timestep to the first.
        flip_outputs: Whether ys is written from its last timestep to its first.
        return_sequences: Whether the output of every timestep is wanted.
        zero_output_for_mask: Whether a masked timestep's output is zero, and not the one before.
        training: Whether `forward` gives what `backward` needs.
        wants_dx: Whether `backward` computes the gradient of x.
        ys_before: The units of the run before, if this run's outputs lie in that one's ys.
        ys_after: The units of the run after, if that one's outputs lie in this run's ys.
    """

    kind: int
    activation: int
    recurrent_activation: int
    has_bias: int
    has_mask: int
    input_masks: int
    recurrent_masks: int
    go_backwards: int
    flip_outputs: int
    return_sequences: int
    zero_output_for_mask: int
    training: int
    wants_dx: int
    ys_before: int = 0
    ys_after: int = 0

    @property
    def states(self) -> int:
        """How many states a timestep hands on."""
        return 2 if self.kind == LSTM else 1

    @property
    def owns_ys(self) -> bool:
        """Whether the outputs of every timestep are a tensor of this run's."""
        return bool(self.return_sequences) and not self.ys_before

    @property
    def results(self) -> int:
        """How many tensors `forward` gives for the run, `saved` aside."""
        return int(self.owns_ys) + self.states

    @property
    def gates(self) -> int:
        """How many columns of the kernels each unit has."""
        return _GATES[self.kind]

    def padded(self, units: Any) -> Any:
        """The units rounded up to a multiple of 16, as `saved` has them."""
        return (units + 15) // 16 * 16


# The integers of a run, in a spec's order.
FIELDS = tuple(field.name for field in fields(RunSpec))

# The batch axis of a tensor by its name in the header, gradients apart; weights have none.
BATCH_AXES = {
    "x": 0,
    "h": 0,
    "c": 0,
    "mask": 0,
    "input_masks": 1,
    "recurrent_masks": 1,
    "ys": 0,
    "saved": 1,
}


@cache
def _load() -> tuple[Any, str | None]:
    """The extension module, or None and the reason."""
    try:
        return importlib.import_module("ostinato._native"), None
    except ModuleNotFoundError:
        return (
            None,
            "the native engine isn't built: it couldn't be compiled at installation (it needs a "
            "C++17 compiler; OSTINATO_REQUIRE_NATIVE=1 makes the installation show why)",
        )
    except ImportError as error:
        return None, f"the native engine can't be loaded: {error}"


def _extension() -> Any:
    extension, reason = _load()
    if extension is None:
        raise RuntimeError(f"ostinato.native: {reason}.")
    return extension


@cache
def why_not() -> str | None:
    """Why the native engine can't run in this process, or None where it can."""
    extension, reason = _load()
    if extension is None or extension.target():
        return reason
    names = " or ".join(extension.runnable_targets())
    return f"OSTINATO_TARGET names no target that can run here: expected {names}"


@cache
def activation_names() -> tuple[str, ...]:
    """The activations by their names in keras.activations, in the order of their numbers."""
    names: tuple[str, ...] = _extension().activation_names()
    return names


def target() -> str:
    """The instruction set in use; "" where OSTINATO_TARGET names one that can't run here."""
    name: str = _extension().target()
    return name


def runnable_targets() -> tuple[str, ...]:
    """The instruction sets that are compiled in and run on this CPU, best first."""
    names: tuple[str, ...] = _extension().runnable_targets()
    return names


def threads() -> int:
    """How many threads a call may use now."""
    count: int = _extension().threads()
    return count


def lend_openmp(library: ctypes.CDLL) -> bool:
    """Has the engine work on the threads of the OpenMP runtime that a library uses.

    Args:
        library: The loaded library; its runtime's functions are found through it.

    Returns:
        Whether it has such a runtime. Where not, the engine goes on with threads of its own.
    """
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads")
    if not all(hasattr(library, name) for name in names):
        return False
    functions = (ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in names)
    _extension().lend_openmp(*(function.value for function in functions))
    return True


def pooled_bytes() -> int:
    """Bytes of scratch and saved states that are in use or kept for the next call.

    On TensorFlow the operations have a core of their own, with its own threads and memory, which
    isn't counted here.
    """
    count: int = _extension().pooled_bytes()
    return count


def PooledBuffer(nbytes: int) -> Any:  # noqa: N802 - makes one, and is named as the class
    """Memory from the engine's pool, with the buffer protocol; it goes back when it's freed."""
    return _extension().PooledBuffer(nbytes)


def Program(dtype: int, spec: Sequence[int], weights: Sequence[View]) -> Any:  # noqa: N802 - likewise
    """A timestep of a model, in the terms of native/core/program.h.

    Raises:
        ValueError: The spec or a weight isn't what it should be.
        RuntimeError: The native engine isn't there.
    """
    return _extension().Program(dtype, spec, weights)


def jax_handlers() -> dict[str, Any]:
    """The capsules of the XLA FFI handlers by name; empty where it was built without JAX."""
    handlers: Callable[[], dict[str, Any]] = getattr(_extension(), "jax_handlers", dict)
    return handlers()


def tensorflow_library() -> Path | None:
    """The shared object with TensorFlow's ops, next to the extension; None where there is none."""
    path = Path(_extension().__file__).with_name("libostinato_tensorflow.so")
    return path if path.exists() else None


def encode(specs: Sequence[RunSpec]) -> tuple[int, ...]:
    """The flat integers that the core takes for these runs."""
    return tuple(int(getattr(spec, name)) for spec in specs for name in FIELDS)


def saved_columns(spec: RunSpec) -> int:
    """Columns of `padded` units that `saved` holds a timestep and row."""
    return _saved_columns(spec.kind)


@cache
def _saved_columns(kind: int) -> int:
    columns: int = _extension().saved_columns((kind, *[0] * (len(FIELDS) - 1)))
    return columns


def forward(spec: Sequence[int], inputs: Sequence[View], outputs: Sequence[View]) -> None:
    """Runs layers over sequences, as the header says.

    Args:
        spec: What `encode` gives.
        inputs: The memory of the operands, run after run.
        outputs: The memory of the results, run after run; written whole.

    Raises:
        ValueError: A tensor or the spec isn't what it should be. Nothing is written then.
    """
    _extension().forward(spec, inputs, outputs)


def backward(spec: Sequence[int], inputs: Sequence[View], outputs: Sequence[View]) -> None:
    """Pulls gradients back through the runs of `forward`; arguments and errors as there."""
    _extension().backward(spec, inputs, outputs)


# Names in the order of the header. A gradient is named as what it's of, after `d_`.


def forward_operands(spec: RunSpec) -> tuple[str, ...]:
    """The names of what a run of `forward` reads."""
    return (*("x", *("h", "c")[: spec.states], "kernel", "recurrent_kernel"), *_optional(spec))


def forward_results(spec: RunSpec) -> tuple[str, ...]:
    """The names of what a run of `forward` writes."""
    ys, saved = ("ys",) * spec.owns_ys, ("saved",) * bool(spec.training)
    return (*ys, *("h", "c")[: spec.states], *saved)


def backward_operands(spec: RunSpec) -> tuple[str, ...]:
    """The names of what a run of `backward` reads."""
    masks = tuple(name for name in _optional(spec) if name != "bias")
    d_ys = ("d_ys",) * spec.owns_ys
    gradients = (*d_ys, *("d_h", "d_c")[: spec.states])
    return ("x", "kernel", "recurrent_kernel", *masks, "saved", *gradients)


def backward_results(spec: RunSpec) -> tuple[str, ...]:
    """The names of what a run of `backward` writes."""
    dx, bias = ("d_x",) * bool(spec.wants_dx), ("d_bias",) * bool(spec.has_bias)
    return (*dx, *("d_h", "d_c")[: spec.states], "d_kernel", "d_recurrent_kernel", *bias)


def _optional(spec: RunSpec) -> tuple[str, ...]:
    present = {
        "bias": spec.has_bias,
        "mask": spec.has_mask,
        "input_masks": spec.input_masks,
        "recurrent_masks": spec.recurrent_masks,
    }
    return tuple(name for name, count in present.items() if count)


# Shapes. Only sums, products and whole quotients of the sizes, which may be a framework's symbols.


def forward_output_shapes(spec: RunSpec, B: Any, T: Any, D: Any, U: Any) -> list[Sizes]:  # noqa: N803
    """The shapes of what a run of `forward` writes, in the order of `forward_results`."""
    shapes: list[Sizes] = [(B, T, U + spec.ys_after)] if spec.owns_ys else []
    shapes += [(B, U)] * spec.states
    if spec.training:
        shapes.append((T + 1, B, saved_columns(spec) * spec.padded(U)))
    return shapes


def backward_output_shapes(spec: RunSpec, B: Any, T: Any, D: Any, U: Any) -> list[Sizes]:  # noqa: N803
    """The shapes of what a run of `backward` writes, in the order of `backward_results`."""
    shapes: list[Sizes] = [(B, T, D)] if spec.wants_dx else []
    shapes += [(B, U)] * spec.states
    shapes += [(D, spec.gates * U), (U, spec.gates * U)]
    if spec.has_bias:
        shapes.append((2, 3 * U) if spec.kind == GRU else (spec.gates * U,))
    return shapes
