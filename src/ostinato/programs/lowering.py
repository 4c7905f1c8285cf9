"""A graph's wanted values as items in an order, each value with a place to lie in.

Elementwise operations have no place as long as they're used where they're made: they become part of
the maps that use them.
"""

import math
from collections.abc import Mapping, Sequence

from ostinato.programs.items import ADD, LARGEST, STORE, SUM, Item, Map, Out, Outer, Products, Term
from ostinato.programs.lowered import Lowered, Scratch, Wanted
from ostinato.programs.node import LITERAL, Node, Shape, Value
from ostinato.programs.places import (
    NUMBER,
    OPERAND,
    SAVED,
    SAVED_NEXT,
    SCRATCH,
    VIEWS,
    Place,
    as_matrix,
    dense,
    reshaped,
    seen_as,
    sliced,
    windowed,
)
from ostinato.programs.uses import Uses

# Where a value may lie that an outer product reads some steps later.
_LASTING = {OPERAND, SAVED, SAVED_NEXT}


def lower(
    nodes: Sequence[Node],
    located: Mapping[Value, Place],
    wanted: Sequence[Wanted],
    placed: frozenset[Value] = frozenset(),
    scratches: Sequence[Scratch] = (),
) -> Lowered:
    """The items of a step.

    Args:
        nodes: A graph.
        located: Where those values lie that are given: leaves, and what a training run kept.
        wanted: What has to be done.
        placed: Elementwise values that are to have a place, since several items use them.
        scratches: Another step's memory, after which this one's comes.
    """
    return _Lowering(nodes, located, wanted, placed, scratches).run()


class _Lowering:
    def __init__(
        self,
        nodes: Sequence[Node],
        located: Mapping[Value, Place],
        wanted: Sequence[Wanted],
        placed: frozenset[Value],
        scratches: Sequence[Scratch],
    ) -> None:
        self.nodes = nodes
        self.given = dict(located)
        for value, node in enumerate(nodes):
            if node.operation == LITERAL:
                self.given[value] = Place(NUMBER, value, 0, ())
        self.wanted = _split_sums(nodes, wanted)
        self.result = Lowered(nodes, places=dict(self.given), scratches=list(scratches))
        self.stored: dict[Value, list[Place]] = {}
        for each in self.wanted:
            if not each.adds:
                self.stored.setdefault(each.value, []).append(each.place)
        values = [each.value for each in self.wanted]
        self.uses = Uses(nodes, self.given, values, self.stored)
        self.done: set[Value] = set()
        self.needs_place = set(placed)
        self.wholes: dict[Value, Value] = {}  # of parts that are made in their places
        self.filled: dict[Value, set[int]] = {}
        self.matrices: dict[Value, tuple[Place, set[int]]] = {}
        self._find_places()

    def run(self) -> Lowered:
        self._make_long_chains()
        for each in self.wanted:
            if each.adds:
                self._add(each.value, each.place)
            else:
                self._ensure(each.value, each.place)
        return self.result

    # Which elementwise values have a place, and which places are settled beforehand.

    def _find_places(self) -> None:
        places = self.result.places
        for value, stored in self.stored.items():
            if value not in self.given and not self._is_view(value):
                places[value] = stored[0]
        for value in reversed(self.uses.order):
            node = self.nodes[value]
            if value in self.given:
                continue
            if node.operation == "assemble":
                self._place_parts(value, node)
            elif not self.uses.is_elementwise(value) and node.operation not in ("sum", "amax"):
                self.needs_place.update(self.uses.arguments(value))
            elif self.uses.is_elementwise(value):
                self.needs_place.update(
                    argument
                    for argument in node.arguments
                    if self.nodes[argument].shape != node.shape
                )

    def _make_long_chains(self) -> None:
        """Of a solver's many rounds what has a place is made in order: else one calls the next."""
        deep = self.uses.chain_ends()
        if deep:
            self.needs_place |= deep
            for value in self.uses.order:
                if value in self.needs_place and value not in self.given:
                    self._place_of_made(value)

    def _place_parts(self, value: Value, node: Node) -> None:
        whole = self._place_of(value)
        for part, (starts, steps) in zip(node.arguments, node.attributes[1], strict=True):
            is_made_here = self.uses.is_elementwise(part) and not self.uses.is_sum_of_products(part)
            is_made_here = is_made_here or self.nodes[part].operation == "assemble"
            if is_made_here and part not in self.given and part not in self.result.places:
                self.result.places[part] = sliced(whole, starts, steps)
                self.wholes[part] = value
            self.needs_place.add(part)

    def _place_of(self, value: Value) -> Place:
        if value not in self.result.places:
            self.result.places[value] = self._scratch(self.nodes[value].shape)
        return self.result.places[value]

    def _scratch(self, shape: Shape, lasts: bool = False) -> Place:
        self.result.scratches.append(Scratch(math.prod(shape), lasts))
        return dense(SCRATCH, len(self.result.scratches) - 1, shape)

    def _is_view(self, value: Value) -> bool:
        return self.nodes[value].operation in VIEWS

    # Items.

    def _append(self, item: Item, value: Value | None = None) -> int:
        number = len(self.result.items)
        self.result.items.append(item)
        if value is not None:
            self.result.made_by.setdefault(value, set()).add(number)
        return number

    def makers(self, value: Value) -> set[int]:
        """The items after which a value lies where it lies."""
        if value in self.given:
            return set()
        if value in self.result.made_by:
            return self.result.made_by[value]
        if self._is_view(value):
            return self.makers(self.nodes[value].arguments[0])
        return set()

    def _ensure(self, value: Value, at: Place) -> None:
        """Has a value made, and put where it's wanted."""
        self._make(value)
        if value in self.given or self._is_view(value):
            item = Map(shape=self.nodes[value].shape, value=value, outs=[Out(STORE, at)])
            item.after |= self.makers(value)
            self._append(item)

    def _make(self, value: Value) -> None:
        if value in self.done or value in self.given:
            return
        self.done.add(value)
        node = self.nodes[value]
        if self._is_view(value):
            self._make_view(value)
        elif self.uses.is_sum_of_products(value):
            self._make_products(value)
        elif self.uses.is_elementwise(value):
            self._make_map(value)
        elif node.operation in ("sum", "amax"):
            self._make_reduction(value, node)
        elif node.operation == "assemble":
            self._make_assembly(value, node)
        elif node.operation == "overlap":
            self._make_overlap(value, node)
        else:
            raise ValueError(f"{node.operation} can't be done in a step")

    def _make_view(self, value: Value) -> None:
        base = self.nodes[value].arguments[0]
        self._place_of_made(base)
        if self.result.located(value) is None:
            self._copy_base_in_order(value, base)

    def _place_of_made(self, value: Value) -> None:
        if not self._is_view(value) and value not in self.given:
            self._place_of(value)
        self._make(value)

    def _copy_base_in_order(self, value: Value, base: Value) -> None:
        """A view that no strides can say: what it's of is put in order first."""
        shape = self.nodes[base].shape
        place = self._scratch(shape)
        item = Map(shape=shape, value=base, outs=[Out(STORE, place)])
        item.after |= self.makers(base)
        number = self._append(item)
        seen = seen_as(place, shape, self.nodes[value])
        assert seen is not None
        self.result.places[value] = seen
        self.result.made_by[value] = {number}

    def _make_map(self, value: Value) -> None:
        place = self._place_of(value)
        places = [place, *self.stored.get(value, [])[1:]]
        if value in self.stored and place != self.stored[value][0]:
            places.append(self.stored[value][0])
        item = Map(
            shape=self.nodes[value].shape,
            value=value,
            outs=[Out(STORE, each) for each in dict.fromkeys(places)],
        )
        self._read(item, *self.uses.arguments(value))
        if value in self.wholes:
            item.after |= self._filled(self.wholes[value])
        self._append(item, value)

    def _read(self, item: Map, *values: Value) -> None:
        """Makes what an item reads, and has the item come after that.

        Each value once, however many ways lead there: of a chain whose every link is used twice
        there are more ways than could ever be gone.
        """
        waiting, seen = [*reversed(values)], set[Value]()
        while waiting:
            value = waiting.pop()
            if value in seen or value in self.given:
                continue
            seen.add(value)
            if self._is_inlined(value):
                waiting += reversed(self.uses.arguments(value))
                continue
            self._place_of_made(value)
            is_beside = (
                self.uses.is_elementwise(value)
                and self.nodes[value].shape == item.shape
                and not self.uses.is_sum_of_products(value)
            )
            (item.beside if is_beside else item.after).update(self.makers(value))

    def _is_inlined(self, value: Value) -> bool:
        return (
            self.uses.is_elementwise(value)
            and value not in self.result.places
            and value not in self.needs_place
            and not self.uses.is_sum_of_products(value)
        ) or (self.uses.is_elementwise(value) and not self.nodes[value].has_rows)

    def _make_reduction(self, value: Value, node: Node) -> None:
        (argument,), (axes,) = node.arguments, node.attributes
        shape = self.nodes[argument].shape
        mode = SUM if node.operation == "sum" else LARGEST
        place = self._place_of(value)
        out = Out(mode, _thinned(place, shape, axes))
        item = Map(shape=shape, value=argument, outs=[out])
        self._read(item, argument)
        self._append(item, value)
        self._copy_rest(value)

    def _copy_rest(self, value: Value) -> None:
        """Puts a value that an item makes in one place into the others where it's wanted."""
        for place in self.stored.get(value, []):
            if place != self.result.places[value]:
                item = Map(shape=self.nodes[value].shape, value=value, outs=[Out(STORE, place)])
                item.after |= self.makers(value)
                self._append(item)

    def _make_assembly(self, value: Value, node: Node) -> None:
        whole, places = self._place_of(value), node.attributes[1]
        self._filled(value)
        for part, (starts, steps) in zip(node.arguments, places, strict=True):
            self._place_of_made(part)
            mine = sliced(whole, starts, steps)
            makers = self.result.made_by.setdefault(value, set())
            if self.result.places.get(part) == mine:
                makers |= self.makers(part)
                continue
            item = Map(shape=self.nodes[part].shape, value=part, outs=[Out(STORE, mine)])
            item.after |= self.makers(part) | self._filled(value)
            makers.add(self._append(item))
        self._copy_rest(value)

    def _filled(self, value: Value) -> set[int]:
        """The item that fills an assembled value with zeros, where its parts leave some."""
        if value not in self.filled:
            node = self.nodes[value]
            outer = self._filled(self.wholes[value]) if value in self.wholes else set()
            covered = sum(math.prod(self.nodes[part].shape) for part in node.arguments)
            if covered < math.prod(node.shape):
                item = Map(shape=node.shape, outs=[Out(STORE, self._place_of(value))])
                item.after |= outer
                outer = {self._append(item, value)}
            self.filled[value] = outer
        return self.filled[value]

    def _make_overlap(self, value: Value, node: Node) -> None:
        (argument,) = node.arguments
        _, _, strides, dilations = node.attributes
        shape = self.nodes[argument].shape
        place = self._place_of(value)
        fill = Map(shape=node.shape, outs=[Out(STORE, place)])
        if value in self.wholes:
            fill.after |= self._filled(self.wholes[value])
        item = Map(
            shape=shape, value=argument, outs=[Out(ADD, windowed(place, strides, dilations))]
        )
        item.after.add(self._append(fill))
        self._read(item, argument)
        self._append(item, value)
        self._copy_rest(value)

    # Products.

    def _make_products(self, value: Value) -> None:
        item, shape = Products(), self.nodes[value].shape
        self._collect(value, item)
        place = self._place_of(value)
        if as_matrix(place, shape) is None:
            own = self._scratch(shape)
            self.result.places[value] = own
            self.stored.setdefault(value, []).append(place)
            place = own
        item.out = self._as_rows(place, shape)
        self._append(item, value)
        self._copy_rest(value)

    def _collect(self, value: Value, item: Products) -> None:
        node = self.nodes[value]
        if node.operation == "add":
            for argument in node.arguments:
                if self.uses.is_bias(argument, node):
                    item.bias = self.given[argument]
                else:
                    self._collect(argument, item)
            return
        left, weight = node.arguments
        place, after = self._matrix(left)
        item.after |= after
        shape = self.nodes[left].shape
        sizes = (math.prod(shape[:-1]), shape[-1], node.shape[-1])
        operand = self.given[weight]
        item.terms.append(Term(place, operand.number, bool(node.attributes[0]), sizes))

    def _matrix(self, value: Value) -> tuple[Place, set[int]]:
        """Where a value lies as an operand of a product, and after which items."""
        if value not in self.matrices:
            self._place_of_made(value)
            place, after = self.result.located(value), self.makers(value)
            shape = self.nodes[value].shape
            if place is None or self._is_no_row(value) or as_matrix(place, shape) is None:
                place, number = self._copied(value, lasts=False)
                after = {number}
            self.matrices[value] = self._as_rows(place, shape), after
        return self.matrices[value]

    def _is_no_row(self, value: Value) -> bool:
        """Whether it's a weight, or a number, the same for every row."""
        if value not in self.given and self._is_view(value):
            return self._is_no_row(self.nodes[value].arguments[0])
        return not self.nodes[value].has_rows

    def _copied(self, value: Value, lasts: bool) -> tuple[Place, int]:
        shape = self.nodes[value].shape
        place = self._scratch(shape, lasts)
        item = Map(shape=shape, value=value, outs=[Out(STORE, place)])
        item.after |= self.makers(value)
        return place, self._append(item)

    def _as_rows(self, place: Place, shape: Shape) -> Place:
        matrix = as_matrix(place, shape)
        assert matrix is not None
        return place._replace(strides=(matrix[1],))

    def _lasting(self, value: Value) -> tuple[Place, set[int]]:
        """As `_matrix`, in memory that outlives the step."""
        place, after = self._matrix(value)
        if place.space in _LASTING:
            return place, after
        if place.space == SCRATCH:
            self.result.scratches[place.number].lasts = True
            return place, after
        copy, number = self._copied(value, lasts=True)
        return self._as_rows(copy, self.nodes[value].shape), {number}

    # What is added to.

    def _add(self, value: Value, place: Place) -> None:
        node = self.nodes[value]
        if node.operation == "outer":
            self._add_outer(node, place)
        elif node.operation == "row_sum":
            self._add(node.arguments[0], place)
        elif node.operation == "reshape" and value not in self.done:
            (argument,) = node.arguments
            seen = reshaped(place, node.shape, self.nodes[argument].shape)
            if seen is None:
                self._add_map(value, place)
            else:
                self._add(argument, seen)
        elif node.operation == "sum" and value not in self.done:
            (argument,), (axes,) = node.arguments, node.attributes
            shape = self.nodes[argument].shape
            self._add_map(argument, _thinned(place, shape, axes))
        else:
            self._add_map(value, place)

    def _add_map(self, value: Value, place: Place) -> None:
        item = Map(shape=self.nodes[value].shape, value=value, outs=[Out(ADD, place)])
        self._read(item, value)
        self._append(item)

    def _add_outer(self, node: Node, place: Place) -> None:
        left, right = node.arguments
        shape = self.nodes[left].shape
        item = Outer(sizes=(math.prod(shape[:-1]), node.shape[0], node.shape[1]), out=place)
        item.left, after = self._lasting(left)
        item.right, before = self._lasting(right)
        item.after |= after | before
        self._append(item)


def _thinned(place: Place, shape: Shape, axes: Sequence[int]) -> Place:
    """A reduced value's place, along the axes of what it's reduced from."""
    strides = iter(place.strides)
    wide = tuple(0 if axis in axes else next(strides) for axis in range(len(shape)))
    return place._replace(strides=wide)


def _split_sums(nodes: Sequence[Node], wanted: Sequence[Wanted]) -> list[Wanted]:
    """Gradients of weights that are sums, term by term: all are added to one place."""
    found: list[Wanted] = []
    for each in wanted:
        node = nodes[each.value]
        if each.adds and not node.has_rows and node.operation == "add":
            terms = [Wanted(argument, each.place, True) for argument in node.arguments]
            found += _split_sums(nodes, terms)
        else:
            found.append(each)
    return found
