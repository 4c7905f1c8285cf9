"""A cell of one's own as the doors get it: its three routines, by hand, and the same in keras.ops.

A step, for the states h, the weights W, U and b, a constant k and a second input s that has no
gradient, as what stands for integers has none:

    h' = tanh(x W + h U + b + k + s)    where the mask is True, else h
    outputs h' and h' h'
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ostinato import native
from ostinato.routines import Routine, Routines, RoutineSpec

# Kinds of operands and results, spaces of references (native/core/routine/routine.h).
SEQUENCE, ROWS, WEIGHT, MASK, SAVED, OUTPUT = range(6)
TO_SEQUENCE, TO_OUTPUT, TO_ROWS, TO_CARRY, TO_WEIGHT, TO_SAVED = range(6)
OPERAND, RESULT, CARRY, NEXT, SCRATCH, SAVED_AT, SAVED_AFTER, LITERAL = range(8)
PRODUCT, OUTER, MAP = 1, 2, 3
STORE, ADD = 0, 2
ZEROS, MORE, BIAS = range(3)
NONE = -1


@dataclass(frozen=True)
class RoutineCase:
    """What varies from run to run; a seed for its numbers."""

    mask: bool = False
    go_backwards: bool = False
    flip_outputs: bool = False
    return_sequences: bool = True
    sizes: tuple = (3, 5, 4, 7)  # B T D U
    seed: int = 0

    @property
    def spec(self) -> RoutineSpec:
        _, _, features, units = self.sizes
        lowering = Lowering(features, units, self.mask)
        return RoutineSpec(
            routines_of(lowering), self.go_backwards, self.flip_outputs, self.return_sequences
        )

    @property
    def arrays(self) -> dict:
        """The operands by name, in order, float64."""
        batch, time, features, units = self.sizes
        rng = np.random.default_rng(self.seed)
        shapes = {
            "input0": (batch, time, features),
            "input1": (batch, time, units),
            "state0": (batch, units),
            "constant0": (batch, units),
            "weight0": (features, units),
            "weight1": (units, units),
            "weight2": (units,),
        }
        made = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
        if self.mask:
            made["mask"] = rng.random((batch, time)) < 0.6
            made["mask"][:1] = False
        return made

    @property
    def differentiable(self) -> tuple:
        """The names of the operands that have gradients."""
        return tuple(name for name in self.arrays if name not in ("input1", "mask"))


CASES = [
    RoutineCase(),
    RoutineCase(mask=True, seed=1),
    RoutineCase(mask=True, go_backwards=True, seed=2),
    RoutineCase(mask=True, go_backwards=True, flip_outputs=True, seed=3),
    RoutineCase(return_sequences=False, go_backwards=True, seed=4),
    RoutineCase(mask=True, return_sequences=False, sizes=(5, 3, 2, 17), seed=5),
    RoutineCase(sizes=(1, 1, 1, 1), seed=6),
]


def plain(specs, operands):
    """The cell over its sequences in keras.ops: a twin."""
    from keras import ops

    def tanh(z):  # ops.tanh gives float32 of float64 on JAX, as ops.matmul does on PyTorch
        return 2 * ops.sigmoid(2 * z) - 1

    (spec,) = specs
    x, s, h, k, kernel, recurrent, bias, *mask = operands
    steps = range(x.shape[1])
    ys = []
    for t in reversed(steps) if spec.go_backwards else steps:
        new = tanh(x[:, t] @ kernel + h @ recurrent + bias + k + s[:, t])
        h = ops.where(mask[0][:, t, None], new, h) if mask else new
        ys.append(h)
    if not spec.return_sequences:
        return h, h * h, h
    ys = ops.stack(ys[::-1] if spec.flip_outputs else ys, axis=1)
    return ys, ys * ys, h


def routines_of(lowering, **changes) -> Routines:
    features, units = lowering.features, lowering.units
    facts = {
        "key": f"the cell of the doors' tests: {lowering}",
        "inputs": ((features,), (units,)),
        "states": ((units,),),
        "constants": ((units,),),
        "weights": ((features, units), (units, units), (units,)),
        "outputs": ((units,), (units,)),
        "has_mask": lowering.mask,
        "differentiable": (True, False, True, True, True, True, True),
        "lowering": lowering,
    }
    return Routines(**{**facts, **changes})


class Lowering(NamedTuple):
    """Makes the cell's routines."""

    features: int
    units: int
    mask: bool

    def infer(self) -> Routine:
        return self._forward(training=False)

    def train(self) -> Routine:
        return self._forward(training=True)

    def saved(self) -> int:
        return self.units

    def _forward(self, training) -> Routine:
        D, U = self.features, self.units  # noqa: N806
        x, s, h, k, kernel, recurrent, bias, mask = range(8)
        operands = [
            (SEQUENCE, 0, D),
            (SEQUENCE, 0, U),
            (ROWS, 0, U),
            (ROWS, 0, U),
            (WEIGHT, 0, D, U),
            (WEIGHT, 0, U, U),
            (WEIGHT, 0, U),
            *[(MASK, 0)] * self.mask,
        ]
        results = [
            (TO_OUTPUT, 1, NONE, U),
            (TO_OUTPUT, 1, NONE, U),
            (TO_CARRY, 0, 0, U),
            *[(TO_SAVED, 0, NONE)] * training,
        ]
        reads = [
            (SCRATCH, 0, 0, 1),
            (OPERAND, s, 0, 1),
            (OPERAND, k, 0, 1),
            (CARRY, 0, 0, 1),
            *[(OPERAND, mask, 0, 0)] * self.mask,
        ]
        steps = [("add", 0, 1), ("add", "last", 2), ("tanh", "last")]
        steps += [("select", 4, "last", 3)] * self.mask
        steps += [("mul", "last", "last")]
        new = len(reads) + len(steps) - 2
        writes = [
            (new, STORE, NEXT, 0, 0, 1),
            (new, STORE, RESULT, 0, 0, 1),
            (new + 1, STORE, RESULT, 1, 0, 1),
        ]
        body = [
            product((OPERAND, x, 0), D, U, kernel, (SCRATCH, 0, 0), BIAS, bias=bias),
            product((CARRY, 0, 0), U, U, recurrent, (SCRATCH, 0, 0), MORE),
            elementwise(U, reads, steps, writes),
        ]
        return routine(
            0,
            operands,
            results,
            carries=[(U, h, 0 if training else NONE)],
            saved=[(U, 1)] * training,
            scratch=[(U, 0, 0)],
            body=body,
        )

    def backward(self, wants_dx) -> Routine:
        D, U = self.features, self.units  # noqa: N806
        x, kernel, recurrent, mask = 0, 3, 4, 6
        d_y = 7 + self.mask
        operands = [
            (SEQUENCE, 0, D),
            (SEQUENCE, 0, U),
            (ROWS, 0, U),
            (WEIGHT, 0, D, U),
            (WEIGHT, 0, U, U),
            (WEIGHT, 0, U),
            *[(MASK, 0)] * self.mask,
            (SAVED, 0),
            (OUTPUT, 1, U),
            (OUTPUT, 1, U),
            (ROWS, 0, U),
        ]
        results = [
            *[(TO_SEQUENCE, 0, NONE, D)] * wants_dx,
            (TO_CARRY, 0, 0, U),
            (TO_ROWS, 0, NONE, U),
            (TO_WEIGHT, 0, NONE, D, U),
            (TO_WEIGHT, 0, NONE, U, U),
            (TO_WEIGHT, 0, NONE, U),
        ]
        d_k = int(wants_dx) + 1
        reads = [
            (CARRY, 0, 0, 1),
            (OPERAND, d_y, 0, 1),
            (OPERAND, d_y + 1, 0, 1),
            (SAVED_AFTER, 0, 0, 1),
            (LITERAL, 0, 0, 0),
            (LITERAL, 1, 0, 0),
            (LITERAL, 2, 0, 0),
            *[(OPERAND, mask, 0, 0)] * self.mask,
        ]
        zero, one, two = 4, 5, 6
        total = len(reads) + 2
        steps = [("mul", 2, 3), ("fma", "last", two, 1), ("add", "last", 0)]
        steps += [("mul", 3, 3), ("sub", one, "last"), ("mul", total, "last")]
        if self.mask:
            steps += [("select", 7, "last", zero), ("select", 7, zero, total)]
        else:
            steps += [("mul", "last", one), ("mul", total, zero)]
        d_z = total + 4
        writes = [(d_z, STORE, SCRATCH, 0, 0, 1), (d_z + 1, STORE, NEXT, 0, 0, 1)]
        d_z_at = (SCRATCH, 0, 0)
        sums = [(0, ADD, RESULT, d_k, 0, 1), (0, ADD, RESULT, d_k + 3, 0, 1)]
        body = [
            elementwise(U, reads, steps, writes),
            product(d_z_at, U, U, recurrent, (NEXT, 0, 0), MORE, transposed=1),
            *[product(d_z_at, U, D, kernel, (RESULT, 0, 0), ZEROS, transposed=1)] * wants_dx,
            outer((OPERAND, x, 0), d_z_at, D, U, d_k + 1),
            outer((SAVED_AT, 0, 0), d_z_at, U, U, d_k + 2),
            elementwise(U, [(SCRATCH, 0, 0, 1)], [], sums),
        ]
        return routine(
            1,
            operands,
            results,
            carries=[(U, d_y + 2, NONE)],
            saved=[(U, 1)],
            scratch=[(U, 0, 1)],
            body=body,
            floats=(0.0, 1.0, 2.0),
        )


# The encoding.


def routine(reverse, operands, results, *, carries, saved, scratch, body, floats=()) -> Routine:
    sized = [(kind, order, len(dims), *dims) for kind, order, *dims in operands]
    shaped = [(kind, order, which, len(dims), *dims) for kind, order, which, *dims in results]
    arena = max(size + offset for size, offset, _ in scratch)
    ints = [1, reverse]
    for table in (sized, shaped, carries, saved, scratch):
        ints += [len(table), *[number for row in table for number in row]]
    ints += [arena, len(body), *[number for row in body for number in row], 0]
    return Routine(tuple(map(int, ints)), floats)


def instruction(opcode, *payload) -> tuple:
    return (opcode, len(payload), *payload)


def product(a, a_size, size, weight, out, init, bias=NONE, transposed=0) -> tuple:
    sizes = (a_size, 1, a_size, size)
    return instruction(PRODUCT, *a, *sizes, weight, transposed, *out, size, init, bias, 0)


def outer(a, z, a_size, z_size, result) -> tuple:
    return instruction(OUTER, *a, a_size, *z, z_size, 1, a_size, z_size, result, 0)


def elementwise(size, reads, steps, writes) -> tuple:
    """`steps` are names and registers; "last" is what the step before gave."""
    names = native.routine_operations()
    operations = []
    for number, (name, *registers) in enumerate(steps):
        last = len(reads) + number - 1
        registers = [last if r == "last" else r for r in registers]
        operations += [names.index(name), *registers, *[NONE] * (3 - len(registers))]
    reads, writes = ([number for row in rows for number in row] for rows in (reads, writes))
    n_reads, n_writes = len(reads) // 4, len(writes) // 6
    return instruction(MAP, 1, size, n_reads, *reads, len(steps), *operations, n_writes, *writes)
