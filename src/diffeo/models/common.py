"""What models share: the types of their arguments, couplings for tables, sizes of images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.permutation import Permutation
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Univariate

# A class of `diffeo.networks`, or `functools.partial` of one, called with the number of inputs, of
# outputs, the widths of hidden layers (for images: the number of hidden channels), and the width
# of the context.
Network: TypeAlias = Callable[[int, int, Any, int], nn.Module]


def table_couplings(
    features: int,
    layers: int,
    hidden: Sequence[int],
    univariate: Univariate,
    network: Network,
    context_features: int,
) -> list[Bijection]:
    """Couplings of events `(batch, features)` that alternate halves, shuffled before each pair."""
    links: list[Bijection] = []
    for i in range(layers):
        if i % 2 == 0 and i > 0 and features > 2:
            links.append(Permutation.shuffle(features, seed=i))
        split = FeatureSplit(features, keep="first" if i % 2 == 0 else "second")
        links.append(coupling(split, univariate, network, hidden, context_features))
    return links


def coupling(
    split: Any, univariate: Univariate, network: Network, hidden: Any, context_features: int
) -> Coupling:
    """A coupling with a univariate map and a network of its own.

    Args:
        split: with the sizes `identity` and `transformed` of its parts.
        univariate: is copied.
        network: see `Network`.
        hidden: the widths that the network is called with.
        context_features: width of the context.
    """
    univariate = copy.deepcopy(univariate)
    outputs = univariate.parameters_each * split.transformed
    return Coupling(split, univariate, network(split.identity, outputs, hidden, context_features))


def check_size(height: int, width: int, halvings: int, unit: str) -> None:
    """Refuse an image size that cannot be halved so often, and name one that can.

    Args:
        height: of the images, in pixels.
        width: likewise.
        halvings: how often both are halved.
        unit: what is counted by that, "scale" or "level".

    Raises:
        ValueError: then.
    """
    if halvings < 1:
        raise ValueError(f"{unit}s is {halvings}: take at least 1.")
    if halvings > max(height, width).bit_length():  # 2^halvings may be too long to print
        raise ValueError(f"{height}x{width} cannot be halved {halvings} times: take fewer {unit}s.")
    step = 2**halvings
    if height % step or width % step:
        up = f"{-(-height // step) * step}x{-(-width // step) * step}"
        count = f"{halvings} {unit}s need" if halvings > 1 else f"1 {unit} needs"
        fewer = f", or take fewer {unit}s" if halvings > 1 else ""
        raise ValueError(
            f"{count} height and width that are multiples of {step}, not {height}x{width}: "
            f"resize to {up}{fewer}."
        )


def most_halvings(height: int, width: int, most: int) -> int:
    """How often, up to `most` times and at least once, both can be halved."""
    count = most
    while count > 1 and (height % 2**count or width % 2**count):
        count -= 1
    return count
