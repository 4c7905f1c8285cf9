"""One CUDA kernel over all timesteps, made from a cell's program; no framework in here.

`apart` takes out of a step what needs no state, `units` says what is left as scalars of one unit,
`source` writes those as CUDA C++, `layout` says how many blocks hold it, `nvrtc` compiles it and
`driver` launches it. Nobody has run it on a GPU yet: the tests run the same text on the CPU.
"""
