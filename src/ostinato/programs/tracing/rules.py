"""How each of Keras's operations is translated, by the name of its class. One more is one entry."""

from typing import Any

import keras

from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.rules_convolutions import CONVOLUTIONS
from ostinato.programs.tracing.rules_elementwise import ELEMENTWISE, Rule
from ostinato.programs.tracing.rules_products import PRODUCTS
from ostinato.programs.tracing.rules_reductions import REDUCTIONS
from ostinato.programs.tracing.rules_shapes import SHAPES

RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **SHAPES,
    **REDUCTIONS,
    **PRODUCTS,
    **CONVOLUTIONS,
}


def rule_of(operation: Any) -> Rule:
    """The rule of an operation.

    Raises:
        Untraceable: There's none.
    """
    name = named(operation)
    if isinstance(operation, keras.layers.Layer):
        raise Untraceable(f"the layer {name} is made or found in its call, and no attribute of it")
    rule = RULES.get(name)
    if rule is None:
        raise Untraceable(f"{name} isn't among programs' operations")
    return rule
