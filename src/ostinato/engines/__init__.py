"""Engines run cells over sequences; `ostinato.engines.table` has them in order, fastest first.

An engine is one file with one object, its `ENGINE`: its name, what stands in its way
(`obstacles`), what it works out once for a kind of call (`recipe`), and how it runs (`run`).
`ostinato.engines.interface` says what each of these is; no other file knows an engine by name.
"""
