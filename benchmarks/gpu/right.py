"""Whether each engine is right: values and gradients against NumPy in float64, on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import tree

import reference
from benchmarks.gpu.context import Context, reason
from benchmarks.gpu.running import DTYPES, ON_TORCH, need_card, set_precision, tensor
from engines import cases
from engines.cases import Case, Expected, ExpectedBidirectional
from ostinato import layers

# The norm of an error over that of what's right, after 20 timesteps and back.
TOLERANCES = {"float64": 1e-9, "float32": 3e-5, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
# Of the engine `cuda`: with so many units blocks meet in a block, a cluster, the grid (on an H100).
UNITS = {
    "block": [64, 33],
    "cluster": [128, 100],
    "grid": [512, 768],
}

Arrays = list[np.ndarray]


def run(context: Context) -> None:
    small = {"batch": 3, "time": 4, "features": 3, "units": 5}
    sizes = small if context.fake else {"batch": 19, "time": 20, "features": 16, "units": 64}
    if context.part == "cudnn":
        wanted = _of_cudnn(context.fake)
    else:
        wanted = _of_cuda([5] if context.fake else UNITS[context.part], context.fake)
    for engine, case, precision in context.within(wanted):
        case = replace(case, **{**sizes, **({"units": case.units} if case.units > 3 else {})})
        _check(context, engine, case, precision, is_bidirectional=False)
    if context.part == "cudnn":
        for kind in cases.KINDS if ON_TORCH else ("lstm",):
            for mask in context.within(("none", "holes")):
                case = Case(kind, mask=mask, initial_state=kind == "gru", **sizes)
                _check(context, "cudnn", case, "float32", is_bidirectional=True)
        if not ON_TORCH:  # by way of lax.scan
            _check(context, None, Case("gru", mask="holes", **sizes), "float32", False)
    context.tell(f"{context.wrong} wrong", wrong=context.wrong)


def _of_cudnn(fake: bool) -> Iterator[tuple[str, Case, str]]:
    kinds = [("lstm", "tanh")]
    if ON_TORCH:
        kinds += [("gru", "tanh"), ("simple_rnn", "tanh"), ("simple_rnn", "relu")]
    for kind, activation in kinds:
        for number, mask in enumerate(cases.MASKS):
            yield (
                "cudnn",
                Case(
                    kind,
                    activation,
                    mask=mask,
                    go_backwards=number % 2 == 1,
                    zero_output_for_mask=number % 3 == 1,
                    initial_state=number % 2 == 0,
                    return_sequences=number != 3,
                    use_bias=number != 4,
                    dropout=0.3 if number in (2, 5) else 0.0,
                ),
                "float32",
            )
    precisions = (["tf32", "float16", "bfloat16"] if not fake else []) + ["float64"] * ON_TORCH
    for kind, activation in kinds[:3]:  # relu's bend makes of a rounding error another gradient
        for precision in precisions:
            yield "cudnn", Case(kind, activation, mask="holes", initial_state=True), precision


def _of_cuda(sizes: list[int], fake: bool) -> Iterator[tuple[str, Case, str]]:
    masked = {"mask": "holes", "initial_state": True}
    dropped = {**masked, "dropout": 0.3, "recurrent_dropout": 0.3, "implementation": 1}
    odd = {"activation": "gelu", "use_bias": False, "zero_output_for_mask": True}
    relu = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    for units in sizes:
        yield "cuda", Case("lstm", units=units), "float32"
        yield "cuda", Case("lstm", units=units, **dropped), "float32"
        yield "cuda", Case("gru", units=units, **masked, go_backwards=True), "float32"
        yield "cuda", Case("gru", units=units, reset_after=False, **dropped), "float32"
        yield "cuda", Case("simple_rnn", units=units, mask="left padded", **odd), "float32"
        last = Case("lstm", units=units, return_sequences=False, mask="right padded", **relu)
        yield "cuda", last, "float32"
        for precision in () if fake else ("tf32", "bfloat16"):
            yield "cuda", Case("lstm", units=units, **masked), precision


def _check(
    context: Context, engine: str | None, case: Case, precision: str, is_bidirectional: bool
) -> None:
    label = f"{engine or 'scan'} {precision} {'bidirectional ' * is_bidirectional}{_shown(case)}"
    row = {"engine": engine, "precision": precision, "case": label}
    try:
        set_precision(precision)
        with context.forced(engine):
            values, gradients = _both(case, DTYPES[precision], is_bidirectional)
    except Exception as error:  # noqa: BLE001 - the next may run
        context.wrong += 1
        said = f"FAILED {label}: {reason(error)}"
        context.tell(said, error=reason(error), **row)
        return need_card(said)
    off = {"values": _off(*values), "gradients": _off(*gradients)}
    # `not <`: a NaN is wrong, too
    is_wrong = not max(off.values()) < TOLERANCES[precision]
    context.wrong += is_wrong
    met = _met() if engine == "cuda" and not context.fake else ""
    found = ", ".join(f"{name} off by {error:.1e}" for name, error in off.items())
    return context.tell(f"{'WRONG' if is_wrong else 'right'} {label}: {found}{met}", **row, **off)


def _shown(case: Case) -> str:
    plain = Case(case.kind)
    fields = ("seed", "batch", "time", "features", "kind")
    said = {
        name: value
        for name, value in vars(case).items()
        if name not in fields and value != getattr(plain, name)
    }
    return f"{case.kind} " + " ".join(f"{name}={value}" for name, value in said.items())


def _off(found: Arrays, expected: Arrays) -> float:
    """The largest error of an array, as a share of its norm."""
    pairs = zip(found, expected, strict=True)
    norm = np.linalg.norm
    return max(float(norm(one - other) / (norm(other) or 1.0)) for one, other in pairs)


def _both(
    case: Case, dtype: str, is_bidirectional: bool
) -> tuple[tuple[Arrays, Arrays], tuple[Arrays, Arrays]]:
    """Values found and expected, and gradients."""
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    ways = [case]
    if is_bidirectional:  # which has masked outputs of a sequence zero
        there = replace(case, zero_output_for_mask=True)
        ways = [there, replace(there, go_backwards=True)]
    weights = [cases.make_weights(rng, case) for _ in ways]
    states = [cases.make_states(rng, case) for _ in ways]
    drops = cases.draw_dropout(case, dtype)
    layer = case.layer(layers, dtype=dtype)
    expected: Any = [
        _expected(way, *own, x, mask, drops)
        for way, *own in zip(ways, weights, states, strict=True)
    ]
    if is_bidirectional:
        layer = layers.Bidirectional(layer, dtype=dtype)
        expected = ExpectedBidirectional(*expected, "concat")
    else:
        (expected,) = expected
    layer.build(x.shape)
    layer.set_weights([each for own in weights for each in cases.weight_list(own)])
    upstream = [rng.normal(size=result.shape) for result in expected.results]
    flat = [state for own in states for state in own or []]
    values, gradients = pulled(layer, x, flat, mask, upstream, dtype)
    d_x, d_states, d_weights = expected.pull_back(upstream)
    right = [d_x, *(d_states if flat else ()), *d_weights]
    return (values, expected.results), (gradients, right)


def _expected(
    case: Case, weights: Any, states: Any, x: np.ndarray, mask: Any, drops: Any
) -> Expected:
    run = reference.run(case.options, weights, x, states and tuple(states), mask, *drops)
    return Expected(run, case.return_sequences, case.return_state)


def pulled(
    layer: Any, x: np.ndarray, states: Arrays, mask: Any, upstream: Arrays, dtype: str
) -> tuple[Arrays, Arrays]:
    """A layer's results, and the gradients of x, states and weights."""
    call = {"mask": None if mask is None else tensor(mask), "training": True}
    given = [tensor(each, dtype) for each in (x, *states)]
    back = [tensor(each, dtype) for each in upstream]
    values, gradients = (_torch if ON_TORCH else _jax)(layer, given, back, call)
    return [_array(each) for each in values], [_array(each) for each in gradients]


def _torch(layer: Any, given: list[Any], back: list[Any], call: Any) -> tuple[Any, Any]:
    import torch

    x, *states = (each.requires_grad_() for each in given)
    values = tree.flatten(layer(x, initial_state=states or None, **call))
    sources = [x, *states, *(variable.value for variable in layer.trainable_variables)]
    return values, torch.autograd.grad(values, sources, back)


def _jax(layer: Any, given: list[Any], back: list[Any], call: Any) -> tuple[Any, Any]:
    import jax

    others = [variable.value for variable in layer.non_trainable_variables]

    def results(weights: Any, x: Any, *states: Any) -> Any:
        own = {"initial_state": list(states) or None, **call}
        return tree.flatten(layer.stateless_call(weights, others, x, **own)[0])

    @jax.jit
    def both(*sources: Any) -> Any:
        values, pull_back = jax.vjp(results, *sources)
        return values, pull_back(back)

    weights = [variable.value for variable in layer.trainable_variables]
    values, (d_weights, *gradients) = both(weights, *given)
    return values, [*gradients, *d_weights]


def _array(x: Any) -> np.ndarray:
    return x.detach().double().cpu().numpy() if ON_TORCH else np.asarray(x, "float64")


def _met() -> str:
    """How the kernels that were made last are laid out."""
    from ostinato.doors import cuda_kernels

    known = list(cuda_kernels._KNOWN.values())
    names = ("block", "cluster", "grid")
    found = [
        f"{way} {names[laid.barrier]} of {laid.blocks}x{laid.units} units, {laid.rows} rows"
        for way, laid, *_ in (known[-1].kernels._images if known else ())
    ]
    return f"; {', '.join(found)}" if found else ""


assert keras.config.backend() in ("torch", "jax")
