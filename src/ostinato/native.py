"""The native CPU engine as Python sees it: specs, calls and threads of native/core/ostinato.h.

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

FLOAT32, FLOAT64, BOOLEAN, BFLOAT16, INT8 = range(5)  # dtypes of tensors

# What products are computed from: a spec's `precision`.
OF_TENSORS, BFLOAT16_PRODUCTS, BFLOAT16_TENSORS, INT8_WEIGHTS = range(4)

# What a row's states become before a timestep that resets them: a spec's `resets`.
NO_RESETS, TO_ZEROS, TO_FRESH_STATES = range(3)

LEAST_CHECKPOINT = 32  # timesteps: see RunSpec

NO_GRADIENTS_OF_INT8 = (
    "[ostinato] a recurrent layer with weights in int8 is for inference: it has no gradients, of "
    "its inputs neither. Train the model that was quantized, and quantize it again."
)

# A spec that begins with it names a routine: see native/core/routine/routine.h.
ROUTINE = -1

# An address, one of the dtypes above, and a shape. The memory is dense, row-major and on the CPU.
View = tuple[int, int, Sequence[int]]


@dataclass(frozen=True)
class Kind:
    """A kind of cell that is built in.

    Attributes:
        name: Its name in native/core/kinds; "gru" is the one with reset_after.
        number: Its number, as a spec has it.
        gates: How many columns of the kernels each unit has.
        states: How many states a timestep hands on.
        bias_rows: 2 where the inputs' product and the state's have a bias each.
        saved_columns: Columns of padded units that `saved` holds a timestep and row.
    """

    name: str
    number: int
    gates: int
    states: int
    bias_rows: int
    saved_columns: int


@dataclass(frozen=True)
class RunSpec:
    """One layer over one sequence. The fields are those of the header, in its order; flags 0 or 1.

    Attributes:
        kind: The number of one of `kinds()`.
        activation: Its place in `activation_names()`.
        recurrent_activation: Likewise; ignored where the kind has no gates.
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
        precision: What products are computed from: OF_TENSORS, which are float32 or float64;
            BFLOAT16_PRODUCTS of float32 tensors; BFLOAT16_TENSORS; or INT8_WEIGHTS beside float32
            tensors, for inference alone.
        resets: What a row's states become where it's reset: NO_RESETS, TO_ZEROS or TO_FRESH_STATES.
        checkpoint: Timesteps between the states that are kept for `backward`, which computes those
            between once more; a power of two from LEAST_CHECKPOINT on, or 0 to keep all.
        truncate: Timesteps of which no gradient of a state crosses a multiple; 0: all do.
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
    precision: int = 0
    resets: int = 0
    checkpoint: int = 0
    truncate: int = 0

    @property
    def cell(self) -> Kind:
        """The kind itself."""
        known = _kinds()
        if not 0 <= self.kind < len(known):
            raise ValueError(f"[ostinato] kind: expected 0 to {len(known) - 1}, got {self.kind}.")
        return known[self.kind]

    @property
    def owns_ys(self) -> bool:
        """Whether the outputs of every timestep are a tensor of this run's."""
        return bool(self.return_sequences) and not self.ys_before

    @property
    def results(self) -> int:
        """How many tensors `forward` gives for the run, `saved` aside."""
        return int(self.owns_ys) + self.cell.states

    def encoded(self, operation: str, training: int) -> tuple[int, ...]:
        """The integers that the core takes for the run, where it trains or not.

        They're the same for "forward" and for "backward".

        Raises:
            ValueError: if a gradient is wanted of a run whose weights are in int8.
        """
        if self.precision == INT8_WEIGHTS and (training or operation == "backward"):
            raise ValueError(NO_GRADIENTS_OF_INT8)
        flat = [int(getattr(self, name)) for name in FIELDS]
        flat[_TRAINING] = int(training)
        return tuple(flat)


# The integers of a run, in a spec's order.
FIELDS = tuple(field.name for field in fields(RunSpec))
_TRAINING = FIELDS.index("training")


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


def file() -> Path | None:
    """The extension's file; None where it isn't built."""
    extension, _ = _load()
    return None if extension is None else Path(extension.__file__)


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


@cache
def routine_operations() -> tuple[str, ...]:
    """The elementwise operations of a routine by name, in the order of their numbers."""
    names: tuple[str, ...] = _extension().routine_operations()
    return names


def register_routine(ints: Sequence[int], floats: Sequence[float]) -> tuple[int, int]:
    """Has the core check a routine and keep it, as long as the process lives.

    Args:
        ints: The routine, as native/core/routine/routine.h says.
        floats: Its literals.

    Returns:
        The numbers by which a spec names it, each of 31 bits: the same whenever, and in whatever
        process, the same is registered.

    Raises:
        ValueError: It isn't a routine; the message says where.
        RuntimeError: The native engine isn't there.
    """
    high, low = _extension().register_routine(tuple(ints), tuple(floats))
    return high, low


def register_routine_in(library: ctypes.CDLL, ints: Sequence[int], floats: Sequence[float]) -> None:
    """Has a library with a core of its own, TensorFlow's, keep a routine too.

    Args:
        library: What `tensorflow_library` names, loaded.
        ints: As for `register_routine`.
        floats: Likewise.

    Raises:
        ValueError: It isn't a routine; the message says where.
    """
    error = ctypes.create_string_buffer(1024)
    refused = library.ostinato_register_routine(
        (ctypes.c_int64 * len(ints))(*ints),
        ctypes.c_size_t(len(ints)),
        (ctypes.c_double * len(floats))(*floats),
        ctypes.c_size_t(len(floats)),
        error,
        ctypes.c_size_t(len(error)),
    )
    if refused:
        raise ValueError(error.value.decode())


_KINDS: list[Kind] = []  # and no functools.cache: torch.compile warns of those


def _kinds() -> list[Kind]:
    if not _KINDS:
        facts = enumerate(_extension().kinds())
        _KINDS.extend(Kind(name, number, *rest) for number, (name, *rest) in facts)
    return _KINDS


def kinds() -> dict[str, Kind]:
    """The built-in kinds of cells by their names, in the order of their numbers."""
    return {kind.name: kind for kind in _kinds()}


def target() -> str:
    """The instruction set in use; "" where OSTINATO_TARGET names one that can't run here."""
    name: str = _extension().target()
    return name


@cache
def computes_bfloat16() -> bool:
    """Whether the target in use has products of bfloat16."""
    return bool(_extension().computes_bfloat16())


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
    """A timestep of a model, in the terms of native/core/step/program.h.

    Raises:
        ValueError: The spec or a weight isn't what it should be.
        RuntimeError: The native engine isn't there.
    """
    return _extension().Program(dtype, spec, weights)


def jax_handlers() -> dict[str, Any]:
    """The capsules of the XLA FFI handlers by name; empty where it was built without JAX."""
    handlers: Callable[[], dict[str, Any]] = getattr(_extension(), "jax_handlers", dict)
    return handlers()


def jax_cuda_handler(on_card: bool) -> Any:
    """The capsule of the XLA FFI handler that launches on cards; None where it isn't built.

    Args:
        on_card: Whether it takes XLA's stream; without one it's for tests on the CPU.
    """
    made: Callable[..., Any] | None = getattr(_extension(), "jax_cuda_handler", None)
    return None if made is None else made(on_card)


def tensorflow_library() -> Path | None:
    """The shared object with TensorFlow's ops, next to the extension; None where there is none."""
    path = Path(_extension().__file__).with_name("libostinato_tensorflow.so")
    return path if path.exists() else None


def encode(specs: Sequence[RunSpec]) -> tuple[int, ...]:
    """The flat integers that the core takes for these runs."""
    return tuple(number for spec in specs for number in spec.encoded("forward", spec.training))


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
