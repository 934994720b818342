"""The mathematics: one invertible map a file; no networks, no training."""

from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain, Inverse
from diffeo.bijections.checkerboard import CompactCheckerboard, MaskedCheckerboard, MaskedNetwork
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.dequantization import Dequantizer, UniformDequantize
from diffeo.bijections.elementwise import LearnedPrior, Scale, Standardize
from diffeo.bijections.multiscale import FactorOut
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.pixels import Center, Logit, PixelDequantize
from diffeo.bijections.reshape import Flatten, Squeeze
from diffeo.bijections.sinh_arcsinh import SinhArcsinh
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.splits import FeatureSplit, NoSplit, Split
from diffeo.bijections.univariate import Additive, Affine, Univariate
from diffeo.bijections.whitening import Whiten

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "BatchNorm",
    "Bijection",
    "Center",
    "Chain",
    "CompactCheckerboard",
    "Coupling",
    "Dequantizer",
    "FactorOut",
    "FeatureSplit",
    "Flatten",
    "Inverse",
    "InvertibleConv1x1",
    "LearnedPrior",
    "Logit",
    "MaskedCheckerboard",
    "MaskedNetwork",
    "NoSplit",
    "NormalizedConv1x1",
    "Permutation",
    "PixelDequantize",
    "RationalQuadraticSpline",
    "Scale",
    "SinhArcsinh",
    "Split",
    "Squeeze",
    "Standardize",
    "UniformDequantize",
    "Univariate",
    "Whiten",
]
