"""Programs put together at random: every kind of value, view, sum and product."""

import math
import random

from ostinato.programs.graph import Graph, program_of

SMOOTH = ["neg", "tanh", "sigmoid", "sin", "cos", "square", "softplus", "arctan", "silu", "arcsinh"]
BINARY = ["add", "sub", "mul"]
MOST = 300  # elements a row


class Maker:
    """Makes one program."""

    def __init__(self, seed):
        self.rng, self.graph, self.weights = random.Random(seed), Graph(), []
        rng = self.rng
        self.inputs = ((rng.randint(1, 5),), (rng.randint(1, 3), 2))
        self.states = ((rng.randint(1, 5),), (rng.randint(1, 3), rng.randint(1, 4)))
        self.constants = ((rng.randint(1, 4),),)
        kinds = ("input", self.inputs), ("state", self.states), ("constant", self.constants)
        self.values = [
            self.graph.leaf(kind, number, shape)
            for kind, shapes in kinds
            for number, shape in enumerate(shapes)
        ]

    def shape(self, value):
        return self.graph[value].shape

    def weight(self, *shape):
        self.weights.append(tuple(shape))
        return self.graph.leaf("weight", len(self.weights) - 1, tuple(shape))

    def reshaped(self, value, *shape):
        return self.graph.add("reshape", value, attributes=(shape,))

    def fitted(self, value, shape):
        """A value made into one of a shape: by a product where the sizes differ."""
        if self.shape(value) == tuple(shape):
            return value
        size, wanted = math.prod(self.shape(value)), math.prod(shape)
        flat = self.reshaped(value, size)
        if self.rng.random() < 0.7 or size != wanted:
            flat = self.graph.product(flat, self.weight(size, wanted), attributes=(False,))
            if self.rng.random() < 0.5:
                flat = self.graph.add("add", flat, self.weight(wanted))
        return self.reshaped(flat, *shape)

    def program(self):
        for _ in range(self.rng.randint(3, 16)):
            value = self.rng.choice(self.values)
            kinds = [self.unary, self.binary, self.chosen, self.turned]
            if self.shape(value):
                kinds += [self.cut, self.joined, self.summed, self.spread, self.multiplied]
            if self.shape(value) and self.shape(value)[0] >= 2:
                kinds.append(self.windows)
            made = self.rng.choice(kinds)(value)
            if math.prod(self.shape(made)) <= MOST:
                self.values.append(made)
        outputs = [self.rng.choice(self.values[-4:]) for _ in range(self.rng.randint(1, 2))]
        states = [
            self.graph.tanh(self.fitted(self.rng.choice(self.values[-6:]), shape))
            for shape in self.states
        ]
        return program_of(
            self.graph,
            outputs,
            states,
            input_shapes=self.inputs,
            state_shapes=self.states,
            constant_shapes=self.constants,
            weight_shapes=tuple(self.weights),
            fixed=frozenset([("input", 1)] if self.rng.random() < 0.3 else []),
        )

    def unary(self, value):
        return self.graph.add(self.rng.choice(SMOOTH), value)

    def binary(self, value):
        shape = self.shape(value)
        others = [
            lambda: self.fitted(self.rng.choice(self.values), shape),
            lambda: self.weight(*(self.rng.choice([1, size]) for size in shape)),
            lambda: self.graph.literal(self.rng.uniform(-1, 1)),
        ]
        arguments = [value, self.rng.choice(others)()]
        self.rng.shuffle(arguments)
        return self.graph.add(self.rng.choice(BINARY), *arguments)

    def chosen(self, value):
        flags = self.graph.gt(value, self.graph.literal(0.1))
        return self.graph.select(flags, self.graph.sin(value), self.graph.literal(-0.3))

    def turned(self, value):
        axes = list(range(len(self.shape(value))))
        self.rng.shuffle(axes)
        return self.graph.add("transpose", value, attributes=(tuple(axes),))

    def cut(self, value):
        starts, steps, sizes = [], [], []
        for size in self.shape(value):
            step, start = self.rng.choice([1, 1, 2, -1]), self.rng.randrange(size)
            most = (size - 1 - start) // step + 1 if step > 0 else start + 1
            starts.append(start)
            steps.append(step)
            sizes.append(self.rng.randint(1, most))
        places = (tuple(starts), tuple(steps), tuple(sizes))
        return self.graph.add("slice", value, attributes=places)

    def joined(self, value):
        shape, parts, places = list(self.shape(value)), [], []
        axis, end = self.rng.randrange(len(shape)), 0
        for _ in range(self.rng.randint(1, 3)):
            shape[axis] = self.rng.randint(1, 3)
            part = self.fitted(self.rng.choice(self.values), shape)
            parts.append(self.unary(part) if self.rng.random() < 0.5 else part)
            end += self.rng.choice([0, 0, 1])  # a gap of zeros
            starts = [0] * len(shape)
            starts[axis] = end
            places.append((tuple(starts), (1,) * len(shape)))
            end += shape[axis]
        shape[axis] = end + self.rng.choice([0, 1])
        return self.graph.add("assemble", *parts, attributes=(tuple(shape), tuple(places)))

    def summed(self, value):
        axes = tuple(n for n in range(len(self.shape(value))) if self.rng.random() < 0.5)
        return self.graph.add(self.rng.choice(["sum", "sum", "amax"]), value, attributes=(axes,))

    def spread(self, value):
        shape = self.shape(value)
        at = self.rng.randrange(len(shape) + 1)
        thin = self.reshaped(value, *shape[:at], 1, *shape[at:])
        return self.graph.add("broadcast", thin, attributes=((*shape[:at], 3, *shape[at:]),))

    def windows(self, value):
        width, stride = self.rng.randint(1, 2), self.rng.randint(1, 2)
        dilation = self.rng.randint(1, self.shape(value)[0] - 1) if width > 1 else 1
        return self.graph.add("windows", value, attributes=((width,), (stride,), (dilation,)))

    def multiplied(self, value):
        weight = self.weight(self.shape(value)[-1], self.rng.randint(1, 4))
        return self.graph.product(value, weight, attributes=(False,))
