"""The maths: one invertible map a file."""

from diffeo.bijections.base import Bijection, Chain, Dequantizer, Inverse
from diffeo.bijections.bends import Additive, Affine, Bend
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.cuts import Cut, FeatureCut
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.bijections.elementwise import Scale, Standardize
from diffeo.bijections.mixing import Permutation

__all__ = [
    "Additive",
    "Affine",
    "Bend",
    "Bijection",
    "Chain",
    "Coupling",
    "Cut",
    "Dequantizer",
    "FeatureCut",
    "Inverse",
    "Permutation",
    "Scale",
    "Standardize",
    "UniformDequantize",
]
