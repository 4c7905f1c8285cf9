"""The rules of views, sums and products, each in a program built by hand: no proof stands between.

Values against NumPy's, through every rewriting of a program; slopes against differences.
"""

from itertools import permutations

import numpy as np
import pytest

from ostinato import native
from ostinato.programs.derivative import derivative
from ostinato.programs.graph import Graph, program_of
from programs.by_hand import Compiled, check, given_for
from support import on_one_backend

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(native.why_not() is not None, reason="no native engine"),
]

SHAPE = (2, 3, 4)


class Step:
    """A step in the making: an input x and a state h of SHAPE, both positive, and weights."""

    def __init__(self):
        self.g = Graph()
        self.x, self.h = (self.g.leaf(kind, 0, SHAPE) for kind in ("input", "state"))
        self.weight_shapes = []

    def weight(self, *shape):
        self.weight_shapes.append(shape)
        return self.g.leaf("weight", len(self.weight_shapes) - 1, shape)

    def cut(self, value, starts, steps, sizes):
        return self.g.slice(value, attributes=(starts, steps, sizes))

    def last(self, value, start, step, size):
        """A cut of the last axis of (2, 3, 4)."""
        return self.cut(value, (0, 0, start), (1, 1, step), (2, 3, size))

    def put(self, shape, *parts):
        """Parts, each with where it begins and its steps, in zeros."""
        values = [value for value, _, _ in parts]
        places = tuple((starts, steps) for _, starts, steps in parts)
        return self.g.assemble(*values, attributes=(shape, places))

    def beside(self, width, *parts):
        """Parts (2, 3, ...), each with its start and step, along the last axis."""
        placed = [(value, (0, 0, start), (1, 1, step)) for value, start, step in parts]
        return self.put((2, 3, width), *placed)

    def joined(self, axis):
        """h after x along an axis."""
        shape, start = list(SHAPE), [0, 0, 0]
        shape[axis], start[axis] = 2 * SHAPE[axis], SHAPE[axis]
        ones = (1, 1, 1)
        return self.put(tuple(shape), (self.x, (0, 0, 0), ones), (self.h, tuple(start), ones))

    def product(self, value, width, transposed=False):
        """By a weight of its own."""
        size = self.g[value].shape[-1]
        shape = (width, size) if transposed else (size, width)
        return self.g.product(value, self.weight(*shape), attributes=(transposed,))

    def halves(self):
        """x and h, the last axes two wide each."""
        return self.last(self.x, 0, 1, 2), self.g.sin(self.last(self.h, 1, 1, 2))

    def program(self, output, **options):
        new = self.g.tanh(self.g.sub(self.h, self.g.mul(self.g.literal(0.3), self.x)))
        shapes = {"input_shapes": (SHAPE,), "state_shapes": (SHAPE,)}
        shapes["weight_shapes"] = tuple(self.weight_shapes)
        return program_of(self.g, [output], [new], **shapes, **options)


def _weight_twice(s):
    """A weight in products of both kinds and in each row's factor: its gradient has three terms."""
    w = s.weight(4, 4)
    both = s.g.add(
        "add",
        s.g.product(s.x, w, attributes=(False,)),
        s.g.product(s.h, w, attributes=(True,)),
    )
    rows = s.g.reshape(s.g.sum(s.x, attributes=((0, 1),)), attributes=((1, 4),))
    factor = s.g.sum(s.g.mul(rows, w), attributes=((0,),))
    return s.g.mul(both, s.g.reshape(factor, attributes=((1, 1, 4),)))


def _two_windows(s, widths, strides, dilations):
    return s.g.windows(s.g.mul(s.x, s.h), attributes=(widths, strides, dilations))


def _fixed_power(exponent):
    return lambda s: s.g.pow(s.g.mul(s.x, s.h), s.g.literal(exponent))


def _cut_after_many(s):
    """Of which each is used twice: 2**200 ways lead to the first, none of which is gone twice."""
    z = s.g.mul(s.x, s.h)
    for _ in range(100):
        tenth = s.g.mul(s.g.literal(0.1), z)
        z = s.g.sub(s.g.mul(tenth, z), s.g.mul(s.g.literal(0.9), z))
    return s.g.sub(s.last(z, 0, 1, 2), s.last(z, 2, 1, 2))


def _cut_of_doubled(s):
    z = s.product(s.x, 4)
    for _ in range(60):
        z = s.g.add("add", z, z)
    halves = s.g.sub(s.last(z, 0, 1, 2), s.last(z, 2, 1, 2))
    return s.g.mul(s.g.literal(0.5**60), halves)


CASES = {
    # Of a value that is cut more than once: parts that are apart are put together, others added.
    "cuts, apart": lambda s: s.g.mul(s.last(s.x, 0, 1, 2), s.last(s.x, 2, 1, 2)),
    "cuts that leave some": lambda s: s.g.mul(s.last(s.x, 0, 1, 1), s.last(s.x, 3, 1, 1)),
    "cuts, one over the other": lambda s: s.g.mul(s.last(s.x, 0, 1, 3), s.last(s.x, 1, 1, 3)),
    "cuts that touch": lambda s: s.g.mul(s.last(s.x, 0, 1, 2), s.last(s.x, 1, 1, 2)),
    "cuts in between": lambda s: s.g.mul(s.last(s.x, 0, 2, 2), s.last(s.x, 1, 2, 2)),
    "cuts backwards": lambda s: s.g.mul(s.last(s.x, 3, -1, 3), s.last(s.x, 2, -1, 3)),
    "cuts backwards, apart": lambda s: s.g.mul(s.last(s.x, 1, -1, 2), s.last(s.x, 3, -1, 2)),
    "cuts both ways": lambda s: s.g.mul(s.last(s.x, 0, 1, 3), s.last(s.x, 3, -1, 3)),
    "a cut and the whole": lambda s: s.g.mul(s.last(s.x, 1, 1, 1), s.x),
    "cuts of each axis": lambda s: s.g.mul(
        s.cut(s.x, (1, 2, 3), (-1, -2, -3), (2, 2, 2)), s.cut(s.h, (0, 1, 0), (1, 1, 2), (2, 2, 2))
    ),
    # What the canonical form makes of cuts.
    "a cut of a cut": lambda s: s.last(s.last(s.x, 1, 2, 2), 1, 1, 1),
    "a cut of a cut by steps": lambda s: s.cut(
        s.cut(s.g.sin(s.x), (1, 0, 3), (-1, 1, -1), (2, 3, 4)), (0, 2, 1), (1, -2, 2), (2, 2, 2)
    ),
    "a cut of what rows share": lambda s: s.last(s.g.mul(s.x, s.weight(3, 1)), 1, 2, 2),
    "a cut of a thin factor": lambda s: s.cut(
        s.g.mul(s.x, s.g.sum(s.h, attributes=((),))), (0, 1, 1), (1, 1, 1), (2, 1, 2)
    ),
    "all, cut": lambda s: s.g.mul(s.last(s.x, 0, 1, 4), s.h),
    "all, turned": lambda s: s.g.mul(s.last(s.x, 3, -1, 4), s.h),
    "a part, cut": lambda s: s.last(s.joined(2), 5, 1, 3),
    "a part, cut backwards": lambda s: s.last(s.joined(2), 7, -2, 2),
    "over the edge of parts": lambda s: s.last(s.joined(2), 2, 1, 4),
    "over the edge, backwards": lambda s: s.last(s.joined(2), 5, -2, 3),
    "over parts with steps": lambda s: s.last(
        s.beside(4, *((part, at, 2) for at, part in enumerate(s.halves()))), 0, 1, 2
    ),
    "cuts after many operations": _cut_after_many,
    "cuts of what is doubled": _cut_of_doubled,
    # Parts in a whole.
    **{f"side by side, axis {axis}": lambda s, axis=axis: s.joined(axis) for axis in range(3)},
    "parts by steps": lambda s: s.beside(8, (s.x, 1, 2), (s.g.sin(s.h), 0, 2)),
    "parts backwards": lambda s: s.beside(9, (s.x, 3, -1), (s.h, 8, -1)),
    "parts with gaps": lambda s: s.put(
        (3, 5, 9), (s.x, (1, 0, 0), (1, 2, 1)), (s.h, (0, 4, 5), (2, -1, 1))
    ),
    "one part, used twice": lambda s: s.beside(8, (s.x, 0, 1), (s.x, 4, 1)),
    # Products.
    "a product": lambda s: s.product(s.g.mul(s.x, s.h), 5),
    "a product by the transpose": lambda s: s.product(s.g.mul(s.x, s.h), 5, True),
    "products summed": lambda s: s.g.add(
        "add", s.product(s.x, 5), s.g.add("add", s.product(s.h, 5, True), s.weight(5))
    ),
    "a weight in two products and a factor": _weight_twice,
    **{
        f"{what}, by the transpose: {transposed}": lambda s, put=put, transposed=transposed: (
            s.product(put(s), 5, transposed)
        )
        for transposed in (False, True)
        for what, put in {
            "a product of parts": lambda s: s.joined(2),
            "a product of parts of another axis": lambda s: s.joined(1),
            "a product of a part before rows of zeros": lambda s: s.put(
                (2, 4, 4), (s.x, (0, 0, 0), (1, 1, 1))
            ),
            "a product of parts in another order": lambda s: s.beside(8, (s.x, 4, 1), (s.h, 0, 1)),
            "a product of parts with gaps": lambda s: s.beside(11, (s.x, 1, 1), (s.h, 6, 1)),
            "a product of a part before a gap": lambda s: s.beside(5, (s.x, 0, 1)),
            "a product of parts by steps": lambda s: s.beside(
                4, *zip(s.halves(), (0, 2), (3, -1), strict=True)
            ),
            "a product of a part and a weight": lambda s: s.beside(
                8, (s.x, 0, 1), (s.weight(2, 3, 4), 4, 1)
            ),
        }.items()
    },
    # What is spread, and what is added up.
    "spread": lambda s: s.g.broadcast(
        s.g.reshape(s.x, attributes=((2, 1, 3, 1, 4),)), attributes=((2, 3, 3, 2, 4),)
    ),
    "a thin factor": lambda s: s.g.mul(s.x, s.cut(s.h, (0, 0, 0), (1, 1, 1), (2, 1, 1))),
    "weights spread over rows": lambda s: s.g.mul(
        s.g.add("add", s.x, s.weight(3, 1)), s.g.add("add", s.weight(4), s.weight(2, 1, 4))
    ),
    "a weight as rows": lambda s: s.g.mul(s.product(s.g.rows(s.weight(2, 3, 4)), 4), s.x),
    **{
        f"{name} over {axes}": lambda s, name=name, axes=axes: s.g.add(
            name, s.g.mul(s.x, s.h), attributes=(axes,)
        )
        for name in ("sum", "amax")
        for axes in ((), (0,), (1,), (2, 0), (0, 1, 2))
    },
    "windows": lambda s: _two_windows(s, (2,), (1,), (1,)),
    "windows of two axes": lambda s: _two_windows(s, (1, 2), (1, 1), (1, 1)),
    "windows by strides": lambda s: s.g.windows(
        s.g.transpose(s.x, attributes=((2, 0, 1),)), attributes=((2, 2), (2, 1), (1, 1))
    ),
    "windows by dilations": lambda s: s.g.windows(
        s.g.transpose(s.x, attributes=((2, 0, 1),)), attributes=((2,), (1,), (2,))
    ),
    # Others.
    "reshaped, and reshaped": lambda s: s.g.reshape(
        s.g.reshape(s.g.mul(s.x, s.h), attributes=((6, 4),)), attributes=((3, 8),)
    ),
    **{
        f"the axes in the order {axes}": lambda s, axes=axes: s.g.sin(
            s.g.transpose(s.g.mul(s.x, s.h), attributes=(axes,))
        )
        for axes in permutations(range(3))
    },
    **{f"to the power {e}": _fixed_power(e) for e in (2.0, 0.5, -0.5, -1.0, 3.0, -2.0)},
    "a number to the power": lambda s: s.g.pow(s.g.literal(1.7), s.g.mul(s.x, s.h)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule(name):
    step, rng = Step(), np.random.default_rng(11)
    program = step.program(CASES[name](step))
    given = given_for(program, rng, 3, 2)
    for each in (*given.xs, *given.states):
        each[:] = rng.uniform(0.5, 1.5, each.shape)
    assert check(program, given, rng)


def gradients(step, output, **options):
    """A step's gradients of x, h and its weights, the upstream, and what it was given."""
    rng = np.random.default_rng(3)
    program = step.program(output, **options)
    given = given_for(program, rng, 3, 1)
    upstream = rng.uniform(-1, 1, (3, 1, *program.output_shapes[0]))
    found = Compiled(program, given).backward([upstream], [np.zeros_like(given.states[0])])
    return found, upstream, given


def test_a_stopped_gradient():
    """Of x * stop(x h) it's stop(x h) to x, through the product alone; to h nothing."""
    s = Step()
    found, upstream, given = gradients(s, s.g.mul(s.x, s.g.stop_gradient(s.g.mul(s.x, s.h))))
    (x,), (h,) = given.xs, given.states
    np.testing.assert_allclose(found[0], upstream * x * h[:, None], rtol=1e-12)
    np.testing.assert_array_equal(found[1], np.zeros_like(h))


def test_a_gradient_of_its_own():
    """It's what the author says, summed as the source was spread, wherever the value came from."""
    s = Step()
    w, thin = s.weight(3, 1), s.last(s.h, 0, 1, 1)
    up = s.g.leaf("upstream", 0, SHAPE)
    said = [s.g.mul(up, s.g.cos(s.h)), s.g.mul(up, s.g.literal(3.0)), s.g.neg(up)]
    value = s.g.mul(s.x, s.h)
    made = s.g.custom(value, s.x, thin, w, *said, attributes=(0,))
    found, upstream, given = gradients(s, s.g.sin(made))
    (x,), (h,) = given.xs, given.states
    u = upstream * np.cos(x * h[:, None])
    np.testing.assert_allclose(found[0], u * np.cos(h[:, None]), rtol=1e-12)
    expected = np.zeros_like(h)
    expected[..., 0] = 3 * u[:, 0].sum(-1)
    np.testing.assert_allclose(found[1], expected, rtol=1e-12)
    np.testing.assert_allclose(found[2], -u.sum((0, 1, 2, 4))[:, None], rtol=1e-12)


def test_a_gradient_of_its_own_after_many_operations():
    s = Step()
    z = s.x
    for _ in range(1000):
        z = s.g.sin(z)
    up = s.g.leaf("upstream", 0, SHAPE)
    made = s.g.custom(s.g.square(z), z, s.g.mul(up, z), attributes=(0,))
    found, upstream, given = gradients(s, made)
    (x,), slope = given.xs, 1.0
    for _ in range(1000):
        x, slope = np.sin(x), slope * np.cos(x)
    np.testing.assert_allclose(found[0], upstream * x * slope, rtol=1e-6)


def test_a_gradient_of_its_own_within_one():
    """Each has the upstream of its own, of its own shape."""
    s = Step()
    inner_up = s.g.leaf("upstream", 1, (2, 3))
    up = s.g.leaf("upstream", 0, SHAPE)
    total = s.g.sum(s.g.mul(up, s.h), attributes=((2,),))
    inner = s.g.custom(s.g.square(total), total, s.g.mul(total, inner_up), attributes=(1,))
    said = s.g.mul(up, s.g.reshape(inner, attributes=((2, 3, 1),)))
    found, upstream, given = gradients(s, s.g.custom(s.x, s.x, said, attributes=(0,)))
    factor = (upstream * given.states[0][:, None]).sum(-1, keepdims=True) ** 2
    np.testing.assert_allclose(found[0], upstream * factor, rtol=1e-12)


def test_what_is_fixed_has_no_gradient():
    s = Step()
    output = s.g.mul(s.g.sin(s.x), s.h)
    found = derivative(s.program(output, fixed=frozenset([("input", 0)])))
    assert found.inputs == (None,)
    assert found.states[0] is not None
    (d_state,), _, _ = gradients(s, output, fixed=frozenset([("input", 0)]))
    (_, same), _, _ = gradients(s, output)
    np.testing.assert_array_equal(d_state, same)


def test_what_has_no_rule_is_refused():
    s = Step()
    made = s.g.overlap(s.x, attributes=((4, 4), (3,), (1,), (1,)))
    with pytest.raises(ValueError, match="overlap has no derivative"):
        derivative(s.program(made))
