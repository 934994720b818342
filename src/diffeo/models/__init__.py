"""Flows put together as the papers have them."""

from diffeo.models.glow import Glow
from diffeo.models.image_realnvp import ImageRealNVP
from diffeo.models.nice import NICE
from diffeo.models.realnvp import RealNVP
from diffeo.models.table_flow import TableFlow

__all__ = ["NICE", "Glow", "ImageRealNVP", "RealNVP", "TableFlow"]
