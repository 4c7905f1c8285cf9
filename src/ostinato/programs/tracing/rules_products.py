"""Keras's products of tensors in programs' ones; rules as in rules_elementwise."""

from string import ascii_letters
from typing import Any

from ostinato.programs.tracing.contraction import contract
from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rules_elementwise import Rule
from ostinato.programs.tracing.rules_reductions import softmax
from ostinato.programs.tracing.rules_shapes import padded_by
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation


def _matmul(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    a, b = t.term(x1), t.term(x2)
    left, right = _matrix_labels(a.rank, b.rank)
    a, left = _without_ones(t, a, left, 2, b, right)
    b, right = _without_ones(t, b, right, 2, a, left)
    batch = left[:-2] if len(left) >= len(right) else right[:-2]
    batch += "".join(label for label in right[:-2] if label not in batch)
    batch = "".join(sorted(batch, key=ascii_letters.index))
    out = batch + ("y" if a.rank > 1 else "") + ("z" if b.rank > 1 else "")
    made = contract(t, a, left, b, right, out)
    rank = max(t.term(x1).rank, t.term(x2).rank)
    shape = [1] * (rank - made.rank - (a.rank == 1) - (b.rank == 1)) + list(made.shape)
    return made if len(shape) == made.rank or made.fold else t.reshape(made, shape)


def _matrix_labels(first: int, second: int) -> tuple[str, str]:
    """The labels of operands of `matmul`: the last of the batch axes lie beside one another."""
    count = max(first, second) - 2
    batch = ascii_letters[: max(count, 0)]
    left = "x" if first == 1 else batch[count - first + 2 :] + "yx"
    right = "x" if second == 1 else batch[count - second + 2 :] + "xz"
    return left, right


def _without_ones(
    t: Translation, x: Term, labels: str, last: int, other: Term, others: str
) -> tuple[Term, str]:
    """An operand without the axes of one place along which the other one spreads it."""
    gone = [
        axis
        for axis, label in enumerate(labels[: max(len(labels) - last, 0)])
        if x.shape[axis] == 1 and label in others
    ]
    if not gone:
        return x, labels
    shape = [size for axis, size in enumerate(x.shape) if axis not in gone]
    kept = "".join(label for axis, label in enumerate(labels) if axis not in gone)
    return t.reshape(x, shape), kept


def _dot(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    a, b = t.term(x1), t.term(x2)
    if not a.rank or not b.rank:
        return t.apply("mul", a, b)
    left = ascii_letters[: a.rank - 1] + "z"
    right = ascii_letters[10 : 10 + b.rank]
    place = max(b.rank - 2, 0)
    right = right[:place] + "z" + right[place + 1 :]
    return contract(t, a, left, b, right, (left + right).replace("z", ""))


def _inner(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    a, b = t.term(x1), t.term(x2)
    left, right = ascii_letters[: a.rank - 1] + "z", ascii_letters[10 : 9 + b.rank] + "z"
    return contract(t, a, left, b, right, (left + right).replace("z", ""))


def _tensordot(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    a, b = t.term(x1), t.term(x2)
    axes = op.axes
    if isinstance(axes, int):
        first, second = list(range(a.rank - axes, a.rank)), list(range(axes))
    else:
        first, second = ([x] if isinstance(x, int) else list(x) for x in axes)
    left, right = ascii_letters[: a.rank], list(ascii_letters[10 : 10 + b.rank])
    for one, other in zip(first, second, strict=True):
        right[other % b.rank] = left[one % a.rank]
    out = [label for label in left if label not in right]
    out += [label for label in right if label not in left]
    return contract(t, a, left, b, "".join(right), "".join(out))


def _einsum(t: Translation, op: Any, *operands: Any, **kwargs: Any) -> Term:
    terms = [t.term(x) for x in operands]
    ins, out = _labels(op.subscripts, [term.rank for term in terms])
    made, labels = terms[0], ins[0]
    if len(terms) == 1:
        return contract(t, made, labels, t.literal(1.0), "", out)
    for place in range(1, len(terms)):
        wanted = {*"".join(ins[place + 1 :]), *out}
        is_last = place == len(terms) - 1
        both = "".join(dict.fromkeys(labels + ins[place]))
        if terms[place].fold and not made.fold:
            both = "".join(dict.fromkeys(ins[place] + labels))
        kept = out if is_last else "".join(label for label in both if label in wanted)
        made = contract(t, made, labels, terms[place], ins[place], kept)
        labels = kept
    return made


def _labels(subscripts: str, ranks: list[int]) -> tuple[list[str], str]:
    """The labels of einsum's operands and of its result, spelled out."""
    subscripts = subscripts.replace(" ", "")
    given, arrow, out = subscripts.partition("->")
    ins = given.split(",")
    free = [label for label in ascii_letters if label not in subscripts]
    hidden = [rank - len(labels) + 3 for rank, labels in zip(ranks, ins, strict=True)]
    dots = free[
        : max((n for n, labels in zip(hidden, ins, strict=True) if "." in labels), default=0)
    ]
    spelled = []
    for labels, count in zip(ins, hidden, strict=True):
        spelled.append(labels.replace("...", "".join(dots[len(dots) - count :])))
    if arrow:
        return spelled, out.replace("...", "".join(dots))
    every = "".join(spelled)
    once = sorted(label for label in set(every) - set(dots) if every.count(label) == 1)
    return spelled, "".join(dots) + "".join(once)


def _attention(t: Translation, op: Any, *operands: Any, **settings: Any) -> Term:
    """Attention of queries (B, T, N, H) to keys and values (B, S, N, H)."""
    named = dict(zip(("query", "key", "value", "bias", "mask", "scale"), operands, strict=False))
    named.update(settings)
    cap = "attn_logits_soft_cap"  # an argument of the call in Keras 3.10, of the operation since
    others = (named.get("bias"), named.get("mask"), named.get(cap), getattr(op, cap, None))
    if op.is_causal or any(other is not None for other in others):
        raise Untraceable("with a mask, a bias or a cap it isn't among programs' operations")
    query, key, value = (t.term(named[name]) for name in ("query", "key", "value"))
    scale = named.get("scale")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    scores = contract(t, query, "btnh", key, "bsnh", "bnts")
    weights = softmax(t, t.apply("mul", scores, t.literal(scale)), -1)
    return contract(t, weights, "bnts", value, "bsnh", "btnh")


def _outer(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    a, b = t.term(x1), t.term(x2)
    if a.rank != 1 or b.rank != 1:
        raise Untraceable("it makes one axis of all of an operand's")
    return contract(t, a, "a", b, "b", "ab")


def _cumsum(t: Translation, op: Any, x: Term) -> Term:
    """Sums of twice as many elements in each step; a product by ones would spread NaN backwards."""
    if op.axis is None:
        raise Untraceable("it goes through all axes as one")
    place, size = t.axis(x, op.axis), x.shape[op.axis]
    widths = [(0, 0)] * len(t.graph[x.value].shape)
    apart = 1
    while apart < size:
        widths[place] = (apart, 0)
        before = padded_by(t, t.part(x, op.axis, 0, size - apart), widths)
        x, apart = t.apply("add", x, before), 2 * apart
    return x


def _diff(t: Translation, op: Any, a: Term) -> Term:
    for _ in range(op.n):
        count = a.shape[op.axis] - 1
        a = t.apply("sub", t.part(a, op.axis, 1, count), t.part(a, op.axis, 0, count))
    return a


PRODUCTS: dict[str, Rule] = {
    "Matmul": _matmul,
    "Dot": _dot,
    "Inner": _inner,
    "Tensordot": _tensordot,
    "Einsum": _einsum,
    "Outer": _outer,
    "DotProductAttention": _attention,
    "Cumsum": _cumsum,
    "Diff": _diff,
}
