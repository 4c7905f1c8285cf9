"""One thin door to each backend; `door` is the one that Keras runs on.

A door is a module with

- `loop(step, carry, xs, like, *, project, unroll, variables, add_loss)`: runs
  `step(carry, x) -> (carry, y)` over the first axis of `xs`. All of them are flat tuples of
  tensors; `like` holds a tensor of each y's shape and dtype (empty where no y is collected);
  `variables` are Keras variables that `step` updates. Returns the last carry and the ys, stacked.
  `project`, if it isn't None, is what the first of `xs` goes through before `step`: of a timestep,
  or of all at once, whichever is faster. It's given for a built-in cell, whose products with
  weights are all `affine`, and whose other `xs` are no floats. Losses that layers add in a step of
  a compiled loop are taken out of it, and `add_loss` gets their sum over time; in a loop of
  Python's they can stay as they are.
- `at_once()`: a context in which operations on what isn't being traced run now, and give numbers
  that outlive the trace.
- `COMPILES_LOOPS`: whether the backend makes machine code of a loop, so that its own may be as fast
  as the core's for a small cell.
- `COMPILES_CUDNN`: whether what compiles Keras's functions of a model takes `cudnn`.
- `affine(x, kernel, bias)`: `x kernel + bias`; the bias may be None, or a tensor like the product.
- `read(variable, dtype)`: a Keras variable's value in a dtype; or where twins run, a tensor's.
- `zeros(shape, dtype, like)`: zeros beside another tensor; neither to be given away nor written
  over.
- `packed(kernel)`: the kernel, laid out for an `affine` at every timestep.
- `blend(start, end, weight)`: `start + weight (end - start)`, all of one shape and dtype.
- `multiply_add(addend, first, second)`: `addend + first second`, all of one shape and dtype.
- `lean(function)`: the backend's own function for one of Keras's, where Keras's only adds checks,
  or is slow in a loop. It takes tensors of the backend's alone, and variables.
- `consuming(function)`: the same of a function of one tensor, over which it may write the result.
- `gates(functions, kernel)`: given lean functions, `(z, h) -> [f(part of z + h kernel), ...]` for
  the equal parts of the last axis; it may write over z.
- `sizes_are_known()`: whether the sizes that tensors show now are those they'll have.
- `sized(tensor, sizes, message)`: the tensor, refused with the message while running unless these
  are its first sizes; None fits any. Asked only where they aren't known.
- `native_run(specs, operands, twin)`: the native kernels, differentiable. Specs are of built-in
  cells, whose operands and results are those of `forward` in native/core/ostinato.h, run after run,
  without `saved`; or one of a cell of one's own (`ostinato.routines`), whose operands are inputs,
  states, constants, weights and a mask if any, and whose results are outputs and final states.
  Floats are of one dtype: float32, float64, or bfloat16 where the spec says so. A spec's
  `training` is a hint; `wants_dx` is the
  door's to set.
  `twin(specs, operands)` gives the same on the portable engine, for what this one can't do.
- `dropout_masks(generator, count, shape, rate, dtype)`: so many masks of that shape, of zeros and
  of 1 / (1 - rate), by the native engine: the numbers that `keras.random.dropout` draws of ones
  with Keras's seed generator, which moves on by as many seeds. None where the framework is to draw
  them; the generator hasn't moved then.
- `for_checkpoints(variables)`: what a layer has as an attribute, so that the framework's own
  checkpoints hold variables that Keras doesn't track; None where there are no such checkpoints.
- `opaque(function)`: a function of the process alone, as one that a tracing compiler takes for a
  constant.
- `refused_while_compiling(reason)`: called before an error that a tracing compiler may meet: so
  that it ends there, with the reason, where it would else say what it can't trace of the error.
- `remembered(function)`: the function with its answers kept by its arguments; a tracing compiler
  sees the function itself.
- `pulled(function, tensors, upstream)`: at once, the results of a function of float tensors, which
  gives a tuple of them, and the tensors' gradients; `upstream(result)` is that of each result.
- `product_precision()`: "bfloat16" where the user has set the framework to compute its own products
  of float32 from bfloat16s; else None.
- `threads()`: how many threads the framework's own operations may use, and how to give it one, for
  `explain`; None where it doesn't tell.
- `is_bare(x)`: whether x is a tensor, and no more than it seems, of a call that's run as it's made;
  never where calls are compiled.
- `is_exporting()`: whether a model is being exported; on PyTorch, to ONNX.
- `device_of(x)`: the kind of device that a tensor like x is on, or goes to while a function is
  traced: "cpu", "cuda" (NVIDIA's), or the framework's own name of another.
- `may_be_lowered_for(x)`: the kinds of device that a program may be made for which is being
  traced, the likeliest first; empty where it's known, by `device_of`. Where it isn't:
  `lowered_for(device)`, a context in which it's taken to be that one; `by_device(branches)`, of
  functions without arguments for each of them what the one gives that it comes to be.
- `cudnn(spec, x, states, parameters)`: cuDNN's recurrent layers, differentiable, as
  `ostinato.cudnn` has them; the result is flat.
- `CUDNN_MODES`, `CUDNN_DTYPES`: which modes and dtypes it takes.
- `cudnn_why_not(x)`: what keeps the framework from calling `cudnn` on a tensor like x, or None.
- `cuda_why_not(x)`: what keeps the framework from calling the kernels of `ostinato.cuda` on a
  tensor like x, or None. Where it can: `cuda_number(x)`, which card x is on; `cuda_products()`,
  what products of float32 are computed from by the framework's own setting: "float32", "tf32" or
  "bfloat16"; `computing_from(products)`, a context in which that is the setting; `cuda_launcher()`,
  what launches them, by version; `register_kernels(kernels, how, afterwards, plain)`, a name for
  kernels, with what is asked of them, what gives operands' gradients, and the same in the
  framework's own operations;
  `cuda_recurrence(name, operands, every, products)`, their results, differentiable.
- `cudnn_precision(dtype)`: what it computes products of a dtype from, "float32", "tf32" or so.
- `native_why_not(x)`: what keeps the backend from calling it on a tensor like x (its device, the
  backend's version, an export), or None. Only asked where `ostinato.native.why_not()` has nothing.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import keras


def _open() -> ModuleType:
    return importlib.import_module(f"{__name__}.{keras.config.backend()}")


door = _open()

Function = TypeVar("Function", bound=Callable[..., Any])


def opaque(function: Function) -> Function:
    """The door's `opaque`, as a decorator."""
    wrapped: Function = door.opaque(function)
    return wrapped


def remembered(function: Function) -> Function:
    """The door's `remembered`, as a decorator."""
    wrapped: Function = door.remembered(function)
    return wrapped
