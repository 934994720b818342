"""One event's way through every layer, from data to noise or back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeo.bases import Logistic
from diffeo.bijections import Bijection, Chain
from diffeo.flow import Flow


@dataclass(frozen=True, eq=False)
class Way:
    """Where events of a table are after each layer.

    Args:
        names: of the layers, in the order in which data meet them.
        points: data, then what each layer made of them, `(layers + 1, n, features)`.
        log_dets: log|det| of each layer `(layers, n)`, in nats.
        log_prob: of the events `(n,)`: that of the noise at the end, and all log_dets.
    """

    names: list[str]
    points: Tensor
    log_dets: Tensor
    log_prob: Tensor


def way(flow: Flow, x: Tensor, context: Tensor | None = None) -> Way:
    """From data x `(n, features)` to noise.

        log p(x) = log p_Z(z) + sum_i log|det_i|

    A dequantizer takes the middle of each cell.

    Raises:
        ValueError: if a layer gives another shape, as those of pictures do.
    """
    names, points, log_dets = [], [x], []
    with torch.no_grad():
        context = _seen(flow, x, context)
        if flow.dequantizer is not None:
            x, entry = flow.dequantizer(x)
            names.append("middle of the cell")
            points.append(x)
            log_dets.append(entry)
        for link in links(flow.bijection):
            x, step = link(x, context)
            if x.shape != points[0].shape:
                raise ValueError(
                    f"a {type(link).__name__} gives another shape: only a table's way "
                    "through its layers can be shown."
                )
            names.append(words(link))
            points.append(x)
            log_dets.append(step)
        steps = torch.stack(log_dets)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
        if isinstance(flow.base, Logistic):
            base = -(torch.nn.functional.softplus(x) + torch.nn.functional.softplus(-x)).sum(1)
    return Way(names, torch.stack(points), steps, base + steps.sum(0))


def back(flow: Flow, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Noise z `(n, features)` and what each layer makes of it on the way back, ending in data.

    Returns:
        `(layers + 1, n, features)`.
    """
    points = [z]
    with torch.no_grad():
        context = _seen(flow, z, context)
        for link in reversed(list(links(flow.bijection))):
            z, _ = link.inverse(z, context)
            points.append(z)
        if flow.dequantizer is not None:
            points.append(flow.dequantizer.inverse(z))
    return torch.stack(points)


def links(bijection: Bijection) -> Iterator[Bijection]:
    """The layers of a bijection, chains within chains taken apart."""
    if not isinstance(bijection, Chain):
        yield bijection
        return
    for link in bijection:
        assert isinstance(link, Bijection)
        yield from links(link)


def words(link: Bijection) -> str:
    """What a layer is called: `AffineCoupling` is "affine coupling"."""
    name = type(link).__name__
    if bend := getattr(link, "bend", None):
        name = type(bend).__name__ + name
    split = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return split.strip()


def _seen(flow: Flow, rows: Tensor, context: Tensor | None) -> Tensor | None:
    """The context as the layers see it."""
    if context is None:
        return None
    context = context.expand(len(rows), -1)
    return context if flow.context_encoder is None else flow.context_encoder(context)[0]
