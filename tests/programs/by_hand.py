"""Programs and the core's routines in NumPy float64: run, and compared with one another."""

from dataclasses import dataclass

import numpy as np
import pytest

from ostinato import native
from ostinato.programs.canonical import canonical
from ostinato.programs.masking import masked
from ostinato.programs.routine import ProgramRoutines
from programs.interpreter import FUNCTIONS, Interpreter, places

DTYPES = {np.dtype("float32"): 0, np.dtype("float64"): 1, np.dtype(bool): 2}


# Programs.


def value_of(node, arguments, nodes):
    """What a node makes of its arguments' values, rows in front."""
    name, attributes = node.operation, node.attributes
    if name in FUNCTIONS:
        return np.asarray(FUNCTIONS[name](*arguments), float)
    (x, *_), (source, *_) = arguments, nodes
    first = int(source.has_rows)
    if name in ("stop_gradient", "custom"):
        return x
    if name in VIEWS:
        return VIEWS[name](x, first, *attributes)
    if name == "assemble":
        return _assembled(arguments, nodes, attributes)
    if name == "windows":
        return _windows(x, first, *attributes)
    if name in ("sum", "amax"):
        axes = tuple(axis + first for axis in attributes[0])
        return x.sum(axes) if name == "sum" else (x.max(axes) if axes else x)
    assert name == "product"
    return x @ (arguments[1].T if attributes[0] else arguments[1])


VIEWS = {
    "rows": lambda x, first: x[None],
    "broadcast": lambda x, first, shape: np.broadcast_to(x, (*x.shape[:first], *shape)),
    "reshape": lambda x, first, shape: x.reshape(*x.shape[:first], *shape),
    "transpose": lambda x, first, axes: x.transpose(*range(first), *(a + first for a in axes)),
    "slice": lambda x, first, *where: x[(slice(None),) * first + np.ix_(*_indices(*where))],
}


def _indices(starts, steps, sizes):
    return [a + b * np.arange(n) for a, b, n in zip(starts, steps, sizes, strict=True)]


def _assembled(arguments, nodes, attributes):
    shape, where = attributes
    rows = max(
        (x.shape[0] for x, node in zip(arguments, nodes, strict=False) if node.has_rows), default=0
    )
    whole = np.zeros((rows, *shape) if rows else shape)
    for x, node, (starts, steps) in zip(arguments, nodes, where, strict=True):
        index = np.ix_(*_indices(starts, steps, node.shape))
        whole[(slice(None),) * bool(rows) + index] = x
    return whole


def _windows(x, first, widths, strides, dilations):
    lead, dims = x.shape[:first], x.shape[first:]
    steps = np.cumprod((1, *dims[:0:-1]))[::-1]
    n = len(widths)
    axes = zip(dims[:n], widths, strides, dilations, strict=False)
    counts = [(size - (w - 1) * d - 1) // s + 1 for size, w, s, d in axes]
    shape = (*counts, *widths, *dims[n:])
    moves = [
        *(a * b for a, b in zip(steps, strides, strict=False)),
        *(a * b for a, b in zip(steps, dilations, strict=False)),
    ]
    index = places(0, (*moves, *steps[n:]), shape)
    return x.reshape(*lead, -1)[..., index]


def values(nodes, leaf):
    """The values of all nodes, `leaf(node)` giving those that are given."""
    found = []
    for node in nodes:
        if node.operation == "literal":
            found.append(np.float64(node.attributes[0]))
        elif not node.arguments:
            found.append(leaf(node))
        else:
            arguments = [found[place] for place in node.arguments]
            found.append(value_of(node, arguments, [nodes[place] for place in node.arguments]))
    return found


@dataclass
class Given:
    """What a program is run over, and how."""

    xs: list
    states: list
    constants: list
    weights: list
    mask: np.ndarray | None = None
    zero_output: bool = False
    go_backwards: int = 0
    flip_outputs: int = 0
    return_sequences: int = 1

    @property
    def moving(self):
        return [*self.xs, *self.states, *self.constants, *self.weights]

    def moved(self, moving):
        rest = list(moving)
        lists = [self.xs, self.states, self.constants, self.weights]
        cut = [[rest.pop(0) for _ in each] for each in lists]
        return Given(*cut, self.mask, self.zero_output, *self.flags.values())

    @property
    def flags(self):
        names = ("go_backwards", "flip_outputs", "return_sequences")
        return {name: getattr(self, name) for name in names}


def given_for(program, rng, batch, steps, has_mask=False, **options):
    def drawn(*shape):
        return rng.uniform(-1, 1, shape)

    mask = None
    if has_mask:
        mask = rng.random((batch, steps)) < 0.6
        mask[:, -1] = False  # a timestep where all rows are
    return Given(
        [drawn(batch, steps, *shape) for shape in program.input_shapes],
        [drawn(batch, *shape) for shape in program.state_shapes],
        [drawn(batch, *shape) for shape in program.constant_shapes],
        [drawn(*shape) for shape in program.weight_shapes],
        mask,
        **options,
    )


def run_program(program, given):
    """Outputs and final states, timestep by timestep."""
    batch, steps = given.xs[0].shape[:2]
    states = list(given.states)
    last = [np.zeros((batch, *shape)) for shape in program.output_shapes]
    outputs = []
    for s in range(steps):
        t = steps - 1 - s if given.go_backwards else s
        leaves = {
            "input": [x[:, t] for x in given.xs],
            "state": states,
            "constant": given.constants,
            "weight": given.weights,
        }
        found = values(
            program.nodes, lambda node, at=leaves: at[node.operation][node.attributes[0]]
        )
        new, out = ([found[v] for v in each] for each in (program.states, program.outputs))
        if given.mask is not None:
            valid = given.mask[:, t]
            new = [_chosen(valid, *pair) for pair in zip(new, states, strict=True)]
            kept = [x * 0 if given.zero_output else x for x in last]
            out = [_chosen(valid, *pair) for pair in zip(out, kept, strict=True)]
        states, last = new, out
        outputs.append(out)
    if given.return_sequences:
        order = -1 if given.flip_outputs else 1
        last = [np.stack(ys, 1)[:, ::order] for ys in zip(*outputs, strict=True)]
    return [*last, *states]


def _chosen(valid, new, old):
    return np.where(valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)


# Routines.


def run_native(routine, operands, dtype="float64", **flags):
    """A routine's results, by the core."""
    hashes = native.register_routine(routine.ints, routine.floats)
    read = Interpreter(routine.ints, routine.floats, native.routine_operations())
    operands = [np.array(x, bool if x.dtype == bool else dtype, order="C") for x in operands]
    read.B, read.T = operands[0].shape[:2]
    read.return_sequences = flags["return_sequences"]
    results = [np.full(read._empty(*result).shape, np.nan, dtype) for result in read.results]
    run = native.backward if read.reverse else native.forward
    neither_checkpoints_nor_truncated = (0, 0, 0, 0)
    spec = (
        *(native.ROUTINE, *hashes, *flags.values(), native.OF_TENSORS),
        *neither_checkpoints_nor_truncated,
    )
    run(spec, *map(_views, (operands, results)))
    return results


def run_interpreted(routine, operands, **flags):
    """The same, by the interpreter."""
    read = Interpreter(routine.ints, routine.floats, native.routine_operations())
    return read.run(operands, **flags)


def _views(arrays):
    return [(x.ctypes.data, DTYPES[x.dtype], x.shape) for x in arrays]


class Compiled:
    """A program made into routines, run on `Given`."""

    def __init__(self, program, given, run=run_native):
        self.program, self.given, self.run = program, given, run
        self.prepared = canonical(program)
        step = self.prepared.program
        has_mask = given.mask is not None
        self.routines = ProgramRoutines(masked(step, given.zero_output) if has_mask else step)
        batch = given.xs[0].shape[0]
        held = self.routines.program.state_shapes[len(program.state_shapes) :]
        self.held = [np.zeros((batch, *shape)) for shape in held]

    def _weights(self):
        found = values(self.prepared.nodes, lambda node: self.given.weights[node.attributes[0]])
        return [found[value] for value in self.prepared.weights]

    def _others(self):
        mask = [] if self.given.mask is None else [self.given.mask]
        return [*self.given.constants, *self._weights(), *mask]

    def forward(self, trains=False):
        """Outputs and final states; of training also what it keeps."""
        given = self.given
        operands = [*given.xs, *given.states, *self.held, *self._others()]
        routine = self.routines.train() if trains else self.routines.infer()
        return self.run(routine, operands, **given.flags)

    def backward(self, d_outputs, d_states, wants_dx=True):
        """The gradients of inputs, states, constants and the prepared weights."""
        saved = self.forward(trains=True)[-1]
        gradients = [*d_outputs, *d_states, *self.held]
        operands = [*self.given.xs, *self._others(), saved, *gradients]
        found = list(self.run(self.routines.backward(wants_dx), operands, **self.given.flags))
        inputs = [n for n in range(len(self.given.xs)) if ("input", n) not in self.program.fixed]
        count = (len(inputs) if wants_dx else 0) + len(self.given.states)
        del found[count : count + len(self.held)]
        return found

    def slope(self, moved, d_outputs, d_states):
        """How fast sum(result d_result) changes as all that's given moves along `moved`."""
        gradients = self.backward(d_outputs, d_states)
        weights = [self.given.moved(moved).weights[n] for n in range(len(self.given.weights))]
        # The prepared weights are linear in the weights: cuts and sums of them.
        along = values(self.prepared.nodes, lambda node: weights[node.attributes[0]])
        along = [along[value] for value in self.prepared.weights]
        fixed = self.program.fixed
        others = [x for n, x in enumerate(self.given.moved(moved).xs) if ("input", n) not in fixed]
        rest = self.given.moved(moved)
        others += [*rest.states, *rest.constants, *along]
        return sum(float((g * m).sum()) for g, m in zip(gradients, others, strict=True))


# Both, and differences.

STEP = 1e-5


def check(program, given, rng, run=run_native, tolerance=1e-6):
    """Values against NumPy's, and gradients against differences of those; false where none tell."""
    truth = run_program(program, given)
    if not all(np.isfinite(x).all() and np.abs(x).max(initial=0) < 1e4 for x in truth):
        return False
    compiled = Compiled(program, given, run)
    for trains in (False, True):
        for mine, theirs in zip(compiled.forward(trains), truth, strict=False):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    upstream = [rng.uniform(-1, 1, x.shape) for x in truth]
    count = len(program.outputs)
    moved = [rng.uniform(-1, 1, x.shape) for x in given.moving]
    for number in range(len(given.xs)):
        if ("input", number) in program.fixed:
            moved[number] *= 0

    def total(step):
        at = given.moved([x + step * m for x, m in zip(given.moving, moved, strict=True)])
        results = run_program(program, at)
        return sum((r * u).sum() for r, u in zip(results, upstream, strict=True))

    expected = (total(STEP) - total(-STEP)) / (2 * STEP)
    nearer = (total(STEP / 2) - total(-STEP / 2)) / STEP
    if abs(expected - nearer) > 1e-6 * (1 + abs(nearer)):
        return False  # at a kink, where no difference tells the slope
    slope = compiled.slope(moved, upstream[:count], upstream[count:])
    assert slope == pytest.approx(nearer, rel=tolerance, abs=tolerance)
    return True
