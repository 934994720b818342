"""Flows assembled as the papers have them; no mathematics of their own."""

from diffeo.models.glow import Glow as Glow
from diffeo.models.image_realnvp import ImageRealNVP as ImageRealNVP
from diffeo.models.tables import NICE as NICE
from diffeo.models.tables import RealNVP as RealNVP
from diffeo.models.tables import TableFlow as TableFlow
