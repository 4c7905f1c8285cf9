"""The sections in the guide's order, with what the report says of each and the code it shows."""

from ostinato.guide import examples, mnist, nested, sections, timing
from ostinato.guide.course import Section
from ostinato.guide.highlight import body, whole

SECTIONS = (
    Section(
        "builtin",
        "Built-in layers",
        "SimpleRNN, GRU and LSTM stand in a model like any other layer. Here an LSTM reads "
        "sequences of whole numbers, each turned into a vector, and its last output goes on to a "
        "Dense layer.",
        sections.builtin_layers,
        [body(examples.builtin_layers)],
    ),
    Section(
        "outputs",
        "Outputs and states",
        "A recurrent layer gives one vector for each sequence, or with return_sequences one for "
        "each timestep, which another recurrent layer can read. With return_state its states come "
        "too.",
        sections.outputs,
        [body(examples.outputs)],
    ),
    Section(
        "encoder-decoder",
        "Encoder and decoder",
        "The states in which one layer ends can be those from which another starts. So a decoder "
        "knows what the encoder has read, though it never sees a word of it.",
        sections.encoder_decoder,
        [body(examples.encoder_decoder)],
    ),
    Section(
        "cells",
        "Layers and cells",
        "A cell is the inside of a layer's loop over time: it takes one timestep. RNN puts the "
        "loop around any cell. RNN(LSTMCell(64)) is LSTM(64), written out.",
        sections.cells,
        [body(examples.cells)],
    ),
    Section(
        "stateful",
        "State across batches",
        "A long text can be read in parts. With stateful=True, a layer goes into each batch with "
        "the states that the batch before left behind, until they are reset.",
        sections.across_batches,
        [body(examples.across_batches), body(examples.forget)],
    ),
    Section(
        "reuse",
        "State reused",
        "States are no weights. They stand in layer.states, and can start another layer.",
        sections.reuse,
        [body(examples.reuse)],
    ),
    Section(
        "bidirectional",
        "Bidirectional",
        "Where the whole sequence is there at once, a second copy of a layer can read it from its "
        "end. Bidirectional joins the two readings.",
        sections.bidirectional,
        [body(examples.bidirectional)],
    ),
    Section(
        "digits",
        "Handwritten digits",
        "An image is read as a sequence of 28 rows of 28 pixels. The guide trains this model for "
        "one epoch with plain SGD; here LSTM and RNN(LSTMCell) both do, from the same weights, on "
        "the same batches.",
        mnist.as_the_guide,
        [
            whole(examples.build_model),
            body(examples.twins),
            whole(examples.compile_model),
            whole(examples.fit),
        ],
    ),
    Section(
        "trained",
        "Digits, learnt well",
        "One epoch of SGD is short. To see what the guide's model can do, it is trained once more "
        f"from the start, and longer: with Adam, at a rate that falls from {mnist.LEARNING_RATE} "
        "to zero along a cosine. This is our choice, not the guide's.",
        mnist.longer,
        [body(mnist.train_longer)],
    ),
    Section(
        "one-digit",
        "One digit",
        "A second model takes over the trained weights and names the first digit. The LSTM's "
        "states after each row show how it comes to its answer.",
        mnist.one_digit,
        [body(examples.predict_one)],
    ),
    Section(
        "nested",
        "Nested input",
        "At one timestep there can be several things at once: a frame and its sound, a pen's place "
        "and its pressure. This cell takes a vector and a matrix, and its states and outputs have "
        "the same two parts. Keras 3's own RNN can't run it any more. The data are random, as in "
        "the guide.",
        nested.nested,
        [whole(nested.NestedCell), body(nested.nested_model)],
    ),
    Section(
        "timing",
        "Time per step",
        "The guide's model trained with Ostinato's layer and with Keras's own, on the backend of "
        "this run. They take turns, step by step and batch by batch, from the same weights.",
        timing.beside_keras,
    ),
)
