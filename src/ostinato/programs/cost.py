"""What a timestep costs, about, on the core and in a loop that a compiler makes of the same step.

Only XLA's loops come near the core's, and only where a step is so small that the instructions of
the core, some 120 ns each whatever they do, are most of it: a battery's simulation of one row takes
0.9 us a step on the core and 0.2 in XLA's loop, of 64 rows 1.5 and 1.7.
"""

import math

from ostinato.programs.graph import Program
from ostinato.programs.keeping import is_dear_operation
from ostinato.programs.node import Node

# Nanoseconds, as measured on JAX 0.10 on an AMD Zen 4 of 3.7 GHz with two cores, T 100.
_CALL, _INSTRUCTION, _TILE_ROWS = 60.0, 120.0, 48
_OF_CORE = {"cheap": 0.09, "dear": 0.45, "product": 0.02}  # an element; a multiplication
_OF_LOOP = {"cheap": 0.09, "dear": 1.6, "product": 0.05}
_LOOP, _OPERATION, _BYTE = 10.0, 5.0, 0.04
_KERNEL_OF_A_ROW, _KERNELS, _DEAR = 90.0, 150.0, 300.0
# What a step of training takes over that of inference: a compiled loop keeps all that it computes.
_BACK = {"core": 2.0, "loop": 6.0}

_KERNELS_OF = {"product", "sum", "amax", "windows", "overlap"}  # what isn't fused with the rest


def core_ns(program: Program, instructions: int, rows: int, trains: bool) -> float:
    """Nanoseconds of a timestep of so many rows on the core."""
    work = rows * sum(_work(program, node, _OF_CORE) for node in program.nodes)
    tiles = math.ceil(rows / _TILE_ROWS)
    forward = _CALL + _INSTRUCTION * instructions * tiles + work
    return forward * (1 + _BACK["core"] * trains)


def loop_ns(program: Program, rows: int, trains: bool) -> float:
    """The same in a loop that a compiler makes of the backend's operations."""
    work = rows * sum(_work(program, node, _OF_LOOP) for node in program.nodes)
    computed = [node for node in program.nodes if node.arguments and node.has_rows]
    kernels = sum(node.operation in _KERNELS_OF for node in computed)
    dear = any(is_dear_operation(node.operation) for node in computed)
    # A step of one row is one kernel, as one of additions and the like always is.
    each = _KERNEL_OF_A_ROW if rows == 1 else _KERNELS
    fixed = each * kernels + (_DEAR if rows > 1 and (kernels or dear) else 0)
    shapes = (*program.input_shapes, *program.state_shapes, *program.output_shapes)
    moved = 4 * rows * sum(math.prod(shape) for shape in shapes)
    forward = _LOOP + _OPERATION * len(computed) + _BYTE * moved + fixed + work
    return forward * (1 + _BACK["loop"] * trains)


def _work(program: Program, node: Node, of: dict[str, float]) -> float:
    """Nanoseconds that a node takes a row."""
    if not node.arguments or not node.has_rows:
        return 0.0
    size = math.prod(node.shape)
    if node.operation == "product":
        return of["product"] * size * program.nodes[node.arguments[0]].shape[-1]
    return of["dear" if is_dear_operation(node.operation) else "cheap"] * size
