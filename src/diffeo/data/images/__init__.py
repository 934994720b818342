"""Images: options -> opening (an `ImageSource`) -> building, cache -> loading -> writing.

A new format is a function in `opening.READERS`, a new set of our own an entry of `opening.SETS`.
"""
