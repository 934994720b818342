"""Normalizing flows: exact likelihood, exact inverse.

>>> import torch, diffeo
>>> flow = diffeo.RealNVP(features=2)
>>> flow.log_prob(torch.zeros(3, 2)).shape
torch.Size([3])
"""

from typing import TYPE_CHECKING, Final

from diffeo.utils.lazy import lazy_import
from diffeo.utils.version import __version__

if TYPE_CHECKING:
    from diffeo.bijections import Bijection, Chain, Inverse
    from diffeo.flow import Flow, load
    from diffeo.mixture import FlowMixture
    from diffeo.models import (
        IAF,
        MAF,
        NAF,
        NICE,
        NSF,
        CircularNSF,
        ContinuousFlow,
        CouplingNSF,
        FlowPlusPlus,
        Glow,
        ImageRealNVP,
        Jet,
        MixedFlow,
        PixelFlow,
        PlanarFlow,
        RealNVP,
        ResidualFlow,
        SylvesterFlow,
        TableFlow,
        TailFlow,
        TarFlow,
    )

__all__ = [
    "IAF",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "Bijection",
    "Chain",
    "CircularNSF",
    "ContinuousFlow",
    "CouplingNSF",
    "Flow",
    "FlowMixture",
    "FlowPlusPlus",
    "Glow",
    "ImageRealNVP",
    "Inverse",
    "Jet",
    "MixedFlow",
    "PixelFlow",
    "PlanarFlow",
    "RealNVP",
    "ResidualFlow",
    "SylvesterFlow",
    "TableFlow",
    "TailFlow",
    "TarFlow",
    "__version__",
    "load",
]

MODELS = (
    "IAF",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "CouplingNSF",
    "Glow",
    "ImageRealNVP",
    "PixelFlow",
    "RealNVP",
    "SylvesterFlow",
    "ResidualFlow",
    "PlanarFlow",
    "CircularNSF",
    "ContinuousFlow",
    "MixedFlow",
    "TableFlow",
    "TailFlow",
    "TarFlow",
    "Jet",
    "FlowPlusPlus",
)

# So that `diffeo --help` answers at once: PyTorch alone takes a second and a half to import.
__getattr__: Final = lazy_import(
    __name__,
    dict.fromkeys(("Bijection", "Chain", "Inverse"), "bijections")
    | dict.fromkeys(("Flow", "load"), "flow")
    | {"FlowMixture": "mixture"}
    | dict.fromkeys(MODELS, "models"),
)
