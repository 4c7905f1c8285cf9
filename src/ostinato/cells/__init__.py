"""One timestep of any cell: what a cell has to be, its sizes, how it's built and how it's called.

A cell is any object with `call(inputs, states) -> (output, new_states)` and a `state_size`. The
built-in ones offer the engines more than that: see `ostinato.cells.builtin`.
"""
