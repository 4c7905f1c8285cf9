"""What an engine is, what it's asked, and what it's given to run."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ostinato.structure import Structure
from ostinato.tensors import Tensor


class Activation(NamedTuple):
    """A function that a cell applies.

    Attributes:
        argument: The cell's argument, "activation" or "recurrent_activation".
        name: Its name in keras.activations, if the kernels have it, else None.
        shown: How to call it in a reason.
    """

    argument: str
    name: str | None
    shown: str


class Loop(NamedTuple):
    """How a cell is to be run over time: the flags of the RNN layer, by their names there.

    Attributes:
        return_sequences: Whether the outputs of all timesteps are wanted, or the last only.
        go_backwards: Whether to run from the last timestep to the first.
        zero_output_for_mask: Whether a masked timestep's output is zero; else it repeats the
            previous one (zeros before a row's first valid timestep). Either way a masked
            timestep keeps every state.
        unroll: Whether to unroll the loop, where there is one.
        flip_outputs: Whether the outputs come in the opposite order of the run's.
        truncate: Timesteps, in the order of the run: no gradient of a state crosses a multiple of
            them. 0: all do.
    """

    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    unroll: bool = False
    flip_outputs: bool = False
    truncate: int = 0


# What `computes_in` says of products from bfloat16s.
IN_BFLOAT16 = "bfloat16, sums in float32"


class Question(NamedTuple):
    """What is asked of an engine: one cell, one sequence. Plain values, no tensor.

    Attributes:
        kind: The kernels' name of the cell's mathematics, or None where it has none.
        not_builtin: Why it has none, where it hasn't.
        activations: The functions that the cell applies: its own, and its gates' if it has any.
        use_bias: Whether it has a bias.
        dtype: The dtype that the cell computes in.
        bfloat16: Whether the kernels may compute its products from bfloat16s, and can: it computes
            in bfloat16, or the user has asked for that.
        int8: Whether its weights are in int8.
        rank: The number of dimensions of the inputs; None where they're several tensors.
        native: Why the native library can't run in this process, or None.
        framework: Why the framework can't call it on such tensors, or None.
        forced: The engine that the user forces, or None.
        loop: How it's run over time.
        has_mask: Whether there's a mask of timesteps.
        resets: What the states of a row become where it's reset: one of `ostinato.native`'s
            NO_RESETS, TO_ZEROS and TO_FRESH_STATES.
        program: What a cell of one's own has been made into, or None.
        no_program: Why there's none, where one was looked for.
        rows: The rows of the batch, where the backend's own loop may be as fast for a few; or None.
        trains: Whether a program would train.
        recurrent_dropout: Whether dropout of the state is drawn in this call.
        device: What kind of device the tensors are on: "cpu", "cuda", or as the framework calls it.
        cudnn: Why the framework can't call cuDNN on such tensors, or None. Asked only where they
            aren't for the CPU's engines, or an engine is forced.
        cuda: Why Ostinato's CUDA kernels can't be called, or None. Asked only where their engine is
            forced, or the tensors aren't on the CPU.
        checked: Whether those kernels have been seen to be right on that card.
        card: Which card the tensors are on.
        checkpoints: What the user asks for with `use_checkpoints`, or None.
        products: What those kernels compute products from: "float32", "tf32" or "bfloat16".
    """

    kind: str | None
    not_builtin: str | None = None
    activations: tuple[Activation, ...] = ()
    use_bias: bool = True
    dtype: str = "float32"
    bfloat16: bool = False
    int8: bool = False
    rank: int | None = 3
    native: str | None = None
    framework: str | None = None
    forced: str | None = None
    loop: Loop = Loop()
    has_mask: bool = False
    resets: int = 0
    program: Any = None
    no_program: str | None = None
    rows: int | None = None
    trains: bool = False
    recurrent_dropout: bool = False
    device: str = "cpu"
    cudnn: str | None = None
    cuda: str | None = None
    checked: bool = False
    card: int = 0
    checkpoints: str | None = None
    products: str = "float32"


class CallContext(NamedTuple):
    """What a call of a layer gives to each of its cells.

    Attributes:
        training: Whether to apply dropout.
        constants: The list passed to the cell's `call` by keyword, or None.
        owner: The layer, for errors.
        dtype: What outputs are cast to.
    """

    training: bool
    constants: list[Any] | None
    owner: str
    dtype: str


class Resets(NamedTuple):
    """Where the rows of a sequence begin anew, and with what.

    Attributes:
        flags: (B, T) booleans in the order of time: whether the row's states are fresh before that
            timestep of the run, masked or not. What it holds of its outputs is gone, too.
        fresh: The fresh states, each (B, ...), in the containers of the cell's `state_size`; None
            where they're all zeros.
        after: (B,) booleans: whether they are what a stateful layer goes on from after the run;
            None where that's in no row.
    """

    flags: Tensor
    fresh: Structure = None
    after: Tensor | None = None


class Task(NamedTuple):
    """A cell, and the sequence to run it over.

    Attributes:
        cell: The cell, built.
        xs: Its inputs, each (B, T, ...), in the order of time.
        states: Its initial states, each (B, ...), in the containers of its `state_size`.
        mask: (B, T) booleans in the order of time, or None.
        loop: How it's run over time.
        context: What the call of the layer gives to the cell.
        starts_from_zeros: Whether it's known that all initial states are zero.
        wants_states: Whether anybody looks at the final states. Where nobody does, an engine may
            give anything for those that aren't the output.
        resets: Where rows begin anew within the sequence, or None.
    """

    cell: Any
    xs: Structure
    states: Structure
    mask: Tensor | None
    loop: Loop
    context: CallContext
    starts_from_zeros: bool = False
    wants_states: bool = True
    resets: Resets | None = None


# The outputs, each (B, T, ...) or (B, ...) by `return_sequences`, in their containers; the final
# states, each (B, ...), in a flat tuple.
Answer = tuple[Structure, Structure]


class Engine(Protocol):
    """What runs cells over sequences.

    Attributes:
        name: Its name in `explain` and `use_engine`.
        runs_together: Whether several tasks given at once run at the same time, and the outputs
            of two can come as one tensor. Then `Bidirectional` gives it both directions.
        on_kernels: Whether it runs on native kernels (`explain` shows their target and threads).
        device: The kind of device that it's for, as in `Question`; None: whatever it is.
    """

    name: str
    runs_together: bool
    on_kernels: bool
    device: str | None

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Why it can't do what is asked, each a clause that needs no context; empty if it can."""
        ...

    def computes_in(self, question: Question) -> str:
        """What it computes in, where that isn't the dtype of the layer; else ""."""
        ...

    def recipe(self, question: Question) -> Any:
        """What follows from the question alone, where there's no obstacle. It's kept: immutable."""
        ...

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[Any], joined: bool = False
    ) -> list[Answer]:
        """Runs cells over their sequences.

        Args:
            tasks: The cells, with what each has to do.
            recipes: The recipe of each.
            joined: Whether the outputs of every timestep of two tasks are one tensor, side by
                side; both answers have it then. A concatenation later costs a pass over both.
        """
        ...
