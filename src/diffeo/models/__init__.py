"""Flows assembled as the papers have them; no mathematics of their own."""

from typing import TYPE_CHECKING, Final

from diffeo.models.autoregressive import IAF as IAF
from diffeo.models.autoregressive import MAF as MAF
from diffeo.models.autoregressive import NAF as NAF
from diffeo.models.autoregressive import NSF as NSF
from diffeo.models.autoregressive import CouplingNSF as CouplingNSF
from diffeo.models.circular import CircularNSF as CircularNSF
from diffeo.models.flowpp import FlowPlusPlus as FlowPlusPlus
from diffeo.models.glow import Glow as Glow
from diffeo.models.image_realnvp import ImageRealNVP as ImageRealNVP
from diffeo.models.jet import Jet as Jet
from diffeo.models.pixel import PixelFlow as PixelFlow
from diffeo.models.tables import NICE as NICE
from diffeo.models.tables import RealNVP as RealNVP
from diffeo.models.tables import TableFlow as TableFlow
from diffeo.models.tails import TailFlow as TailFlow
from diffeo.models.tarflow import TarFlow as TarFlow
from diffeo.models.unrestricted import ContinuousFlow as ContinuousFlow
from diffeo.models.unrestricted import PlanarFlow as PlanarFlow
from diffeo.models.unrestricted import ResidualFlow as ResidualFlow
from diffeo.models.unrestricted import SylvesterFlow as SylvesterFlow
from diffeo.utils.lazy import lazy_import

if TYPE_CHECKING:
    from diffeo.models.mixed import MixedFlow as MixedFlow

__getattr__: Final = lazy_import(
    __name__, {"MixedFlow": "mixed"}
)  # whose rows become tables of pandas
