"""Networks that compute the parameters of a map, from one part of its input and the context."""

from diffeo.networks.glow import GlowNet as GlowNet
from diffeo.networks.glow import ZeroConv as ZeroConv
from diffeo.networks.mlp import MLP as MLP
from diffeo.networks.resnet import ConvNet as ConvNet
from diffeo.networks.resnet import ResNet as ResNet

__all__ = sorted(name for name in globals() if name[0].isupper())
