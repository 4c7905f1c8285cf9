"""Reading a Keras model: its graph, the layers within, what each is, and how it is made again."""
