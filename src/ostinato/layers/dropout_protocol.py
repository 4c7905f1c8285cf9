"""How Keras's own RNN gets one dropout mask a sequence out of a cell.

It has the cells draw their masks before its loop and forget them after, but only cells of a class
that Keras doesn't export: the one that its own cells mix in, and are met through here.
"""

from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    MaskHolder = object
else:
    _bases = keras.layers.SimpleRNNCell.__mro__
    MaskHolder = next((c for c in _bases if "get_dropout_mask" in vars(c)), object)
