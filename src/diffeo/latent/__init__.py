"""Arithmetic on latents: paths, levels, temperatures, directions, and other contexts, for any flow.

`flow.encode(x)` is one vector of plain noise for each event, `(batch, dims)`, and `flow.decode(z)`
its exact inverse. So a path between two events is a path between two vectors, drawing a part of z
again shows what that level holds, and an attribute is a direction. Nothing here trains or draws.
"""

from diffeo.latent.arithmetic import (
    Frames,
    PathKind,
    at_temperatures,
    between_four,
    interpolate,
    recondition,
    resample,
)
from diffeo.latent.conditions import Conditions
from diffeo.latent.directions import DirectionKind, Directions, edit, find_directions

__all__ = [
    "Conditions",
    "DirectionKind",
    "Directions",
    "Frames",
    "PathKind",
    "at_temperatures",
    "between_four",
    "edit",
    "find_directions",
    "interpolate",
    "recondition",
    "resample",
]
