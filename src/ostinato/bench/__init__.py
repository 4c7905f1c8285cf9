"""`ostinato bench`: Ostinato's layers beside every peer that is installed, in one interleaved run.

Keras runs on one backend a process, so each contender is a process of its own (`worker`), and
computes only while the others rest. `cases` says what is computed, `contenders` by whom,
`measuring` takes the times, `results` keeps them, `tables` and `chart` show them.

This package is the only one beside the doors that imports frameworks, and the only one beside the
guide's timing that uses Keras's recurrent layers: both are what it measures.
"""
