"""Routines run in NumPy from their encoding alone: slow, plain, and written apart from the core."""

import math

import numpy as np
from scipy import special

OPERAND, RESULT, CARRY, NEXT, SCRATCH, SAVED, SAVED_NEXT, NUMBER = range(8)

SIGMOID = special.expit
UNARY = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "reciprocal": np.reciprocal,
    "tanh": np.tanh,
    "sigmoid": SIGMOID,
    "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.maximum(x, 0),
    "erf": special.erf,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "arcsin": np.arcsin,
    "arccos": np.arccos,
    "arctan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "arcsinh": np.arcsinh,
    "arccosh": np.arccosh,
    "arctanh": np.arctanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "trunc": np.trunc,
    "logical_not": lambda x: x == 0,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
    "silu": lambda x: x * SIGMOID(x),
    "d_silu": lambda x: SIGMOID(x) * (1 + x * (1 - SIGMOID(x))),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / math.sqrt(2))),
    "d_gelu": lambda x: (
        0.5 * (1 + special.erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    ),
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "mod": np.mod,
    "floordiv": np.floor_divide,
    "arctan2": np.arctan2,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
TERNARY = {
    "select": lambda a, b, c: np.where(a != 0, b, c),
    "fma": lambda a, b, c: a * b + c,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
}
FUNCTIONS = {**UNARY, **BINARY, **TERNARY}


class Reader:
    def __init__(self, ints):
        self.ints, self.at = list(ints), 0

    def next(self):
        self.at += 1
        return self.ints[self.at - 1]

    def many(self, count):
        return [self.next() for _ in range(count)]


class Interpreter:
    """One routine, its tables read."""

    def __init__(self, ints, floats, names):
        read = Reader(ints)
        assert read.next() == 1
        self.names, self.floats = names, floats
        self.reverse = read.next()
        self.operands = [(*read.many(2), read.many(read.next())) for _ in range(read.next())]
        self.results = [(*read.many(3), read.many(read.next())) for _ in range(read.next())]
        self.carries = [read.many(3) for _ in range(read.next())]
        self.saved = [read.many(2) for _ in range(read.next())]
        self.scratch = [read.many(3) for _ in range(read.next())]
        self.arena = read.next()
        self.body = self._instructions(read)
        self.idle = self._instructions(read)
        assert read.at == len(read.ints)

    def _instructions(self, read):
        return [(read.next(), read.many(read.next())) for _ in range(read.next())]

    def run(self, operands, go_backwards=0, flip_outputs=0, return_sequences=1):
        self.given = [np.asarray(x, float if x.dtype != bool else bool) for x in operands]
        self.B, self.T = self.given[0].shape[:2]
        self.flags = (go_backwards, flip_outputs)
        self.return_sequences = return_sequences
        self.made = [self._empty(*result) for result in self.results]
        self.memory = [np.full((self.T + 1, self.B, n), np.nan) for n, _ in self.saved]
        self.rings = [np.full((self.B, n), np.nan) for n, _, _ in self.scratch]
        self.arena_memory = np.full((self.B, self.arena), np.nan)
        if any(kind == 4 for kind, *_ in self.operands):
            place = next(i for i, (kind, *_) in enumerate(self.operands) if kind == 4)
            parts = np.split(self.given[place].reshape(-1), self._bases()[1:-1])
            self.memory = [
                part.reshape(m.shape) for part, m in zip(parts, self.memory, strict=False)
            ]
        self.now = [self.given[i].reshape(self.B, n).copy() for n, i, _ in self.carries]
        steps = range(self.T)
        for s in reversed(steps) if self.reverse else steps:
            self._step(s)
        for result, (kind, _, which, dims) in zip(self.made, self.results, strict=False):
            if kind == 3:
                result[...] = self.now[which].reshape(self.B, *dims)
            if kind == 5:
                result[...] = np.concatenate([m.reshape(-1) for m in self.memory]).reshape(
                    result.shape
                )
        return self.made

    def _bases(self):
        return np.cumsum([0, *((self.T + 1) * self.B * n for n, _ in self.saved)])

    def _empty(self, kind, order, which, dims):
        sequence = kind == 0 or (kind == 1 and self.return_sequences)
        if kind == 5:
            return np.full((self.T + 1, self.B, sum(n for n, _ in self.saved)), np.nan)
        if kind == 4:
            return np.zeros(dims)
        if kind == 2:
            return np.zeros((self.B, *dims))
        return np.full((self.B, self.T, *dims) if sequence else (self.B, *dims), np.nan)

    def _step(self, s):
        self.s = s
        self.next = [np.full_like(carry, np.nan) for carry in self.now]
        for (_, _, kept), carry in zip(self.carries, self.now, strict=False):
            if kept >= 0:
                self.memory[kept][s] = carry
        mask = next(
            (x for x, (kind, *_) in zip(self.given, self.operands, strict=False) if kind == 3), None
        )
        idle = mask is not None and not mask[:, self._time(0)].any()
        for code, payload in self.idle if idle else self.body:
            (None, self._product, self._outer, self._map)[code](Reader(payload))
        self.now = self.next
        for (_, _, kept), carry in zip(self.carries, self.now, strict=False):
            if kept >= 0:
                self.memory[kept][s + 1] = carry

    def _time(self, order):
        return self.T - 1 - self.s if self.flags[order] else self.s

    def rows(self, space, index):
        """The memory of a reference, (B or 1, elements)."""
        if space == OPERAND:
            return self._operand(index)
        if space == RESULT:
            return self._result(index)
        if space == CARRY:
            return self.now[index]
        if space == NEXT:
            return self.next[index]
        if space == SCRATCH:
            size, offset, ring = self.scratch[index]
            return self.rings[index] if ring else self.arena_memory[:, offset : offset + size]
        if space == NUMBER:
            return np.array([[self.floats[index]]])
        return self.memory[index][self.s + (space == SAVED_NEXT)]

    def _operand(self, index):
        kind, order, _ = self.operands[index]
        x = self.given[index]
        if kind in (0, 3):
            return x[:, self._time(order)].reshape(self.B, -1)
        if kind == 5:
            if self.return_sequences:
                return x[:, self._time(order)].reshape(self.B, -1)
            return (x if self.s == self.T - 1 else np.zeros_like(x)).reshape(self.B, -1)
        return x.reshape(1 if kind == 2 else self.B, -1)

    def _result(self, index):
        kind, order, _, _ = self.results[index]
        x = self.made[index]
        if kind == 0 or (kind == 1 and self.return_sequences):
            return Slice(x, (slice(None), self._time(order)), self.B)
        return Slice(x, ..., 1 if kind == 4 else self.B)

    def _product(self, read):
        space, index, offset, stride, m, k, n, weight, transposed = read.many(9)
        out_space, out_index, out_offset, out_stride, begin, bias, bias_at = read.many(7)
        a = self.rows(space, index)[:, places(offset, (stride, 1), (m, k))]
        w = self.given[weight].reshape(n, k).T if transposed else self.given[weight].reshape(k, n)
        out = self.rows(out_space, out_index)
        where = places(out_offset, (out_stride, 1), (m, n))
        value = a @ w
        if begin == 1:
            value = value + out[:, where]
        if begin == 2:
            value = value + self.given[bias].reshape(-1)[bias_at : bias_at + n]
        out[:, where] = value

    def _outer(self, read):
        a_space, a_index, a_offset, a_stride = read.many(4)
        z_space, z_index, z_offset, z_stride = read.many(4)
        m, k, n, result, offset = read.many(5)
        a = self.rows(a_space, a_index)[:, places(a_offset, (a_stride, 1), (m, k))]
        z = self.rows(z_space, z_index)[:, places(z_offset, (z_stride, 1), (m, n))]
        total = np.einsum("bmk,bmn->kn", a, z)
        self.made[result].reshape(-1)[offset : offset + k * n] += total.reshape(-1)

    def _map(self, read):
        dims = read.many(read.next())
        registers = []
        for _ in range(read.next()):
            space, index, offset, *strides = read.many(3 + len(dims))
            registers.append(self.rows(space, index)[:, places(offset, strides, dims)])
        for _ in range(read.next()):
            code, *arguments = read.many(4)
            values = [registers[a] for a in arguments if a >= 0]
            registers.append(np.asarray(FUNCTIONS[self.names[code]](*values), float))
        outs = [read.many(5 + len(dims)) for _ in range(read.next())]
        assert read.at == len(read.ints)
        for register, mode, space, index, offset, *strides in outs:
            value = np.broadcast_to(registers[register], (self.B, *dims)).reshape(self.B, -1)
            memory, where = self.rows(space, index), places(offset, strides, dims).reshape(-1)
            if mode == 1:
                memory[:, where] = 0
            if mode == 3:
                memory[:, where] = -np.inf
            for column, place in enumerate(where):
                here = value[:, column]
                if space == RESULT and self.results[index][0] == 4:
                    memory[:, place] += here.sum()
                elif mode == 0:
                    memory[:, place] = here
                elif mode == 3:
                    memory[:, place] = np.maximum(memory[:, place], here)
                else:
                    memory[:, place] += here


class Slice:
    """A part of a result as (rows, elements) that writes through."""

    def __init__(self, whole, at, rows):
        self.whole, self.at, self.shape = whole, at, (rows, -1)

    def __getitem__(self, key):
        return self.whole[self.at].reshape(self.shape)[key]

    def __setitem__(self, key, value):
        part = self.whole[self.at].reshape(self.shape).copy()
        part[key] = value
        self.whole[self.at] = part.reshape(self.whole[self.at].shape)


def places(offset, strides, dims):
    grid = np.full(dims, offset)
    for axis, (stride, size) in enumerate(zip(strides, dims, strict=False)):
        shape = [1] * len(dims)
        shape[axis] = size
        grid = grid + stride * np.arange(size).reshape(shape)
    return grid
