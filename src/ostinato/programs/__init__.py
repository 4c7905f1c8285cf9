"""Cells of one's own as programs: what a cell's step says, in operations that kernels have.

A program is a graph of a few primitive operations (`operations`), made by tracing a cell's `call`
(`tracing`). Its derivative is one too, and both are lowered to routines of the native core.
"""
