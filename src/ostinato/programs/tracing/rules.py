"""How each of Keras's operations is translated, by the name of its class. One more is one entry."""

from typing import Any

from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.rules_convolutions import CONVOLUTIONS
from ostinato.programs.tracing.rules_elementwise import ELEMENTWISE, Rule
from ostinato.programs.tracing.rules_places import PLACES
from ostinato.programs.tracing.rules_products import PRODUCTS
from ostinato.programs.tracing.rules_reductions import REDUCTIONS
from ostinato.programs.tracing.rules_shapes import SHAPES
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation


def _custom_gradient(
    t: Translation, op: Any, value: Term, sources: list[Term], gradients: list[Any]
) -> Term:
    terms = [value, *sources, *(t.term(gradient) for gradient in gradients)]
    if any(term.fold != 1 for term in terms[: len(sources) + 1]):
        raise Untraceable("what it's made of has no rows of the batch, or not in front")
    arguments = [term.value for term in terms]
    return t.of(t.add("custom", *arguments, attributes=(op.number,)), 1)


RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **SHAPES,
    **PLACES,
    **REDUCTIONS,
    **PRODUCTS,
    **CONVOLUTIONS,
    "CustomGradient": _custom_gradient,
}


def rule_of(operation: Any) -> Rule:
    """The rule of an operation.

    Raises:
        Untraceable: There's none.
    """
    name = named(operation)
    rule = RULES.get(name)
    if rule is None:
        raise Untraceable(f"{name} isn't among programs' operations")
    return rule
