"""What the NumPy reference expects of layers whose rows begin anew: its results piece by piece."""

from dataclasses import dataclass
from itertools import pairwise

import keras
import numpy as np
from hypothesis import strategies as st

import reference
from engines import cases
from engines.cases import Case, weight_list

# No row that begins anew, few, half of all timesteps, all.
HOW_OFTEN = [0.0, 0.2, 0.5, 1.0]
RATES = st.sampled_from(HOW_OFTEN)


def make_resets(rng, case: Case, rate: float) -> np.ndarray:
    return rng.random((case.batch, case.time)) < rate


@dataclass(frozen=True)
class Piece:
    """What the reference makes of a part of one row.

    Attributes:
        row: Which row.
        span: Where in time.
        run: The reference's run of it alone.
        begins: Whether it began with fresh states, and not with the call's.
    """

    row: int
    span: slice
    run: reference.Run
    begins: bool


class ExpectedPieces:
    """As `cases.Expected`; the gradients of fresh states follow those of the initial ones."""

    def __init__(self, case, weights, x, states, fresh, mask, resets, drop=None, held_drop=None):
        self.case, self.shape = case, x.shape
        count = cases.STATES[case.kind]
        zeros = [np.zeros((case.batch, case.units))] * count
        self.rows = []
        for row in range(case.batch):
            cuts = [0, *(1 + np.flatnonzero(resets[row, 1:])), case.time]
            spans = [slice(int(a), int(b)) for a, b in pairwise(cuts)]
            pieces = []
            for span in reversed(spans) if case.go_backwards else spans:
                begins = bool(pieces) or (not case.go_backwards and bool(resets[row, 0]))
                given = (fresh if begins else states) or zeros
                one = slice(row, row + 1)
                run = reference.run(
                    case.options,
                    weights,
                    x[one, span],
                    tuple(state[one] for state in given),
                    None if mask is None else mask[one, span],
                    None if drop is None else drop[:, one],
                    None if held_drop is None else held_drop[:, one],
                )
                pieces.append(Piece(row, span, run, begins))
            self.rows.append(pieces)

    @property
    def outputs(self) -> np.ndarray:
        rows = [np.concatenate([p.run.outputs for p in pieces], axis=1) for pieces in self.rows]
        return np.concatenate(rows)

    @property
    def states(self) -> list:
        last = [pieces[-1].run.states for pieces in self.rows]
        return [np.concatenate(rows) for rows in zip(*last, strict=True)]

    @property
    def results(self) -> list:
        outputs = self.outputs
        output = outputs if self.case.return_sequences else outputs[:, -1]
        return [output, *(self.states if self.case.return_state else ())]

    def pull_back(self, d_results):
        d_output, *d_states = d_results
        count, case = cases.STATES[self.case.kind], self.case
        d_x = np.zeros(self.shape)
        d_given = np.zeros((2, count, case.batch, case.units))  # of initial and of fresh states
        d_weights = []
        for row, pieces in enumerate(self.rows):
            at = 0
            for piece in pieces:
                length = piece.span.stop - piece.span.start
                one, is_last = slice(row, row + 1), piece is pieces[-1]
                given = {}
                if case.return_sequences:
                    given["d_outputs"] = d_output[one, at : at + length]
                elif is_last:
                    given["d_last"] = d_output[one]
                mine = [d[one] for d in d_states] if is_last else None
                found = piece.run.backward(**given, d_states=mine)
                at += length
                d_x[one, piece.span] += found.inputs
                d_given[int(piece.begins), :, one] += np.stack(found.states)
                d_weights.append(weight_list(found.weights))
        return d_x, [*d_given[0], *d_given[1]], [sum(each) for each in zip(*d_weights, strict=True)]


class Given(keras.layers.Layer):
    """A layer that is called with resets: its states are the initial ones, and then the fresh.

    So `pull_back` gives the gradients of both.
    """

    def __init__(self, layer, has_initial, has_fresh, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.has_initial, self.has_fresh = layer, has_initial, has_fresh
        self.supports_masking = True

    def build(self, sequences_shape, initial_state_shape=None):
        self.layer.build(sequences_shape)

    def call(self, sequences, initial_state=None, mask=None, training=False, resets=None):
        flat = list(initial_state or [])
        half = len(flat) // 2 if self.has_initial and self.has_fresh else len(flat)
        initial = flat[:half] if self.has_initial else None
        fresh = (flat[half:] if self.has_initial else flat) if self.has_fresh else None
        return self.layer(
            sequences,
            initial_state=initial,
            mask=mask,
            training=training,
            resets=resets,
            fresh_state=fresh,
        )


def given_states(expected, has_initial: bool, has_fresh: bool):
    """An expectation whose gradients of states are those that `Given` is given."""

    class OfGiven:
        results = expected.results

        def pull_back(self, d_results):
            d_x, d_states, d_weights = expected.pull_back(d_results)
            half = len(d_states) // 2
            kept = d_states[:half] * has_initial + d_states[half:] * has_fresh
            return d_x, kept, d_weights

    return OfGiven()
