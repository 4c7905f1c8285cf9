"""The limit: the matrix products of a case alone, as bare calls of a framework's sgemm.

At each of T timesteps (B, D + U) times (D + U, gates * U); three times as many for a training step,
whose backward pass has two products of the same size.
"""

from typing import Any

import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared

_SLICES = 4  # as many operands by turns, so that a compiler can't take the product out of the loop


def prepare(case: Case, framework: str) -> Prepared:
    """The products on torch or jax; there are no values to compare."""
    B, T, D, U = case.shape
    products = T * (1 if case.mode == "infer" else 3)
    left = np.random.default_rng(0).standard_normal((_SLICES, B, D + U), dtype="float32")
    right = np.random.default_rng(1).standard_normal((D + U, case.gates * U), dtype="float32")
    run = (
        _on_torch(left, right, products) if framework == "torch" else _on_jax(left, right, products)
    )
    return Prepared(run, lambda results: [], f"{products} products")


def _on_torch(left: np.ndarray, right: np.ndarray, products: int) -> Any:
    import torch

    operands = [torch.from_numpy(piece) for piece in left]
    weights = torch.from_numpy(right)
    out = torch.empty(left.shape[1], right.shape[1])

    def run() -> None:
        with torch.inference_mode():
            for index in range(products):
                torch.mm(operands[index % _SLICES], weights, out=out)

    return run


def _on_jax(left: np.ndarray, right: np.ndarray, products: int) -> Any:
    import jax

    operands, weights = jax.numpy.asarray(left), jax.numpy.asarray(right)
    start = jax.numpy.zeros((left.shape[1], right.shape[1]))

    def multiply(operands: Any, weights: Any) -> Any:
        def one(index: Any, _: Any) -> Any:
            return operands[index % _SLICES] @ weights

        return jax.lax.fori_loop(0, products, one, start)

    compiled = jax.jit(multiply).lower(operands, weights).compile()
    return lambda: compiled(operands, weights).block_until_ready()
