"""Directions of z that belong to attributes: saving, loading, and edits along them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from jaxtyping import Float, Shaped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffeo.context import Context
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode
from diffeo.utils.config import public_name
from diffeo.utils.files import atomic_write
from diffeo.utils.parsing import parse_json


@dataclass(frozen=True, eq=False)
class Directions:
    """For each attribute, the step of z from events without it to events with it.

    Args:
        names: of the attributes.
        vectors: their directions, float64.
        present: how many events had each attribute; for a number of more than two values, how many
            events it was known of.
        absent: how many did not have it; 0 for such a number.
        kind: how they were found, see `find_directions`.
        model: the class of the flow.
        latent_shapes: shapes of the levels of its z.
        notes: sentences for the user.
    """

    names: list[str]
    vectors: Float[Tensor, "k dims"]
    present: list[int]
    absent: list[int]
    kind: str
    model: str
    latent_shapes: list[tuple[int, ...]]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Float[Tensor, " dims"]:
        """The direction of one attribute.

        Raises:
            ValueError: if there is none.
        """
        if name not in self.names:
            raise ValueError(
                f"there is no direction of '{name}': choose from {', '.join(self.names)}."
            )
        return self.vectors[self.names.index(name)]

    def check(self, flow: Flow) -> None:
        """Refuse a flow of another class or with other latents.

        Raises:
            ValueError: then.
        """
        model = public_name(type(flow))
        if (model, flow.latent_shapes) != (self.model, self.latent_shapes):
            raise ValueError(
                f"these directions are of a {self.model} with latents {self.latent_shapes}, and "
                f"this model is a {model} with latents {flow.latent_shapes}: find its own with "
                "`diffeo directions`."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file: the vectors, and all else as JSON in its header.

        Raises:
            ValueError: if the name of the file has another suffix.
        """
        path = _checked(path)
        names = [part.name for part in fields(self) if part.name != "vectors"]
        header = {name: json.dumps(getattr(self, name)) for name in names}
        with atomic_write(path) as partial:
            save_file({"vectors": self.vectors.cpu().contiguous()}, partial, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file of `save`.

        Raises:
            ValueError: if the file is missing, damaged, or holds something else.
        """
        path = _checked(path)
        if not path.is_file():
            raise ValueError(f"{path} is missing: make it with `diffeo directions`.")
        try:
            with safe_open(path, framework="pt") as file:
                header = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
                header["latent_shapes"] = [tuple(shape) for shape in header["latent_shapes"]]
                found = cls(vectors=file.get_tensor("vectors"), **header)
                found._check_contents()
        except OSError:
            raise
        except Exception as error:  # safetensors raises its own for a dtype that torch lacks
            raise ValueError(
                f"{path} is damaged or holds no directions: make it again with `diffeo directions`."
            ) from error
        return found

    def _check_contents(self) -> None:
        """Refuse contents that a damaged or hostile file may have."""
        k, dims = len(self.names), sum(map(math.prod, self.latent_shapes))
        for name, kind in {"names": str, "present": int, "absent": int, "notes": str}.items():
            values = getattr(self, name)
            if not isinstance(values, list) or not all(type(value) is kind for value in values):
                raise ValueError(f"{name} is no list of {kind.__name__}")
        if not (k == len(self.present) == len(self.absent) and self.vectors.shape == (k, dims)):
            raise ValueError("there is not one vector for each name")
        if not self.vectors.is_floating_point() or not self.vectors.isfinite().all():
            raise ValueError("the vectors are no finite numbers")


def edit(
    flow: Flow,
    x: Shaped[Tensor, "n *shape"],
    directions: Directions,
    strengths: Mapping[str, float],
    context: Context | None = None,
) -> Shaped[Tensor, "n *shape"]:
    """Events with more or less of some attributes, by name, `(n, *shape)`.

        x' = decode(encode(x) + sum_i strength_i direction_i)

    At strength 0 the event comes back as `decode(encode(x))` does: an image bit for bit, in the
    bits that the flow models. At 1 it has moved as far as events without the attribute lie from
    those with it. (Kingma & Dhariwal 2018, section 6)

    Raises:
        ValueError: if the directions are of another model, or lack a name.
    """
    directions.check(flow)
    z = encode(flow, x, context)
    for name, strength in strengths.items():
        z = z + strength * directions[name].to(z)
    return decode(flow, z, context)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no file of directions: its name has to end in .safetensors.")
    return path
