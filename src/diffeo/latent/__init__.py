"""Arithmetic on latents: paths, levels, temperatures, directions, and other contexts, for any flow.

`flow.encode(x)` is one vector of plain noise for each event, `(batch, dims)`, and `flow.decode(z)`
its exact inverse. So a path between two events is a path between two vectors, drawing a part of z
again shows what that level holds, and an attribute is a direction. Nothing here trains or draws.
"""

from diffeo.latent.conditions import Conditions, recondition
from diffeo.latent.directions import Directions, edit
from diffeo.latent.finding import DirectionKind, find_directions
from diffeo.latent.noise import at_temperatures, resample
from diffeo.latent.paths import PathKind, between_four, interpolate

__all__ = [
    "Conditions",
    "DirectionKind",
    "Directions",
    "PathKind",
    "at_temperatures",
    "between_four",
    "edit",
    "find_directions",
    "interpolate",
    "recondition",
    "resample",
]
