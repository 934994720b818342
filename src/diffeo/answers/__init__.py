"""Answers of a model of a mixed table: any conditional, filled cells, and explanations of rows."""

from diffeo.answers.conditional import Answer, Conditional, conditional
from diffeo.answers.explaining import explain
from diffeo.answers.filling import fill

__all__ = ["Answer", "Conditional", "conditional", "explain", "fill"]
