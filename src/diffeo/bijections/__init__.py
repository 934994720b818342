"""The maths: one invertible map a file."""

from diffeo.bijections.base import Bijection, Chain, Dequantizer, Inverse
from diffeo.bijections.bends import Additive, Affine, Bend
from diffeo.bijections.checkerboard import CompactCheckerboard, Masked, MaskedCheckerboard
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.cuts import Cut, FeatureCut, NoCut
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import LearnedPrior, Scale, Standardize
from diffeo.bijections.mixing import Permutation
from diffeo.bijections.multiscale import FactorOut
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.bijections.pixels import Center, Logit, PixelDequantize
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.sinh_arcsinh import SinhArcsinh
from diffeo.bijections.whitening import Whiten

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "BatchNorm",
    "Bend",
    "Bijection",
    "Center",
    "Chain",
    "CompactCheckerboard",
    "Coupling",
    "Cut",
    "Dequantizer",
    "FactorOut",
    "FeatureCut",
    "Flatten",
    "Inverse",
    "InvertibleConv1x1",
    "LearnedPrior",
    "Logit",
    "Masked",
    "MaskedCheckerboard",
    "NoCut",
    "NormalizedConv1x1",
    "Permutation",
    "PixelDequantize",
    "Scale",
    "SinhArcsinh",
    "Squeeze",
    "Standardize",
    "UniformDequantize",
    "Whiten",
]
