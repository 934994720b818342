"""Normalizing flows: exact likelihood, exact inverse.

>>> import torch, diffeo
>>> flow = diffeo.RealNVP(features=2)
>>> flow.log_prob(torch.zeros(3, 2)).shape
torch.Size([3])
"""

from diffeo.bijections.base import Bijection, Chain, Inverse
from diffeo.flow import Flow
from diffeo.models.glow import Glow
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.nice import NICE
from diffeo.models.realnvp import RealNVP
from diffeo.models.table_flow import TableFlow
from diffeo.version import __version__

# The one word for most: a folder, a model that ships ("mnist"), or one on the hub.
load = Flow.from_pretrained

__all__ = [
    "NICE",
    "Bijection",
    "Chain",
    "Flow",
    "Glow",
    "ImageRealNVP",
    "Inverse",
    "RealNVP",
    "TableFlow",
    "__version__",
    "load",
]
