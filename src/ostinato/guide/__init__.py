"""The Keras RNN guide, every section run for real, with a report: `ostinato guide`.

A section (section.py) runs the guide's code (examples.py), and finds out whether it gives what the
guide says; `course.run` takes one after the other, `report` shows what they found.
"""
