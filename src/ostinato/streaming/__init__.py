"""One timestep at a time: `ostinato.stream` and `ostinato.Stream`.

From the bottom: `nest` and `program` say what a timestep is made of, `compiled` runs it in the
native engine, `files` saves it, `stream` is what users hold. None of these needs Keras, so that a
saved stream runs where there is none. Above them `graph` reads a Keras model, `lowering` makes a
program of it, `stepwise` runs what can't be lowered, and `opening` chooses.
"""
