"""Networks that compute the parameters of a map, from one part of its input and the context."""

# Some networks hold bijections, and bijections make networks: theirs come first, in either order.
import diffeo.bijections as _bijections  # noqa: F401
from diffeo.networks.attention import Attention as Attention
from diffeo.networks.attention import TransformerLayer as TransformerLayer
from diffeo.networks.constant import Constant as Constant
from diffeo.networks.gated import GatedResNet as GatedResNet
from diffeo.networks.glow import GlowNet as GlowNet
from diffeo.networks.glow import ZeroConv as ZeroConv
from diffeo.networks.masked import MaskedLinear as MaskedLinear
from diffeo.networks.masked import MaskedMLP as MaskedMLP
from diffeo.networks.mlp import MLP as MLP
from diffeo.networks.periodic import Periodic as Periodic
from diffeo.networks.pixel import GatedPixelNet as GatedPixelNet
from diffeo.networks.resnet import ConvNet as ConvNet
from diffeo.networks.resnet import ResNet as ResNet
from diffeo.networks.smooth import LipschitzMLP as LipschitzMLP
from diffeo.networks.smooth import SmoothMLP as SmoothMLP
from diffeo.networks.transformer import CausalTransformer as CausalTransformer
from diffeo.networks.transformer import VisionTransformer as VisionTransformer

# The classes: names that are not all in small letters.
__all__ = sorted(set(globals()) - set(map(str.lower, globals())))
