"""A stream's program as C99: one source file and its header, without a library but libm."""
