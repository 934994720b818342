"""What flows have in common whose samples can be guided towards a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from diffeo.bijections.chain import Chain
from diffeo.bijections.guidance import Guidance
from diffeo.bijections.pixels import PixelAutoregressive
from diffeo.bijections.tokens import TokenAutoregressive
from diffeo.context import ContextSpec, repeat_context
from diffeo.flow import Flow
from diffeo.models.sizes import ImageShape
from diffeo.utils.ranges import NonNegative, Share, Whole, checked


class GuidedFlow(Flow, ABC):
    """A flow of images that learns its density with the class and without, as guidance needs it.

    Args:
        bijection: a chain.
        shape: of an image.
        class_dropout: share of the training images whose class is not seen in training mode: the
            mean of all classes stands for it.
        context: of a conditional density.
        options: those of `Flow`.

    Raises:
        ValueError: if there are no classes to drop.

    (Ho & Salimans 2022)
    """

    @abstractmethod
    def __init__(
        self,
        bijection: Chain,
        shape: ImageShape,
        class_dropout: Share,
        context: ContextSpec,
        **options: Any,
    ) -> None:
        if class_dropout and context.category is None:
            raise ValueError("class_dropout needs classes: give context=ContextSpec.classes(...).")
        super().__init__(bijection, shape, context=context, **options)
        self.class_dropout: float = class_dropout

    def prepared(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """See `Flow.prepared`; in training mode, some classes are dropped."""
        if self.training and self.class_dropout and context is not None:
            rows = self._check(x, context)
            assert rows is not None  # as `_check` has seen to
            device = generator.device if generator else rows.device
            drawn = torch.rand(len(rows), 1, generator=generator, device=device).to(rows.device)
            context = torch.where(drawn < self.class_dropout, no_class(rows), rows)
        return super().prepared(x, context, generator)

    @checked
    def sample(
        self,
        n: Whole,
        context: Tensor | int | None = None,
        *,
        temperature: NonNegative = 1.0,
        generator: Generator | None = None,
        guidance: NonNegative = 0.0,
    ) -> Tensor:
        """Draw n images `(n, C, H, W)`; see `Flow.sample`.

        Args:
            n: how many.
            context: of all, or of each.
            temperature: of the noise.
            generator: source of the noise.
            guidance: how far images are moved towards their class, and away from those that the
                model draws without one; 0 draws from the density itself, and 1 is a good start.

        Raises:
            ValueError: as `Flow.sample`, or if the flow has no classes to guide by.
        """
        rows = repeat_context(context, n, self.device)
        z = self.base.scaled(self.noise(n, generator), temperature)
        return self.decode(z, rows, guidance=guidance)

    def decode(self, z: Tensor, context: Tensor | None = None, *, guidance: float = 0.0) -> Tensor:
        """Images `(batch, C, H, W)` of noise z `(batch, dims)`, guided where `sample` is."""
        assert self.dequantizer is not None
        return self.dequantizer.inverse(self.guided(z, context, guidance)).contiguous()

    def guided(self, z: Tensor, context: Tensor | None, guidance: float) -> Tensor:
        """Pixels of noise z `(batch, dims)`, before they are rounded.

        Raises:
            ValueError: if there is guidance, and the flow has no `class_dropout`.
        """
        if not guidance:
            return self.invert(z, context)[0]
        check_guidance(self, guidance)
        rows = self._check_context(len(z), context)
        assert rows is not None  # since there are classes
        given, without = self._encode_context(rows), self._encode_context(no_class(rows))
        assert given is not None  # and so is `without`
        assert without is not None
        assert isinstance(self.bijection, Chain)
        moved = Guidance(without, guidance)
        for link in reversed(list(self.bijection)):
            if isinstance(link, PixelAutoregressive | TokenAutoregressive):
                z = link.guided_inverse(z, given, moved)
            else:
                z, _ = link.inverse(z, given)
        return z


def can_be_guided(flow: Flow) -> bool:
    """Whether a flow has learned what its density is without a class."""
    return isinstance(flow, GuidedFlow) and flow.class_dropout > 0


def check_guidance(flow: Flow, guidance: float) -> None:
    """Refuse guidance of a flow that cannot be guided."""
    if guidance and not can_be_guided(flow):
        raise ValueError(
            f"this {type(flow).__name__} cannot be guided, since it has not learned images without "
            "their class: leave guidance out, or train a PixelFlow or a TarFlow with "
            "class_dropout=0.1."
        )


def no_class(rows: Tensor) -> Tensor:
    """What stands for rows `(batch, classes)` of one class: the mean of all."""
    return torch.full_like(rows, 1 / rows.shape[1])
