"""Contexts that are no small vectors, such as sets, series and images, and networks for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Generator, Tensor, nn

from diffeo.bijections.elementwise import Standardize
from diffeo.context import ContextSpec
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Range

Axis = Annotated[int, Range(-8, 7)]
SAMPLE = 1_000_000  # numbers that mean and scale come from, of contexts taken evenly


class EmbeddedContext(ContextSpec):
    """A context of any shape, of which a network makes the numbers that the flow depends on.

        p(x | e(c)),   c the context (batch, *shape), e(c) (batch, width)

    The network is a part of the flow: it learns with it, by the same loss, and computes once for
    each call. The contexts are standardized first, by what `Flow.initialize` sees of them.

    Args:
        network: e, of a flow's own; a module that takes the standardized context alone.
        shape: of one context; None for any length, as of sets of some number of draws.
        width: how many numbers e(c) has; by default the `outputs` of a network of diffeo's.
        axis: of one context, along which numbers have units of their own, such as 0 for channels
            and -1 for the columns of a set; by default all have one unit.

    Examples:
        >>> import diffeo
        >>> given = EmbeddedContext(SetEncoder(features=1, outputs=8), shape=(None, 1))
        >>> flow = diffeo.MAF(features=2, context=given)
        >>> flow.log_prob(torch.zeros(3, 2), torch.zeros(3, 50, 1)).shape
        torch.Size([3])

    Raises:
        ValueError: if the network is none, or the shape has no such axis, or one of any length.

    (Cranmer, Brehmer & Louppe 2020, of posteriors given simulated data)
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[Count | None],
        width: Count | None = None,
        axis: Axis | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ValueError(f"the network of a context is {network!r}: give a module.")
        shape, width = tuple(shape), width or getattr(network, "arguments", {}).get("outputs")
        if not shape:
            raise ValueError("a context of shape () is one number: give the flow context=1.")
        if width is None:
            raise ValueError(
                f"how many numbers {type(network).__name__} returns is not known: name the width."
            )
        if axis is not None and (not -len(shape) <= axis < len(shape) or shape[axis] is None):
            raise ValueError(
                f"axis {axis} of a context of shape {shape} has no known length: choose another."
            )
        vars(self).update(network=network, shape=shape, outputs=width, axis=axis)

    network: nn.Module
    shape: tuple[int | None, ...]
    outputs: int
    axis: int | None

    @property
    def width(self) -> int:
        """How many numbers the flow depends on."""
        return self.outputs

    @property
    def event_shape(self) -> tuple[int | None, ...]:
        """The shape of one context."""
        return self.shape

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        # What a density is conditional on: networks may differ between the flows of a mixture.
        return isinstance(other, EmbeddedContext) and self.shape == other.shape

    def __hash__(self) -> int:
        return hash(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.network).__name__}, shape={self.shape})"


class Embedding(nn.Module):
    """The network of an `EmbeddedContext`, behind a standardization.

    Args:
        spec: what is embedded.
    """

    def __init__(self, spec: EmbeddedContext) -> None:
        super().__init__()
        self.network: nn.Module = spec.network
        self.width: int = spec.width
        self.axis: int | None = spec.axis if spec.axis is None or spec.axis < 0 else spec.axis + 1
        units = 1 if spec.axis is None else spec.shape[spec.axis]
        self.standardize: Standardize = Standardize(units or 1)

    def forward(self, context: Tensor) -> Tensor:
        """The numbers `(batch, width)` of contexts `(batch, *shape)`."""
        columns = self.standardize(self._columns(context))[0]
        standardized = columns[..., 0] if self.axis is None else columns.movedim(-1, self.axis)
        numbers: Tensor = self.network(standardized)
        if tuple(numbers.shape[1:]) != (self.width,):
            raise ValueError(
                f"the network of the context returns shape {tuple(numbers.shape)}, and its width "
                f"is {self.width}: let it return (batch, {self.width})."
            )
        return numbers

    @torch.no_grad()
    def initialize(self, context: Tensor) -> Tensor:
        """Set the standardization from contexts `(batch, *shape)`, once, and return `forward`.

        Raises:
            ValueError: if a context is not finite.
        """
        if not self.standardize.initialized and len(context):
            if not context.isfinite().all():
                raise ValueError("a context is not finite: leave its row out.")
            step = math.ceil(context.numel() / SAMPLE)
            self.standardize.fit(self._columns(context[::step]).flatten(0, -2))
        return self(context)

    def example(self, n: int, shape: Sequence[int], generator: Generator) -> Tensor:
        """Contexts `(n, *shape)` that are like those of the data in mean and scale alone."""
        like = torch.randn(n, *shape, generator=generator)
        columns = self.standardize.inverse(self._columns(like))[0]
        return columns[..., 0] if self.axis is None else columns.movedim(-1, self.axis)

    def _columns(self, context: Tensor) -> Tensor:
        """The context `(..., units)`, each column of which has a unit of its own."""
        return context[..., None] if self.axis is None else context.movedim(self.axis, -1)


class SetEncoder(Configurable, nn.Module):
    """A network of sets `(batch, items, features)`, for which the order of the items is nothing.

        e(c) = g(1/n sum_i h(c_i))

    with h and g multilayer perceptrons. The mean loses how many items there are: where the number
    varies and matters, let it be one of the features.

    Args:
        features: of each item.
        outputs: how many numbers e has.
        hidden: widths of the hidden layers of h, and in reverse of g.

    (Zaheer et al. 2017)
    """

    def __init__(self, features: Count, outputs: Count, hidden: Sequence[Count] = (64, 64)) -> None:
        super().__init__()
        last = hidden[0] if hidden else features
        self.each: nn.Sequential = nn.Sequential(*_layers(nn.Linear, [features, *hidden]))
        self.whole: nn.Sequential = nn.Sequential(
            *_layers(nn.Linear, [*hidden][::-1]), nn.Linear(last, outputs)
        )

    def forward(self, context: Tensor) -> Tensor:
        """`(batch, outputs)`."""
        return self.whole(self.each(context).mean(1))


class ConvEncoder(Configurable, nn.Module):
    """A network of images `(batch, C, H, W)` or series `(batch, C, length)`.

        h_0 = c,   h_i = relu(conv(h_{i-1})) with stride 2,   e(c) = W h + b

    Args:
        shape: (C, H, W) of an image, or (C, length) of a series.
        outputs: how many numbers e has.
        channels: of each convolution, which halves each length.
    """

    def __init__(
        self, shape: Sequence[Count], outputs: Count, channels: Sequence[Count] = (16, 32)
    ) -> None:
        super().__init__()
        if len(shape) not in (2, 3):
            raise ValueError(
                f"the shape is {tuple(shape)}: give (C, H, W) of an image or (C, length) of a "
                "series."
            )
        kind = nn.Conv1d if len(shape) == 2 else nn.Conv2d
        sizes = [math.ceil(size / 2 ** len(channels)) for size in shape[1:]]
        widths = [shape[0], *channels]
        self.layers: nn.Sequential = nn.Sequential(
            *_layers(partial(kind, kernel_size=3, stride=2, padding=1), widths),
            nn.Flatten(),
            nn.Linear(widths[-1] * math.prod(sizes), outputs),
        )

    def forward(self, context: Tensor) -> Tensor:
        """`(batch, outputs)`."""
        return self.layers(context)


def _layers(kind: Callable[[int, int], nn.Module], widths: Sequence[int]) -> list[nn.Module]:
    """Layers of these widths, each followed by a ReLU."""
    pairs = itertools.pairwise(widths)
    return [part for pair in pairs for part in (kind(*pair), nn.ReLU())]
