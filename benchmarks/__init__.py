"""Ostinato's layers beside Keras's, on the same backend, in one interleaved run."""
