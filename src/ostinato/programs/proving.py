"""A new program is run once beside the cell that it was traced from, before anybody trusts it."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from ostinato.cells.checked import held_masks
from ostinato.cells.contract import call_method, output_and_states, output_sizes, takes
from ostinato.doors import door
from ostinato.programs.tracing import Like, Timestep, Untraceable, untried
from ostinato.structure import Structure, leaves, repack
from ostinato.tensors import Tensor, Tensors

ROWS = 2
# The largest difference that rounding explains, over the largest number. (Keras's `matmul` on
# PyTorch computes float64 in float32, 2e-7 a product: two of 300 random cells were off by 2e-6.)
TOLERANCES = {"float64": 2e-5, "float32": 2e-3, "float16": 5e-2, "bfloat16": 2e-1}

Step = Callable[[Tensors, Tensors, Tensors], Tensors]
Nests = tuple[Structure, Structure, list[Any] | None]  # of inputs, of states, of constants


def disproved(
    cell: Any,
    nests: Nests,
    training: bool,
    step: Step,
    dtype: str,
) -> str | None:
    """What a program gets wrong, or None: values and gradients on small random numbers.

    Args:
        cell: The cell.
        nests: What its inputs of a timestep, its states and its constants are like.
        training: Whether dropout is applied.
        step: The program's one timestep: flat inputs, states and constants, each (B, ...), to the
            outputs and new states.
        dtype: What it's computed in.
    """
    found: list[str | Exception | None] = []

    # A thread has no trace of a framework, no scope of Keras and no forced engine around it. What's
    # wrong is so on other numbers too: a threshold met by chance, or a gate all but shut, isn't.
    def work() -> None:
        try:
            for seed in range(2):
                answer = _compared(cell, nests, training, step, dtype, seed)
                if answer is None:
                    break
            if answer is not None:
                _need_the_same_again(cell, nests, training)
            found.append(answer)
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (answer,) = found
    if isinstance(answer, Exception):
        raise answer
    return answer


def _compared(
    cell: Any,
    nests: Nests,
    training: bool,
    step: Step,
    dtype: str,
    seed: int,
) -> str | None:
    """What differs in one try.

    It's made with numbers of both signs, or, where the cell isn't defined at negative ones, as a
    root or a logarithm isn't, with positive ones alone.
    """
    for has_signs in (True, False):
        real, ours, told = _both(cell, nests, training, step, seed, has_signs)
        if all(map(_is_finite, tree.flatten(real))):
            break
    for side in range(2):
        for name, mine, theirs in zip(told[side], ours[side], real[side], strict=True):
            error = _error(mine, theirs, is_gradient=bool(side))
            if error > TOLERANCES.get(dtype, TOLERANCES["float32"]):
                return f"{name} differs by {error:.1e}"
    return None


# Results and their gradients.
Pulled = tuple[Tensors, Tensors]


def _need_the_same_again(cell: Any, nests: Nests, training: bool) -> None:
    """Refuses a cell that gives other numbers each time: then none are a program's fault."""
    step = _real(cell, nests, training)
    once, again, _ = _both(cell, nests, training, step, 0, has_signs=False)
    pairs = zip(once[0], again[0], strict=True)
    if any(_error(first, second, is_gradient=False) for first, second in pairs):
        raise Untraceable("its results aren't always the same")


def _both(
    cell: Any,
    nests: Nests,
    training: bool,
    step: Step,
    seed: int,
    has_signs: bool,
) -> tuple[Pulled, Pulled, tuple[list[str], list[str]]]:
    """The cell's results and gradients, the program's, and what each is called."""
    rng = np.random.default_rng(seed)
    flat = [leaves(nest or []) for nest in nests]
    counts = [len(each) for each in flat]
    given = [_drawn(rng, item, has_signs) for each in flat for item in each]
    is_float = ["float" in item.dtype for each in flat for item in each]
    floats = [tensor for tensor, is_it in zip(given, is_float, strict=True) if is_it]
    variables = _variables(cell)
    values = [_moved(rng, variable) for variable in variables]
    others = [(variable, _kept(variable)) for variable in _variables(cell, of_floats=False)]

    def by(run: Step) -> Callable[..., Tensors]:
        def function(*tensors: Tensor) -> Tensors:
            moving = iter(tensors)
            rest = [next(moving) if f else x for f, x in zip(is_float, given, strict=True)]
            rest += moving
            parts = []
            for count in counts:
                parts.append(tuple(rest[:count]))
                del rest[:count]
            mapping = [*zip(variables, rest, strict=True), *others]
            with keras.StatelessScope(state_mapping=mapping):
                return tuple(_as_float(result) for result in run(*parts))

        return function

    try:
        real = door.pulled(by(_real(cell, nests, training)), (*floats, *values), _upstream)
    except Exception as raised:  # whatever the cell's own code or its derivative may raise
        raise untried(raised) from raised
    ours = door.pulled(by(step), (*floats, *values), _upstream)
    names = [f"{kind} {i}" for kind, n in zip(_KINDS, counts, strict=True) for i in range(n)]
    names = [name for name, is_it in zip(names, is_float, strict=True) if is_it]
    names += [f"weight {variable.name}" for variable in variables]
    results = [f"result {i}" for i in range(len(real[0]))]
    return real, ours, (results, [f"the gradient of {name}" for name in names])


_KINDS = ("input", "state", "constant")


def _real(cell: Any, nests: Nests, training: bool) -> Step:
    """One timestep of the cell itself, flat."""
    call = cell if isinstance(cell, keras.layers.Layer) else call_method(cell)
    keywords: dict[str, Any] = {"training": training} if takes(cell, "training") else {}

    def step(xs: Tensors, states: Tensors, constants: Tensors) -> Tensors:
        x, h = tree.pack_sequence_as(nests[0], xs), tree.pack_sequence_as(nests[1], states)
        given = {} if nests[2] is None else {"constants": list(constants)}
        timestep, keyword_arguments = Timestep(call), {**keywords, **given}
        with held_masks(cell, x, h):
            if output_sizes(cell) is None:  # the loop runs such a cell once, to see what comes out
                timestep(x, h, training=training, keywords=keyword_arguments)
            result = timestep(x, h, training=training, keywords=keyword_arguments)
        output, new = output_and_states("its call", cell, result)
        pairs = zip(tree.flatten(repack(nests[1], new)), leaves(h), strict=True)
        return (*tree.flatten(output), *(_as_truth(fresh, old) for fresh, old in pairs))

    return step


def _variables(cell: Any, of_floats: bool = True) -> list[Any]:
    """The variables of floats that a cell has, or the others."""
    if not isinstance(cell, keras.layers.Layer):
        return []
    return [v for v in cell.variables if ("float" in v.dtype) is of_floats]


def _as_truth(new: Tensor, old: Tensor) -> Tensor:
    """A new state, of a boolean one true or false as the loop makes it."""
    is_bool = keras.backend.standardize_dtype(old.dtype) == "bool"
    return ops.cast(new, "bool") if is_bool else new


def _as_float(result: Tensor) -> Tensor:
    is_float = "float" in keras.backend.standardize_dtype(result.dtype)
    return result if is_float else ops.cast(result, "float32")


def _is_finite(tensor: Tensor) -> bool:
    return bool(np.isfinite(np.asarray(ops.convert_to_numpy(tensor), "float64")).all())


def _drawn(rng: np.random.Generator, item: Like, has_signs: bool) -> Tensor:
    """Numbers for an argument; those of the second row may be negative."""
    if "float" not in item.dtype:
        return ops.convert_to_tensor(rng.integers(0, 2, (ROWS, *item.shape)), dtype=item.dtype)
    numbers = rng.uniform(0.1, 0.9, (ROWS, *item.shape))
    if has_signs:
        numbers[1:] *= rng.choice([-1.0, 1.0], numbers[1:].shape)
    return ops.convert_to_tensor(numbers, dtype=item.dtype)


def _kept(variable: Any) -> Tensor:
    """The value of a variable of no floats, such as a seed; zeros where JAX's trainer holds it."""
    try:
        return ops.copy(variable.value)
    except TypeError:  # as for `_moved`
        return ops.zeros(tuple(variable.shape), dtype=variable.dtype)


def _moved(rng: np.random.Generator, variable: Any) -> Tensor:
    """A variable's value, a little beside: many begin as zeros or ones, which hide much.

    Where JAX's trainer holds the values, for whose trace this is, and where TensorFlow's trace is
    just making the variable, others are made.
    """
    value = None
    with contextlib.suppress(TypeError):  # Keras would call the initializer, None by then
        value = ops.convert_to_numpy(ops.cast(variable.value, "float32"))
    shape = tuple(variable.shape)
    if value is None or value.shape != shape:
        value = rng.uniform(0.1, 0.5, shape) * _signs(rng, shape)
    beside = value + rng.uniform(0.01, 0.1, shape) * _signs(rng, shape)
    return ops.convert_to_tensor(beside, dtype=variable.dtype)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Signs for a kernel, whose sums would shut every gate otherwise; a vector may be scales."""
    if len(shape) < 2:
        return 1.0
    fan_in = int(np.prod(shape[:-1]))
    return rng.choice([-1.0, 1.0], shape) * min(1.0, 4.0 / np.sqrt(fan_in))


def _upstream(result: Tensor) -> Tensor:
    """A gradient for a result: numbers of its size that are no other's."""
    size = int(np.prod(result.shape))
    numbers = np.cos(np.arange(size) + 1.0).reshape(result.shape)
    return ops.convert_to_tensor(numbers, dtype=keras.backend.standardize_dtype(result.dtype))


def _error(mine: Tensor, theirs: Tensor, is_gradient: bool) -> float:
    """The largest difference over the largest number; where both aren't finite there's none.

    Nor is there where a cell's own gradient alone isn't: of relu(x) ** 0.5 at 0 TensorFlow has NaN.
    """
    a, b = (np.asarray(ops.convert_to_numpy(x), "float64") for x in (mine, theirs))
    if a.shape != b.shape:
        return float("inf")
    both = np.isfinite(a) & np.isfinite(b)
    differ = np.isfinite(a) != np.isfinite(b)
    if (differ & np.isfinite(b) if is_gradient else differ).any():
        return float("inf")
    if not both.any():
        return 0.0
    return float(np.abs(a - b)[both].max() / (1e-3 + np.abs(b)[both].max()))
