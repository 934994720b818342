"""The networks that steer couplings."""

from diffeo.conditioners.glow import GlowNet, ZeroConv
from diffeo.conditioners.mlp import MLP
from diffeo.conditioners.resnet import ConvNet, ResNet

__all__ = ["MLP", "ConvNet", "GlowNet", "ResNet", "ZeroConv"]
