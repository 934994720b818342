"""Attempts to break diffeo, one table of promises a module; `__main__` runs them."""
