"""What flows learn from but plain likelihood, and how good they are as proposals. No loop."""

from diffeo.losses.importance import ImportanceSample, importance_sample
from diffeo.losses.rows import flow_matching, weighted_likelihood
from diffeo.losses.targets import LogDensity, alpha_divergence, draw, reverse_kl

__all__ = [
    "ImportanceSample",
    "LogDensity",
    "alpha_divergence",
    "draw",
    "flow_matching",
    "importance_sample",
    "reverse_kl",
    "weighted_likelihood",
]
