"""Flows assembled as the papers have them; no mathematics of their own."""

from diffeo.models.glow import Glow as Glow
from diffeo.models.image_realnvp import ImageRealNVP as ImageRealNVP
from diffeo.models.nice import NICE as NICE
from diffeo.models.realnvp import RealNVP as RealNVP
from diffeo.models.table_flow import TableFlow as TableFlow
