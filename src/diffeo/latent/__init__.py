"""Moving about in latent space: arithmetic on z, for any flow.

Every latent of every flow is plain noise, `flow.encode(x)` is one vector `(batch, dims)`, and
`flow.decode(z)` its exact inverse. So a path between two events is a path between two vectors, what
a level holds is seen by drawing that part of z anew, and an attribute is a direction. A conditional
flow may also decode the same z under another context.
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
