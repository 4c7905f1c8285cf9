"""What a built-in cell offers to the engines beside `call`, and which cells count as built-in."""

from collections.abc import Callable
from typing import Any

import keras

from ostinato.doors import remembered
from ostinato.tensors import Tensor, Tensors

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

# A subclass that changes none of these has the mathematics of its base.
_MATHEMATICS = ("call", "__call__", "_cell_projection", "_cell_recurrence", "_cell_weights")


class BuiltinCell:
    """The interface of SimpleRNNCell, GRUCell and LSTMCell to the engines.

    What Keras's cells haven't got begins with `_cell_`, so that a user's subclass may give its own
    meaning to any other name.
    """

    _cell_kind: Any  # the native engine's name for this mathematics, one of native.kinds()
    compute_dtype: str

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        """Zeros (B, U) for each state."""
        raise TypeError(f"{type(self).__name__} has no states.")

    def _cell_activations(self) -> dict[str, Any]:
        """The functions that it applies, by the names of the arguments; SimpleRNN has no gates."""
        raise TypeError(f"{type(self).__name__} has no activations.")

    def _cell_weights(self) -> Tensors:
        """The values of kernel, recurrent_kernel and, where there is one, bias."""
        raise TypeError(f"{type(self).__name__} has no weights for a kernel.")

    def _cell_masks(self, batch_size: Any, features: int, training: bool) -> Any:
        """Draws one call's dropout masks: `inputs` and `recurrent`, tuples of tensors."""
        raise TypeError(f"{type(self).__name__} draws no masks.")

    def _cell_projection(self, masks: Any) -> Callable[[Tensor], Tensor]:
        """The part of a timestep that needs only the inputs, for one timestep or all at once."""
        raise TypeError(f"{type(self).__name__} has no projection.")

    def _cell_recurrence(self, masks: Any) -> Step:
        """The part of a timestep that needs the state.

        Args:
            masks: This call's masks.

        Returns:
            A function of a timestep's projected inputs (B, G*U) and the tuple of states, each
            (B, U), that returns the output and the tuple of new states. The output is the first
            of them.
        """
        raise TypeError(f"{type(self).__name__} has no recurrence.")


def is_int8(layer: Any) -> bool:
    """Whether the weights of a layer or cell are in int8."""
    return getattr(layer, "quantization_mode", None) == "int8"


def is_ours(found: Any) -> bool:
    """Whether a class, or a method of a built-in cell, is Ostinato's, and no user's own."""
    module: str = found.__module__
    return module.partition(".")[0] == __package__.partition(".")[0]


def is_a_users(method: Any) -> bool:
    """Whether a method is a subclass's own, and neither ours nor what Keras's Layer calls."""
    return method is not keras.layers.Layer.__call__ and not is_ours(method)


def is_called_as_ours(cell: Any) -> bool:
    """Whether to call a built-in cell is its own mathematics, and no subclass's."""
    return not is_a_users(cell.call) and not is_a_users(type(cell).__call__)


def regularizes(cell: Any) -> bool:
    """Whether a cell has an activity regularizer, which takes the outputs of every timestep."""
    return getattr(cell, "activity_regularizer", None) is not None


def why_not_builtin(cell: Any) -> str | None:
    """Why a cell's mathematics isn't a built-in cell's, or None where it is."""
    cls: Any = type(cell)
    reason = _why_not_builtin(cls)
    if reason is not None:
        return reason
    if regularizes(cell):
        return f"this {type(cell).__name__} has an activity_regularizer"
    own = [name for name in _MATHEMATICS if name in vars(cell)]
    if not own:
        return None
    return f"this {type(cell).__name__} has been given its own {' and '.join(map(repr, own))}"


@remembered
def _why_not_builtin(cls: Any) -> str | None:
    package = cls.__module__.partition(".")[0]
    if not issubclass(cls, BuiltinCell):
        if package == __package__.partition(".")[0]:
            return f"there is no native kernel of {cls.__name__}"
        owner = "Keras's own " if package == "keras" else ""
        return f"{owner}{cls.__name__} is not a built-in cell of ostinato.layers"
    own = [name for name in _MATHEMATICS if is_a_users(getattr(cls, name))]
    return f"{cls.__name__} has its own {' and '.join(map(repr, own))}" if own else None
