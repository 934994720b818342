"""Tables: opening (options -> a `Source`) -> loading (a `Table`, or a stream) -> writing.

A new format is a function in `opening.READERS`, a new generator an entry of `synthetic.GENERATORS`.
"""
