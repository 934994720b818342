"""The networks that steer couplings."""

from diffeo.conditioners.mlp import MLP

__all__ = ["MLP"]
