"""`ostinato check-gpu`: whether Ostinato's CUDA kernel is right on the card that is here.

`command` starts a process for each framework, `__main__` is what runs there, `configurations` are
what is tried and `comparing` tries one. What is right leaves a stamp (`ostinato.cuda.stamp`), with
which the plan takes the engine by itself.
"""
