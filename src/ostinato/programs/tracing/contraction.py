"""Products of tensors, whose axes are labelled as in `einsum`.

Of rows by weights they become a product by a matrix; of rows by rows, a sum over the contracted
axes of what's multiplied element by element.
"""

import math
from collections.abc import Iterable

from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation

MIXES = "it mixes the rows of the batch"
MOST_PLACES = 32  # so many products by parts of a weight, one of each place that operands share


def contract(t: Translation, a: Term, left: str, b: Term, right: str, out: str) -> Term:
    """What einsum makes of two operands; the axes of these and of the result are labelled.

    Raises:
        Untraceable: It'd mix the rows of the batch.
    """
    rows = {labels[0] for term, labels in ((a, left), (b, right)) if term.fold}
    if len(rows) > 1 or (rows and out[:1] not in rows):
        raise Untraceable(MIXES)
    return _Contraction(t, {**_sizes(a, left), **_sizes(b, right)}).result(a, left, b, right, out)


def _sizes(term: Term, labels: str) -> dict[str, int]:
    if len(set(labels)) != len(labels):
        raise Untraceable("it takes a diagonal")
    return dict(zip(labels, term.shape, strict=True))


class _Contraction:
    """One contraction: the size of each label."""

    def __init__(self, t: Translation, sizes: dict[str, int]) -> None:
        self.t, self.sizes = t, sizes

    def shape(self, labels: Iterable[str]) -> list[int]:
        return [self.sizes[label] for label in labels]

    def laid(self, x: Term, labels: str, order: str, shape: Iterable[int] | None = None) -> Term:
        """An operand with its axes in an order, and in a shape."""
        x = self.t.transpose(x, [labels.index(label) for label in order])
        return x if shape is None else self.t.reshape(x, list(shape))

    def summed(self, x: Term, labels: str, wanted: set[str]) -> tuple[Term, str]:
        """An operand with what's only its own, and not wanted, summed over."""
        gone = tuple(axis for axis, label in enumerate(labels) if label not in wanted)
        kept = "".join(label for label in labels if label in wanted)
        return (self.t.reduce("sum", x, gone), kept) if gone else (x, labels)

    def result(self, a: Term, left: str, b: Term, right: str, out: str) -> Term:
        a, left = self.summed(a, left, {*right, *out})
        b, right = self.summed(b, right, {*left, *out})
        if not a.fold:
            a, left, b, right = b, right, a, left
        inner = "".join(label for label in left if label in right and label not in out)
        if inner and a.fold and not b.fold:
            made, labels = self.by_matrix(a, left, b, right, inner)
        else:
            made, labels = self.by_elements(a, left, b, right, inner)
        return self.laid(made, labels, out)

    def by_matrix(self, a: Term, left: str, w: Term, right: str, inner: str) -> tuple[Term, str]:
        """Rows by a weight."""
        shared = "".join(label for label in left if label in right and label not in inner)
        if shared:
            return self.place_by_place(a, left, w, right, inner, shared[0])
        free = "".join(label for label in left if label not in inner)
        own = "".join(label for label in right if label not in inner)
        size = math.prod(self.shape(inner))
        a = self.laid(a, left, free + inner, [*self.shape(free), size])
        w = self.laid(w, right, inner + own, [size, math.prod(self.shape(own))])
        value = self.t.add("product", a.value, w.value, attributes=(False,))
        made = self.t.of(value, a.fold)
        return self.t.reshape(made, self.shape(free + own)), free + own

    def place_by_place(
        self, a: Term, left: str, w: Term, right: str, inner: str, shared: str
    ) -> tuple[Term, str]:
        """Where operands share an axis that isn't summed: a product for each of its places."""
        size = self.sizes[shared]
        if size > MOST_PLACES or math.prod(self.shape(inner)) == 1:
            return self.by_elements(a, left, w, right, inner)
        rest_left, rest_right = left.replace(shared, ""), right.replace(shared, "")
        made, labels = [], ""
        for place in range(size):
            parts = (
                self.t.reshape(self.t.part(x, names.index(shared), place, 1), self.shape(rest))
                for x, names, rest in ((a, left, rest_left), (w, right, rest_right))
            )
            part, labels = self.by_matrix(next(parts), rest_left, next(parts), rest_right, inner)
            made.append(self.t.reshape(part, [*part.shape, 1]))
        return self.t.joined(made, -1), labels + shared

    def by_elements(self, a: Term, left: str, b: Term, right: str, inner: str) -> tuple[Term, str]:
        """Operands laid side by side, multiplied, and summed over what's contracted."""
        shared = "".join(label for label in left if label in right and label not in inner)
        free = "".join(label for label in left if label not in right)
        own = "".join(label for label in right if label not in left)
        order = shared + free + own + inner
        if a.fold:  # the rows come first, also where the second operand has none
            order = left[0] + order.replace(left[0], "")
        made = self.t.apply("mul", self.spread(a, left, order), self.spread(b, right, order))
        kept = order[: len(order) - len(inner)]
        if inner:
            made = self.t.reduce("sum", made, tuple(range(len(kept), len(order))))
        return made, kept

    def spread(self, x: Term, labels: str, order: str) -> Term:
        """An operand with an axis for each label, of one place where it hasn't that label."""
        own = "".join(label for label in order if label in labels)
        shape = [self.sizes[label] if label in labels else 1 for label in order]
        return self.laid(x, labels, own, shape)
