"""Programs as routines: values and gradients against NumPy, with every kind of operation."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from ostinato import native
from ostinato.programs.elementwise import elementwise
from ostinato.programs.graph import Graph, program_of
from programs.by_hand import Compiled, check, given_for, run_interpreted
from programs.interpreter import FUNCTIONS, UNARY
from programs.random_programs import Maker
from support import on_one_backend

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(native.why_not() is not None, reason="no native engine"),
]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=strategies.integers(0, 10**6),
    sizes=strategies.tuples(strategies.integers(1, 4), strategies.integers(1, 4)),
    has_mask=strategies.booleans(),
    zero_output=strategies.booleans(),
    flags=strategies.tuples(*[strategies.integers(0, 1)] * 3),
)
def test_random_programs(seed, sizes, has_mask, zero_output, flags):
    program, rng = Maker(seed).program(), np.random.default_rng(seed)
    names = ("go_backwards", "flip_outputs", "return_sequences")
    options = dict(zip(names, flags, strict=True))
    given = given_for(program, rng, *sizes, has_mask, zero_output=zero_output, **options)
    check(program, given, rng)


@pytest.mark.parametrize("seed", range(8))
def test_the_interpreter_agrees(seed):
    program, rng = Maker(seed).program(), np.random.default_rng(seed)
    given = given_for(program, rng, 2, 2, has_mask=seed % 2 == 1)
    check(program, given, rng, run_interpreted)


# Where a function is defined, and smooth.
DOMAINS = {
    "log": (0.1, 2),
    "log1p": (-0.5, 2),
    "sqrt": (0.1, 2),
    "rsqrt": (0.1, 2),
    "reciprocal": (0.5, 2),
    "arcsin": (-0.9, 0.9),
    "arccos": (-0.9, 0.9),
    "arctanh": (-0.9, 0.9),
    "arccosh": (1.1, 2),
    "tan": (-1, 1),
    "pow": (0.2, 2),
    "div": (0.5, 2),
    "mod": (0.6, 0.9),
    "floordiv": (0.6, 0.9),
}
# Only compared with the interpreter where it has them; the activations have tests of their own.
NAMES = sorted(name for name in elementwise() if name in FUNCTIONS and not name.startswith("d_"))


def arity(name):
    if name in ("select", "clip"):
        return 3
    return 1 if name in UNARY else 2


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_and_its_rule(name):
    """One elementwise operation of an input and a state, over sizes no multiple of a vector."""
    low, high = DOMAINS.get(name, (-1.5, 1.5))
    graph, rng = Graph(), np.random.default_rng(7)
    x, h = graph.leaf("input", 0, (19,)), graph.leaf("state", 0, (19,))
    arguments = [x, h, x][: arity(name)]
    if name == "clip":
        arguments = [x, graph.literal(-0.4), graph.literal(0.7)]
    made = graph.add(name, *arguments)
    program = program_of(
        graph,
        [made],
        [graph.tanh(graph.mul(made, h))],
        input_shapes=((19,),),
        state_shapes=((19,),),
    )
    given = given_for(program, rng, 3, 1)
    given.xs = [rng.uniform(low, high, (3, 1, 19))]
    given.states = [rng.uniform(low, high, (3, 19))]
    assert check(program, given, rng)


# Where it has a kink: of an operation of x and h its slopes, on which the frameworks agree.
KINKS = {
    "max": (0.5, 0.5, 0.5, 0.5),
    "min": (0.5, 0.5, 0.5, 0.5),
    "relu": (0.0, 0.0, 0.0, 0.0),
    "abs": (0.0, 0.0, 0.0, 0.0),
    "pow": (0.0, 2.0, 0.0, 0.0),
    "pow of nothing": (0.0, 0.0, 0.0, 0.0),
    "pow by nothing": (0.0, 0.0, 0.0, 0.0),
    "clip from": (-0.4, 0.0, 1.0, 0.0),
    "clip to": (0.7, 0.0, 1.0, 0.0),
    "amax": (0.3, 0.0, 1 / 5, 0.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_slopes_at_kinks(name):
    graph, operation, (x, h, dx, dh) = Graph(), name.split()[0], KINKS[name]
    arguments = [graph.leaf("input", 0, (5,)), graph.leaf("state", 0, (5,))]
    if operation == "amax":
        made = graph.add("amax", arguments[0], attributes=((0,),))
    elif name == "pow by nothing":
        made = graph.pow(arguments[0], graph.literal(0.0))
    elif operation == "clip":
        made = graph.clip(arguments[0], graph.literal(-0.4), graph.literal(0.7))
    else:
        made = graph.add(operation, *arguments[: arity(operation)])
    fresh = graph.mul(arguments[1], graph.literal(0.0))
    shapes = {"input_shapes": ((5,),), "state_shapes": ((5,),)}
    program = program_of(graph, [made], [fresh], **shapes)
    given = given_for(program, np.random.default_rng(0), 2, 1)
    given.xs, given.states = [np.full((2, 1, 5), x)], [np.full((2, 5), h)]
    compiled = Compiled(program, given)
    output, state = compiled.forward()
    found = compiled.backward([np.ones_like(output)], [np.zeros_like(state)])
    np.testing.assert_allclose(found[0], np.full((2, 1, 5), dx), rtol=1e-12)
    np.testing.assert_allclose(found[1], np.full((2, 5), dh), rtol=1e-12)
