"""A bijection and a base density make a flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor

from diffeo.bijections.backward import Memory
from diffeo.bijections.base import Bijection, Chain, Context, Dequantizer
from diffeo.bijections.convolution import SingularError
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.normalization import BatchNorm
from diffeo.distribution import FlowDistribution, distribution_of
from diffeo.pretrained.hub import Shareable

Base = Literal["normal", "logistic"]
Condition = Context | Int[Tensor, " batch"]


class Flow(Shareable):
    """A density made of a bijection f onto standard noise.

        log p(x) = log p_Z(f(x)) + log|det df/dx|,   x = f^-1(z) with z ~ p_Z

    Args:
        bijection: f, from data `(batch, *shape)` to noise `(batch, dims)`.
        shape: of one event: the number of features of a table's row, or (C, H, W) of an image.
        base: p_Z, independent in each dimension: "normal", N(0, 1), or "logistic", the standard
            logistic of NICE.
        context_features: width of the context of a conditional density p(x | context); 0 for none.
        num_classes: number of classes of a class-conditional density p(x | class), whose context
            is a whole number for each event, `(batch,)`; the bijection sees it as a row of zeros
            and a one, `(batch, num_classes)`, and may be given that too.
        context_encoder: a map applied to the context before the bijection sees it.
        dequantizer: the door for discrete data, passed before the bijection.
        latent_shapes: shape of each level inside the flat z, in order; by default one level.

    A subclass whose constructor takes plain values (numbers, strings, lists of them) can be saved
    and loaded; `metadata`, a dictionary of such values, travels with it.

    (Rezende & Mohamed 2015; Papamakarios et al. 2021)
    """

    def __init__(
        self,
        bijection: Bijection,
        shape: int | Sequence[int],
        *,
        base: Base = "normal",
        context_features: int = 0,
        num_classes: int = 0,
        context_encoder: Bijection | None = None,
        dequantizer: Dequantizer | None = None,
        latent_shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__()
        if base not in ("normal", "logistic"):
            raise ValueError(f"base is {base!r}: choose 'normal' or 'logistic'.")
        self.bijection = bijection
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dims = math.prod(self.shape)
        self.latent_shapes = list(latent_shapes or [(self.dims,)])
        self.base = base
        if num_classes and context_features not in (0, num_classes):
            raise ValueError(
                f"{num_classes} classes are a context of as many features, not of "
                f"{context_features}: leave context_features out."
            )
        self.context_features = context_features or num_classes
        self.num_classes = num_classes
        self.context_encoder = context_encoder
        self.dequantizer = dequantizer
        self.metadata: dict[str, Any] = {}

    @property
    def takes_pixels(self) -> bool:
        """Whether events are pixels, uint8; their density is then measured in bits/dim."""
        return self.dequantizer is not None and self.dequantizer.takes is not None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._reference().device

    @property
    def nats_per_bpd(self) -> float:
        """What one bit/dim is of a whole event, in nats: `dims * log 2`."""
        return self.dims * math.log(2)

    @property
    def chunk(self) -> int:
        """How many events to pass at once: many, of networks whose activations still fit."""
        return max(1, min(8_192, 2**20 // self.dims))

    # Density ------------------------------------------------------------------------------------

    def log_prob(
        self,
        x: Shaped[Tensor, "batch *shape"],
        context: Condition | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """Log-density of each event of x `(batch, *shape)`: `(batch,)`, in nats, in x's units.

        With a dequantizer it is that of one noisy copy, drawn with `generator`.

        In eval mode it is -inf where an event is so far from all data that it leaves the range of
        its dtype on the way to z, and NaN only where x or context is. In training mode such an
        event may give NaN, so that whoever trains notices.

        Raises:
            ValueError: if x or context has the wrong shape or dtype.
        """
        context = self._check(x, context)
        entry = None
        given = x
        if self.dequantizer is not None:
            x, entry = self.dequantizer.noisy(x, generator)
        with self.naming():
            z, log_det = self.bijection(x, context)
        log_prob = self._base_log_prob(z) + log_det
        if entry is not None:
            log_prob = log_prob + entry
        return log_prob if self.training else _nowhere(log_prob, given, context)

    def bits_per_dim(
        self,
        x: Shaped[Tensor, "batch *shape"],
        context: Condition | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """Bits for each dimension of x `(batch, *shape)`: `(batch,)`.

            -log p(x) / (dims * log 2)

        For 8-bit images the density is per grey level, so this is what is published as bits/dim.

        Raises:
            ValueError: if x or context has the wrong shape or dtype.
        """
        return -self.log_prob(x, context, generator=generator) / self.nats_per_bpd

    def sample(
        self,
        n: int,
        context: Condition | None = None,
        *,
        temperature: float = 1.0,
        generator: Generator | None = None,
    ) -> Shaped[Tensor, "n *shape"]:
        """Draw n events `(n, *shape)`; their noise is multiplied by `temperature`.

        Args:
            n: how many.
            context: `(n, context_features)`, or one row of it for all of them; for a
                class-conditional flow `(n,)` or `(1,)`.
            temperature: 1 for the density itself, less for more typical rows, 0 for the mode of z.
            generator: source of the noise; torch's global one if none is given.

        Raises:
            ValueError: if n or temperature is negative, or context is missing or misshapen.
        """
        if n < 0 or not 0 <= temperature < math.inf:
            raise ValueError(
                f"n and temperature must be 0 or more and finite, not {n} and {temperature}."
            )
        if context is not None and len(context) == 1:
            context = context.expand(n, *context.shape[1:])
        return self.decode(self.noise(n, generator) * temperature, context)

    def noise(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n dims"]:
        """Draw n points of the base density, `(n, dims)`."""
        like = self._reference()
        device = generator.device if generator is not None else like.device
        z = torch.empty(n, self.dims, dtype=like.dtype, device=device)
        if self.base == "normal":
            z.normal_(generator=generator)
        else:
            # Inverse of the logistic's distribution function, kept off 0 where it is infinite.
            z.uniform_(generator=generator)
            z = z.clamp_(min=torch.finfo(z.dtype).tiny, max=1 - torch.finfo(z.dtype).eps).logit()
        return z.to(like.device)

    def distribution(
        self, context: Tensor | None = None, *, validate_args: bool | None = None
    ) -> FlowDistribution:
        """The density as one of `torch.distributions`, and of Pyro (see `FlowDistribution`)."""
        return distribution_of(self, context, validate_args)

    # Latents ------------------------------------------------------------------------------------

    def encode(
        self,
        x: Shaped[Tensor, "batch *shape"],
        context: Condition | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch dims"]:
        """Noise z `(batch, dims)` of data x.

        It draws nothing, a dequantizer taking the middle of each cell; `decode(encode(x))` is x.
        With a generator z is that of a noisy copy, which is distributed as the base if the flow is
        right; it decodes to x but for points at the very edge of a cell.

        Raises:
            ValueError: if x or context has the wrong shape or dtype.
        """
        context = self._check(x, context)
        if self.dequantizer is not None:
            door = self.dequantizer
            x, _ = door(x) if generator is None else door.noisy(x, generator)
        with self.naming():
            return self.bijection(x, context)[0].contiguous()

    def decode(
        self, z: Float[Tensor, "batch dims"], context: Condition | None = None
    ) -> Shaped[Tensor, "batch *shape"]:
        """Data x `(batch, *shape)` of noise z `(batch, dims)`.

        Raises:
            ValueError: if z or context has the wrong shape or dtype.
        """
        if z.ndim != 2 or z.shape[1] != self.dims:
            raise ValueError(f"expected z of shape (batch, {self.dims}), got {tuple(z.shape)}.")
        self._check_dtype("z", z)
        context = self._check_context(len(z), context)
        with self.naming():
            x, _ = self.bijection.inverse(z, context)
        return (x if self.dequantizer is None else self.dequantizer.inverse(x)).contiguous()

    def split_latents(self, z: Float[Tensor, "batch dims"]) -> list[Float[Tensor, "batch ..."]]:
        """The levels of z `(batch, dims)`, each `(batch, *shape)` with a shape of latent_shapes."""
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        levels = zip(z.split(sizes, dim=1), self.latent_shapes, strict=True)
        return [level.unflatten(1, shape) for level, shape in levels]

    # Preparation --------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(
        self, x: Shaped[Tensor, "batch *shape"], context: Condition | None = None
    ) -> Self:
        """Let the links that start from data see x: pass the whole training split, or a good part.

        Does nothing to a model that has been initialised before. Returns the flow itself.
        """
        was_training = self.training
        self.train()
        self.encode(x, context)
        return self.train(was_training)

    @torch.no_grad()
    def recalibrate(
        self,
        batches: Iterable[tuple[Tensor, Context | None]],
        *,
        generator: Generator | None = None,
    ) -> Self:
        """Let batch normalizations take their averages from these batches `(x, context)`.

        A flow with `BatchNorm` that was trained by hand, or whose weights were changed, needs it
        before it is evaluated; a few thousand training events do. Others pass it unchanged.
        Returns the flow itself.
        """
        norms = [module for module in self.modules() if isinstance(module, BatchNorm)]
        if not norms:
            return self
        for norm in norms:
            norm.restart()
        was_training = self.training
        self.train()
        for x, context in batches:
            self.log_prob(x, context, generator=generator)
        return self.train(was_training)

    def set_precision(self, dtype: torch.dtype | None) -> Self:
        """Let the networks compute in a lower precision, such as `torch.bfloat16`.

        None is that of the flow.
        The stream of the data and the log-determinants stay as they are, and log-likelihoods agree
        to about 1e-3 of their value. To decode what was encoded bit for bit, take None (see
        `Coupling`). Returns the flow itself.
        """
        for module in self.modules():
            if isinstance(module, Coupling):
                module.precision = dtype
        return self

    def set_memory(self, memory: Memory) -> Self:
        """Choose what training keeps: "stored" activations, or "constant" memory (see `Chain`).

        With constant memory it grows no more with the number of couplings, and training takes up
        to a third more time. Returns the flow itself.
        """
        for module in self.modules():
            if isinstance(module, Chain):
                module.memory = memory
        return self

    # Inside -------------------------------------------------------------------------------------

    def _base_log_prob(self, z: Float[Tensor, "batch dims"]) -> Float[Tensor, " batch"]:
        if self.base == "normal":
            return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
        return -(F.softplus(z) + F.softplus(-z)).sum(1)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Say which layer it is that cannot be inverted, by its name in the flow."""
        try:
            yield
        except SingularError as error:
            layers = {module: name for name, module in self.named_modules()}
            raise SingularError(error.layer, f"the layer {layers[error.layer]}") from None

    def _check(self, x: Tensor, context: Condition | None) -> Context | None:
        """Refuse what does not fit, and bring the context to the form that the links expect."""
        if tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(f"expected x of shape ({wanted}), got {tuple(x.shape)}.")
        if self.dequantizer is not None and self.dequantizer.takes is not None:
            if x.dtype != self.dequantizer.takes:
                raise ValueError(
                    f"x is {x.dtype} but this flow takes {self.dequantizer.takes}: pass pixels as "
                    "they are, 0 to 255."
                )
        else:
            self._check_dtype("x", x)
        return self._check_context(len(x), context)

    def _check_dtype(self, name: str, value: Tensor) -> None:
        dtype = self._reference().dtype
        if value.dtype != dtype:
            raise ValueError(
                f"{name} is {value.dtype} but the flow is {dtype}: convert one with .to()."
            )

    def _check_context(self, rows: int, context: Condition | None) -> Context | None:
        if self.context_features == 0:
            if context is not None:
                raise ValueError("this flow takes no context: leave it out.")
            return None
        if self.num_classes and context is not None and not context.is_floating_point():
            context = self._one_hot(context)
        shape = None if context is None else tuple(context.shape)
        if context is None or shape != (rows, self.context_features):
            raise ValueError(
                f"this flow needs a context of shape ({rows}, {self.context_features}), "
                f"got {shape}."
            )
        self._check_dtype("context", context)
        if self.context_encoder is not None:
            context, _ = self.context_encoder(context)
        return context

    def _one_hot(self, labels: Int[Tensor, " batch"]) -> Context:
        if labels.ndim != 1 or not ((labels >= 0) & (labels < self.num_classes)).all():
            raise ValueError(
                f"classes must be whole numbers (batch,) from 0 to {self.num_classes - 1}."
            )
        return F.one_hot(labels.long(), self.num_classes).to(self._reference().dtype)


def _nowhere(log_prob: Tensor, *given: Tensor | None) -> Tensor:
    """-inf for NaN, but where a NaN was given."""
    lost = log_prob.isnan()
    for tensor in given:
        if tensor is not None and tensor.is_floating_point():
            lost = lost & ~tensor.flatten(1).isnan().any(1)
    return log_prob.masked_fill(lost, -math.inf)


@contextmanager
def eval_mode(flow: Flow) -> Iterator[None]:
    """The flow in eval mode and without gradients; every module's own mode comes back after."""
    modes = [(module, module.training) for module in flow.modules()]
    flow.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


# The one word for most: a folder, a model that ships ("mnist"), or one on the hub.
load = Flow.from_pretrained
