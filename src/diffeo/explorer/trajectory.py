"""Points after each layer of a flow, from data to noise or back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeo.bijections import Bijection, Chain
from diffeo.flow import Flow
from diffeo.utils.modules import on_device


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points of a table after each layer.

    Args:
        names: of the layers, in the order in which data meet them.
        points: data, then the output of each layer, `(layers + 1, n, features)`.
        log_dets: log|det| of each layer `(layers, n)`, in nats.
        log_prob: of the points `(n,)`: that of the noise at the end, and all log_dets.
    """

    names: list[str]
    points: Tensor
    log_dets: Tensor
    log_prob: Tensor


@torch.no_grad()
def encode_by_layer(flow: Flow, x: Tensor, context: Tensor | None = None) -> Trajectory:
    """From data x `(n, features)` to noise.

        log p(x) = log p_Z(z) + sum_i log|det_i|

    A dequantizer takes the middle of each cell.

    Raises:
        ValueError: if a layer changes the shape, as those of images do.
    """
    x, context = on_device(x, context, flow.device)
    names, points, log_dets = [], [x], []
    context = _encode_context(flow, x, context)
    if flow.dequantizer is not None:
        x, log_det = flow.dequantizer(x)
        names.append("middle of the cell")
        points.append(x)
        log_dets.append(log_det)
    for layer in layers(flow.bijection):
        x, log_det = layer(x, context)
        if x.shape != points[0].shape:
            raise ValueError(
                f"{type(layer).__name__} changes the shape: only the layers of a table's model "
                "can be shown one by one."
            )
        names.append(layer_name(layer))
        points.append(x)
        log_dets.append(log_det)
    steps = torch.stack(log_dets)
    log_prob = flow.base.log_prob(x) + steps.sum(0)
    return Trajectory(names, torch.stack(points).cpu(), steps.cpu(), log_prob.cpu())


@torch.no_grad()
def decode_by_layer(flow: Flow, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Noise z `(n, features)` and each inverse layer's output, ending in data.

    Returns:
        `(layers + 1, n, features)`.
    """
    z, context = on_device(z, context, flow.device)
    points = [z]
    context = _encode_context(flow, z, context)
    for layer in reversed(list(layers(flow.bijection))):
        z, _ = layer.inverse(z, context)
        points.append(z)
    if flow.dequantizer is not None:
        points.append(flow.dequantizer.inverse(z))
    return torch.stack(points).cpu()


def layers(bijection: Bijection) -> Iterator[Bijection]:
    """The layers of a bijection, with nested chains flattened."""
    if not isinstance(bijection, Chain):
        yield bijection
        return
    for link in bijection:
        assert isinstance(link, Bijection)
        yield from layers(link)


def layer_name(layer: Bijection) -> str:
    """The name of a layer in words: "affine coupling" of a `Coupling` with `Affine`."""
    name = type(layer).__name__
    univariate = getattr(layer, "univariate", None)
    if univariate is not None:
        name = type(univariate).__name__ + name
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _encode_context(flow: Flow, rows: Tensor, context: Tensor | None) -> Tensor | None:
    """The context `(n, width)` as the layers take it."""
    if context is None:
        return None
    context = context.expand(len(rows), -1)
    return context if flow.context_encoder is None else flow.context_encoder(context)[0]
