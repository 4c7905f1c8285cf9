"""Layers as functions without arguments, on PyTorch and JAX, and the time that these take."""

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.gpu.context import Context, LostCardError, reason

ON_TORCH = keras.config.backend() == "torch"
if ON_TORCH:
    import torch

    DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
else:
    import jax

MODES = ("infer", "train")
# What products are made from, and the layer's dtype.
DTYPES = {
    "float64": "float64",
    "float32": "float32",
    "tf32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}


def set_precision(name: str) -> None:
    """Has the framework compute float32 products as one of DTYPES' names says."""
    exact = name in ("float32", "float64")
    if ON_TORCH:
        torch.backends.cudnn.allow_tf32 = not exact
        torch.set_float32_matmul_precision("highest" if exact else "high")
    else:
        wanted = "highest" if exact else "tensorfloat32"
        jax.config.update("jax_default_matmul_precision", wanted)


def tensor(array: np.ndarray, dtype: str | None = None) -> Any:
    """An array on the GPU."""
    if ON_TORCH:
        return torch.tensor(array, dtype=dtype and getattr(torch, dtype), device=DEVICE)
    return jax.numpy.asarray(array, dtype)


def random(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    """Random numbers on the GPU."""
    return tensor(np.random.default_rng(seed).standard_normal(shape, "float32"), dtype)


def runs(layer: Any, x: Any, mode: str, **call: Any) -> Callable[[], Any]:
    """A call of a built layer, with all gradients where it trains."""
    call = {name: _on_device(value) for name, value in call.items()}
    if ON_TORCH:
        weights = [variable.value for variable in layer.trainable_variables]
        return torch_runs(functools.partial(layer, **call), weights, x, mode, tells_training=True)
    return _jax_runs(layer, x, mode, call)


def torch_runs(
    function: Any, weights: list[Any], x: Any, mode: str, tells_training: bool = False
) -> Callable[[], Any]:
    """A function of x on PyTorch; of what it gives, the first is its outputs."""
    told = {"training": mode == "train"} if tells_training else {}

    def outputs(x: Any) -> Any:
        found = function(x, **told)
        return found[0] if isinstance(found, tuple | list) else found

    def infer() -> Any:
        with torch.no_grad():
            return outputs(x)

    if mode == "infer":
        return infer
    source = x.detach().clone().requires_grad_()
    upstream = torch.randn_like(infer())

    def train() -> Any:
        return torch.autograd.grad(outputs(source), [source, *weights], upstream)

    return train


def _jax_runs(layer: Any, x: Any, mode: str, call: Any) -> Callable[[], Any]:
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]

    def outputs(weights: Any, x: Any) -> Any:
        found = layer.stateless_call(weights, others, x, training=mode == "train", **call)[0]
        return found[0] if isinstance(found, tuple | list) else found

    def train(weights: Any, x: Any) -> Any:
        ys, pull_back = jax.vjp(outputs, weights, x)
        return pull_back(jax.numpy.cos(ys))

    compiled = jax.jit(outputs if mode == "infer" else train).lower(weights, x).compile()
    return lambda: compiled(weights, x)


def _on_device(value: Any) -> Any:
    if isinstance(value, list):
        return [_on_device(each) for each in value]
    return tensor(value) if isinstance(value, np.ndarray) else value


class Times(NamedTuple):
    """Seconds of a run: the least, the median, and the median until the host was free again."""

    minimum: float
    median: float
    host: float


def _waited(result: Any) -> None:
    if not ON_TORCH:
        jax.block_until_ready(result)
    elif DEVICE == "cuda":
        torch.cuda.synchronize()


def need_card(failed: str) -> None:
    """Ends the stage where the card is lost: everything after that would fail as well.

    Raises:
        LostCardError: It is; the error says what failed.
    """
    try:
        _waited(None)
    except Exception as error:
        raise LostCardError(failed) from error


def _once(run: Callable[[], Any], forced: Any) -> tuple[float, float]:
    with forced:
        _waited(None)
        start = time.perf_counter()
        result = run()
        host = time.perf_counter() - start
        _waited(result)
        return time.perf_counter() - start, host


Contender = tuple[str | None, Callable[[], Callable[[], Any]]]


def contest(
    context: Context, contenders: dict[str, Contender], rounds: int = 5, seconds: float = 0.5
) -> dict[str, Times | str]:
    """What each takes, by turns, or why it can't run.

    Args:
        context: The stage's.
        contenders: By name, the engine that is forced, and what makes the function to run.
        rounds: Turns of each, after two, or a long one, that aren't counted.
        seconds: That one may take in all; then it gets no further turns.
    """
    found: dict[str, Any] = {}

    def tried(name: str, action: Callable[[], Any]) -> Any:
        """What an action gives; None where it fails, and then there's the reason in `found`."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - one that can't stops no other
            found[name] = reason(error)
            need_card(f"{name}: {found[name]}")
            return None

    def ready(name: str) -> Callable[[], Any]:
        engine, make = contenders[name]
        with context.forced(engine):
            run = make()
        took, _ = _once(run, context.forced(engine))  # it may compile
        if took < seconds and not context.fake:
            _once(run, context.forced(engine))
        return run

    kept = [name for name in contenders if contenders[name][0] != context.without]
    made = {name: tried(name, functools.partial(ready, name)) for name in kept}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kept}
    for _, name in itertools.product(range(1 if context.fake else rounds), kept):
        if name in found or sum(total for total, _ in taken[name]) > seconds:
            continue
        forced = context.forced(contenders[name][0])
        taken[name].append(tried(name, functools.partial(_once, made[name], forced)))
    for name in kept:
        if name not in found:
            totals, hosts = zip(*taken[name], strict=True)
            found[name] = Times(min(totals), statistics.median(totals), statistics.median(hosts))
    return {name: found[name] for name in kept}


def per_step(times: Times | str, steps: int) -> float | None:
    """Microseconds of a timestep, of one that could run."""
    return None if isinstance(times, str) else 1e6 * times.minimum / steps


def rows(
    context: Context,
    heading: str,
    found: dict[str, Times | str],
    steps: int | dict[str, int],
    base: float | None = None,
    **key: Any,
) -> None:
    """Tells what each takes: microseconds a timestep, and times the base's."""
    counts = steps if isinstance(steps, dict) else dict.fromkeys(found, steps)
    context.tell(heading)
    for name, times in found.items():
        if isinstance(times, str):
            context.tell(f"    {name:34} - {times}", contender=name, error=times, **key)
            continue
        least, median, host = (1e6 * each / counts[name] for each in times)
        ratio = None if base is None else least / base
        shown = "" if ratio is None else f"{ratio:8.2f}"
        context.tell(
            f"    {name:34} {least:9.3f} us a step (median {median:.3f}, host {host:.3f}){shown}",
            contender=name,
            microseconds=least,
            median=median,
            host=host,
            ratio=ratio,
            **key,
        )


@contextlib.contextmanager
def policy(dtype: str) -> Any:
    """Layers made within have a dtype."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def built(library: Any, kind: str, x: Any, units: int, dtype: str, **arguments: Any) -> Any:
    """A layer of ours or Keras's that gives all outputs, built for x."""
    layer = getattr(library, kind)(units, return_sequences=True, dtype=dtype, **arguments)
    layer.build(tuple(x.shape))
    return layer
