"""The mathematics: one invertible map a file; no networks, no training."""

from diffeo.bijections.autoregressive import Autoregressive as Autoregressive
from diffeo.bijections.base import Bijection as Bijection
from diffeo.bijections.chain import Chain as Chain
from diffeo.bijections.chain import FactorOut as FactorOut
from diffeo.bijections.chain import Inverse as Inverse
from diffeo.bijections.continuous import Continuous as Continuous
from diffeo.bijections.convolution import InvertibleConv1x1 as InvertibleConv1x1
from diffeo.bijections.convolution import NormalizedConv1x1 as NormalizedConv1x1
from diffeo.bijections.coupling import Coupling as Coupling
from diffeo.bijections.dequantization import Dequantizer as Dequantizer
from diffeo.bijections.dequantization import PixelDequantize as PixelDequantize
from diffeo.bijections.dequantization import UniformDequantize as UniformDequantize
from diffeo.bijections.elementwise import Center as Center
from diffeo.bijections.elementwise import LearnedPrior as LearnedPrior
from diffeo.bijections.elementwise import Logit as Logit
from diffeo.bijections.elementwise import Scale as Scale
from diffeo.bijections.elementwise import SinhArcsinh as SinhArcsinh
from diffeo.bijections.elementwise import Standardize as Standardize
from diffeo.bijections.gaussian_mixture import GaussianMixtureMap as GaussianMixtureMap
from diffeo.bijections.linear import Householder as Householder
from diffeo.bijections.linear import LULinear as LULinear
from diffeo.bijections.mixture_cdf import MixtureCDF as MixtureCDF
from diffeo.bijections.normalization import ActNorm as ActNorm
from diffeo.bijections.normalization import BatchNorm as BatchNorm
from diffeo.bijections.planar import Planar as Planar
from diffeo.bijections.planar import Radial as Radial
from diffeo.bijections.reshape import Flatten as Flatten
from diffeo.bijections.reshape import Permutation as Permutation
from diffeo.bijections.reshape import Squeeze as Squeeze
from diffeo.bijections.residual import Residual as Residual
from diffeo.bijections.spline import RationalQuadraticSpline as RationalQuadraticSpline
from diffeo.bijections.splits import CompactCheckerboard as CompactCheckerboard
from diffeo.bijections.splits import FeatureSplit as FeatureSplit
from diffeo.bijections.splits import MaskedCheckerboard as MaskedCheckerboard
from diffeo.bijections.splits import MaskedNetwork as MaskedNetwork
from diffeo.bijections.splits import NoSplit as NoSplit
from diffeo.bijections.splits import Split as Split
from diffeo.bijections.sylvester import Sylvester as Sylvester
from diffeo.bijections.tails import TailTransform as TailTransform
from diffeo.bijections.univariate import Additive as Additive
from diffeo.bijections.univariate import Affine as Affine
from diffeo.bijections.univariate import Univariate as Univariate
from diffeo.bijections.whitening import Whiten as Whiten

# The classes: names that are not all in small letters.
__all__ = sorted(set(globals()) - set(map(str.lower, globals())))
