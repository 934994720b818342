"""Helpers that know nothing of flows: files, parsing, the console, memory; no mathematics."""
