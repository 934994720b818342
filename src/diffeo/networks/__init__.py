"""Networks that compute the parameters of a map, from one part of its input and the context."""

from diffeo.networks.glow import GlowNet, ZeroConv
from diffeo.networks.mlp import MLP
from diffeo.networks.resnet import ConvNet, ResNet

__all__ = [
    "MLP",
    "ConvNet",
    "GlowNet",
    "ResNet",
    "ZeroConv",
]
