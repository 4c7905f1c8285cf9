"""`explain`: which engine runs each recurrent layer of a model, and why not a faster one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops, tree

from ostinato import machine, native
from ostinato.cells.building import initial_states
from ostinato.cells.contract import needs_constants, output_sizes
from ostinato.doors import door
from ostinato.engines.interface import Question
from ostinato.engines.table import PORTABLE
from ostinato.layers import RNN
from ostinato.layers.dispatch import cells_of
from ostinato.layers.gated_cell import GatedCell
from ostinato.layers.planning import Call, question_about
from ostinato.layers.within import children
from ostinato.machine import FRAMEWORKS
from ostinato.models.directions import ACCELERATE
from ostinato.plan import Plan, plan
from ostinato.programs.compiling import last_found
from ostinato.structure import leaves, map_shapes

_HEADINGS = (
    *("layer", "class", "engine", "device", "target", "threads"),
    "why not a faster engine",
)


@dataclass(frozen=True)
class Row:
    """One recurrent layer, or one cell of a stack.

    Attributes:
        layer: Its path: the names of the layers that it is in, and its own.
        kind: Its class.
        engine: "fused" or "compiled" (the native engine, for built-in cells and for one's own),
            "cudnn" (NVIDIA's, which the backend calls), "cuda" (Ostinato's kernel for its GPUs),
            "scan" (the backend's loop, or of a cell alone the backend's operations), "keras"
            (Keras's own layer), or "none" where `use_engine` forces one that can't run it.
        target: The instruction set of the native engine, else the backend.
        threads: How many threads the native engine may use; None for other engines.
        why_not_faster: Why no faster engine runs it; "" where there's none.
        precision: What the engine computes in where that isn't the layer's dtype: "float32" of half
            precision that is converted, "bfloat16, sums in float32", "tf32"; else "".
        device: The kind of device that it runs on: "cpu", "cuda", or the backend's name of another.
    """

    layer: str
    kind: str
    engine: str
    target: str
    threads: int | None
    why_not_faster: str
    precision: str = ""
    device: str = "cpu"
    _program: Any = field(default=None, repr=False, compare=False)

    @property
    def program(self) -> str | None:
        """What a cell of one's own has been made into, as text; None where it wasn't."""
        return None if self._program is None else str(self._program)

    @property
    def _target(self) -> str:
        return f"{self.target} in {self.precision}" if self.precision else self.target


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; printed, it's a table.

    Attributes:
        rows: One for each recurrent layer, in the order of the model.
        native: Why the native engine can't run in this process, or None where it can.
        warning: That there are more threads than free cores, and what to do; None where there
            aren't.
        shows_programs: Whether the programs of cells of one's own are printed below the table.
    """

    rows: tuple[Row, ...]
    native: str | None
    warning: str | None = None
    shows_programs: bool = False

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        if self.native is None:
            state = f"{native.target()}, {native.threads()} threads"
        else:
            state = f"not available: {self.native}"
        lines = [f"Backend {keras.config.backend()}. Native engine: {state}."]
        warning = [self.warning] if self.warning else []
        return "\n".join([*lines, *self._table(), *warning, *self._programs()])

    def _programs(self) -> list[str]:
        if not self.shows_programs:
            return []
        return [
            f"\nThe program of {row.layer} ({row.kind}):\n{row.program}"
            for row in self.rows
            if row._program is not None
        ]

    def _table(self) -> list[str]:
        if not self.rows:
            return ["No recurrent layers."]
        cells = [
            (
                *(r.layer, r.kind, r.engine, r.device, r._target, str(r.threads or "-")),
                r.why_not_faster or "-",
            )
            for r in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]
        # The last column's text may be long: nothing is to its right, so it needs no padding.
        widths[-1] = len(_HEADINGS[-1])
        table = [_HEADINGS, tuple("-" * width for width in widths), *cells]
        return [
            "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]


def explain(model: Any, program: bool = False) -> Explanation:
    """Says which engine runs each recurrent layer of a model, and why not a faster one.

    Args:
        model: A Keras model or layer. Layers inside are found wherever Keras tracks them: in
            nested models, in wrappers, in attributes.
        program: Whether to print, below the table, the program that each cell of one's own has been
            made into: its values by phase, their cost, and what training keeps.

    Returns:
        A table, to print or to read row by row. It's about the process as it is: backend, device,
        and what `use_engine` or OSTINATO_ENGINE force.

    Raises:
        ValueError: if `model` isn't a Keras model or layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"explain: expected a Keras model or layer, got {model!r}.")
    compiled = _why_compiled(model)
    rows = tuple(_rows(model, (), set(), compiled))
    return Explanation(rows, native.why_not(), _warning() if rows else None, program)


def _warning() -> str | None:
    """That there are more threads than free cores, as a line under the table."""
    told = door.threads()
    if told is not None:
        (threads, remedy), whose = told, FRAMEWORKS[keras.config.backend()]
    elif native.why_not() is None:
        threads, remedy, whose = native.threads(), "OSTINATO_NUM_THREADS=1", "The native engine"
    else:
        return None
    crowd = machine.crowded(threads, machine.cores(), machine.load_on_cores())
    if crowd is None:
        return None
    return (
        f"Warning: {whose} has {crowd}. Threads that wait for one another there can make a step "
        f"many times slower; try {remedy}. See the page Troubleshooting (docs/troubleshooting.md)."
    )


def _why_compiled(model: Any) -> str | None:
    """Why a model's own functions can't call the native engine though its layers could."""
    by_xla = keras.config.backend() == "tensorflow" and getattr(model, "jit_compile", None) is True
    return (
        "XLA compiles the model (jit_compile=True), and has no such operation" if by_xla else None
    )


def _rows(layer: Any, path: tuple[str, ...], seen: set[int], compiled: str | None) -> Iterator[Row]:
    if id(layer) in seen:  # a shared layer
        return
    seen.add(id(layer))
    name = "/".join(path) or layer.name
    if isinstance(layer, RNN):
        yield from _rows_of_ours(layer, name, compiled)
    elif isinstance(layer, GatedCell):
        yield _row_of_a_cell(layer, name)
    elif ACCELERATE.concerns(layer):
        yield _row_of_keras(layer, name)
        for child in children(layer):
            if isinstance(child, RNN):  # ours in a Bidirectional of Keras's
                yield from _rows(child, (*path, child.name), seen, compiled)
    else:
        if ACCELERATE.wrapper(layer) is not type(layer):
            yield _row_of_keras(layer, name)
        for child in children(layer):
            yield from _rows(child, (*path, child.name), seen, compiled)


def _rows_of_ours(layer: RNN, name: str, compiled: str | None) -> Iterator[Row]:
    cells = cells_of(layer.cell)
    xs: Any = _inputs_like(layer)
    for cell in cells:
        is_inner = len(cells) > 1
        cell_name = getattr(cell, "name", type(cell).__name__)
        question, following = _question(layer, cell, xs, compiled)
        found, device = plan(question), door.device_of(leaves(xs)[0])
        on_kernel = found.engine is not None and found.engine.on_kernels
        # That a cell is one's own is no reproach where it runs on kernels all the same.
        why = found.why_not(leaving_out=question.not_builtin if on_kernel else None)
        in_training = _in_training(found, layer, cell, xs, compiled)
        told = (why, in_training, _keeps_all(found, question))
        yield Row(
            f"{name}/{cell_name}" if is_inner else name,
            type(cell if is_inner else layer).__name__,
            found.engine.name if found.engine else "none",
            native.target() if on_kernel else keras.config.backend(),
            native.threads() if on_kernel else None,
            "; ".join(filter(None, told)),
            found.engine.computes_in(question) if found.engine else "",
            device,
            question.program,
        )
        xs = following


def _in_training(found: Plan, layer: RNN, cell: Any, xs: Any, compiled: str | None) -> str:
    """What else runs it in training, where its dropout asks for that, and why."""
    if not getattr(cell, "recurrent_dropout", 0):
        return ""
    training = plan(_question(layer, cell, xs, compiled, training=True)[0])
    if training.engine is found.engine or found.engine is None:
        return ""
    engine = training.engine.name if training.engine else "none"
    return f"in training {engine}: {training.why_not(found.engine.name)}"


def _keeps_all(found: Plan, question: Question) -> str:
    """That the engine doesn't heed the checkpoints that are asked for; "" where it does."""
    if found.engine is None or found.engine.on_kernels or question.checkpoints in (None, "0"):
        return ""
    return "use_checkpoints or OSTINATO_CHECKPOINTS changes nothing: it keeps all for the gradients"


def _question(
    layer: RNN, cell: Any, xs: Any, compiled: str | None, training: bool = False
) -> tuple[Question, Any]:
    """What is asked about a cell, for a call as the layer was built for; the next cell's inputs."""
    question, following = _question_of_functions(layer, cell, xs, training)
    if compiled:
        question = question._replace(framework=compiled, cudnn=compiled)
    return question, following


def _question_of_functions(layer: RNN, cell: Any, xs: Any, training: bool) -> tuple[Question, Any]:
    """The same, whatever compiles the model's own functions."""
    question = question_about(cell, xs, training=training)
    if layer._rnn_built_shapes is None:
        return question._replace(no_program="the layer isn't built yet"), xs
    dtype, sizes = layer.compute_dtype, output_sizes(cell)
    following = xs
    if sizes is not None:
        following = tree.map_structure(lambda size: ops.zeros((1, 1, *size), dtype=dtype), sizes)
    if question.kind is None and needs_constants(cell):
        return _by_its_last_call(question, cell), following
    states = initial_states(cell, 1, dtype)
    question = question_about(cell, xs, call=Call(states, None, training), training=training)
    # The zeros are of one row; the layer's batch may have more, or be of any size.
    rows = leaves(map_shapes(lambda shape: shape[0] or 0, layer._rnn_built_nest))[0]
    return question._replace(rows=rows if question.rows else None), following


def _by_its_last_call(question: Question, cell: Any) -> Question:
    """The question for a cell whose constants only a call can show."""
    found = last_found(cell)
    if found is None:
        return question._replace(no_program="its constants come with a call, and none came yet")
    if isinstance(found, str):
        return question._replace(no_program=found)
    return question._replace(program=found)


def _inputs_like(layer: RNN) -> Any:
    """Inputs of the shapes and nesting that a layer was built for; else one of (batch, time, D)."""
    if layer._rnn_built_shapes is None:
        return ops.zeros((1, 1, 1), dtype=layer.compute_dtype)
    return map_shapes(
        lambda shape: ops.zeros((1, 1, *shape[2:]), dtype=layer.compute_dtype),
        map_shapes(lambda shape: tuple(size or 1 for size in shape), layer._rnn_built_nest),
    )


def _row_of_a_cell(cell: GatedCell, name: str) -> Row:
    why = (
        "a cell by itself runs one timestep, on the backend; the engines are those of an RNN of it"
    )
    return _on_the_backend(cell, name, PORTABLE, why)


def _row_of_keras(layer: Any, name: str) -> Row:
    reason = ACCELERATE.why_left(layer)
    why = (
        "it's Keras's own layer: `ostinato.accelerate(model)` converts it"
        if reason is None
        else f"it's Keras's own layer, which `ostinato.accelerate` leaves alone: {reason}"
    )
    return _on_the_backend(layer, name, "keras", why)


def _on_the_backend(layer: Any, name: str, engine: str, why: str) -> Row:
    device = door.device_of(ops.zeros((), dtype=layer.compute_dtype))
    return Row(name, type(layer).__name__, engine, keras.config.backend(), None, why, device=device)
