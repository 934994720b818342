"""Directions of z that belong to attributes: kept in a file, and followed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        vectors: their directions, float64 `(k, dims)`.
        present: how many events had each attribute; of a number of more than two values, how many
            events it was known of.
        absent: how many had it not; 0 for such a number.
        kind: how they were found, see `find_directions`.
        model: the class of the flow that they are of.
        latent_shapes: of the levels of its z.
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
        """Refuse a flow of another class, or with other latents.

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
        """Write one .safetensors file; what is no tensor goes into its header, as JSON.

        Raises:
            ValueError: if the name of the file ends otherwise.
        """
        path = _file(path)
        words = {
            "names": self.names,
            "present": self.present,
            "absent": self.absent,
            "kind": self.kind,
            "model": self.model,
            "latent_shapes": self.latent_shapes,
            "notes": self.notes,
        }
        header = {name: json.dumps(value) for name, value in words.items()}
        with atomic_write(path) as partial:
            save_file({"vectors": self.vectors.cpu().contiguous()}, partial, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote.

        Raises:
            ValueError: if the file is missing, or none of directions.
        """
        path = _file(path)
        if not path.is_file():
            raise ValueError(f"{path} is missing: make it with `diffeo directions`.")
        try:
            with safe_open(path, framework="pt") as file:
                words = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
                words["latent_shapes"] = [tuple(shape) for shape in words["latent_shapes"]]
                found = cls(vectors=file.get_tensor("vectors"), **words)
                found._check()
        except OSError:
            raise
        except Exception as error:  # words of other kinds, types of numbers that torch lacks
            raise ValueError(
                f"{path} is damaged or holds no directions: make it anew with `diffeo directions`."
            ) from error
        return found

    def _check(self) -> None:
        """Refuse what a file may say and no directions have."""
        k, dims = len(self.names), sum(map(math.prod, self.latent_shapes))
        lists = {"names": str, "present": int, "absent": int, "notes": str}
        for name, kind in lists.items():
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
    """Events with more or less of some attributes, `(n, *shape)`.

        x' = decode(encode(x) + sum_i strength_i direction_i)

    At strength 0 the event comes back as `decode(encode(x))` does: a picture bit for bit, in the
    bits that the flow models. At 1 it has moved as far as events without the attribute lie from
    those with it. (Kingma & Dhariwal 2018, section 6)

    Args:
        flow: the model.
        x: events `(n, *shape)`.
        directions: see `find_directions`.
        strengths: how far along which, by name; negative to take an attribute away.
        context: `(n, context_features)` for a conditional flow, or one row.

    Raises:
        ValueError: if the directions are of another model, or lack a name.
    """
    directions.check(flow)
    z = encode(flow, x, context)
    for name, strength in strengths.items():
        z = z + strength * directions[name].to(z)
    return decode(flow, z, context)


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no file of directions: its name has to end in .safetensors.")
    return path
