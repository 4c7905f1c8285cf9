"""One thin door to each backend; `door` is the one that Keras runs on.

A door is a module with

- `loop(step, carry, xs, like, *, unroll, variables)`: runs `step(carry, x) -> (carry, y)` over the
  first axis of `xs`. All of them are flat tuples of tensors; `like` holds a tensor of each y's
  shape and dtype (empty where no y is collected); `variables` are Keras variables that `step`
  updates. Returns the last carry and the ys, stacked.
- `HOISTS_PROJECTION`: whether a cell's input projection is faster done for all timesteps at once.
- `affine(x, kernel, bias)`: `x kernel + bias`; the bias may be None, or a tensor like the product.
- `blend(weight, first, second)`: `weight first + (1 - weight) second`, of one shape and dtype.
- `multiply_add(first, second, addend)`: `first second + addend`, of one shape and dtype.
- `lean(function)`: the backend's own function for one of Keras's, where Keras's only adds checks.
"""

import importlib
from types import ModuleType

import keras


def _open() -> ModuleType:
    return importlib.import_module(f"{__name__}.{keras.config.backend()}")


door = _open()
