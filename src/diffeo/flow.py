"""A flow: a bijection onto the noise of a base density."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import torch
from torch import Generator, Tensor

from diffeo.bases import Base, Normal
from diffeo.bijections.base import Bijection
from diffeo.bijections.chain import Chain
from diffeo.bijections.convolution import naming
from diffeo.bijections.coupling import Conditioned
from diffeo.bijections.dequantization import Dequantizer
from diffeo.bijections.memory import Memory
from diffeo.bijections.normalization import restart_batch_norms
from diffeo.context import ContextSpec, Width, repeat_context
from diffeo.embedding import EmbeddedContext, Embedding
from diffeo.networks import mlp_blocks
from diffeo.pretrained.hub import PretrainedModel
from diffeo.utils.compiling import Program, compile_options
from diffeo.utils.modules import check_tensor, nan_to_minus_infinity
from diffeo.utils.modules import eval_mode as eval_mode
from diffeo.utils.ranges import Count, NonNegative, Whole, checked

if TYPE_CHECKING:
    from diffeo.distribution import FlowDistribution


class Flow(PretrainedModel):
    """A density made of a bijection f onto standard noise.

        log p(x) = log p_Z(f(x)) + log|det df/dx|,   x = f^-1(z) with z ~ p_Z

    Args:
        bijection: f, from data `(batch, *shape)` to noise `(batch, dims)`.
        shape: of one event: the number of features of a table's row, or (C, H, W) of an image.
        base: p_Z; by default `Normal()`.
        context: what a conditional density p(x | context) depends on: a `ContextSpec`, or how many
            numbers there are. Where it is one category, classes may be given as whole numbers
            `(batch,)`; the bijection sees a row of zeros and a one, `(batch, classes)`. Of images,
            sets and series, an `EmbeddedContext`.
        context_encoder: a map applied to the context before the bijection sees it; an
            `EmbeddedContext` has its own.
        dequantizer: maps discrete data to the continuum, before the bijection.
        latent_shapes: shape of each level inside the flat z, in order; by default one level.

    Attributes:
        metadata: plain values that are saved with the model, such as the names of columns.
        defaults: of a model, the objects that stand for arguments of None.
        usual_lr: of a model, the largest learning rate that suits it; None for that of others.

    Raises:
        ValueError: by all methods, if x, z or context has the wrong shape or dtype.

    (Rezende & Mohamed 2015; Papamakarios et al. 2021)
    """

    defaults: ClassVar[dict[str, Any]] = {}
    usual_lr: ClassVar[float | None] = None

    def __init__(
        self,
        bijection: Bijection,
        shape: Count | Sequence[Count],
        *,
        base: Base | None = None,
        context: ContextSpec | Width | None = None,
        context_encoder: Bijection | None = None,
        dequantizer: Dequantizer | None = None,
        latent_shapes: Sequence[Sequence[Count]] | None = None,
    ) -> None:
        super().__init__()
        self.bijection = bijection
        self.shape: tuple[int, ...] = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        self.dims: int = math.prod(self.shape)
        levels = latent_shapes or [(self.dims,)]
        self.latent_shapes: list[tuple[int, ...]] = [tuple(level) for level in levels]
        self.base: Base = Normal() if base is None else base
        if not isinstance(self.base, Base):
            raise ValueError(f"the base is {base!r}: give an object such as Normal().")
        self.base.prepare(self.dims)
        self.context: ContextSpec = ContextSpec.of(context)
        embedded = self.context if isinstance(self.context, EmbeddedContext) else None
        self.context_encoder: Bijection | None = context_encoder if embedded is None else None
        self.embedding: Embedding | None = None if embedded is None else Embedding(embedded)
        self.dequantizer: Dequantizer | None = dequantizer and dequantizer.prepare(self.shape)
        self.metadata: dict[str, Any] = {}
        self._program: Program | None = None

    @property
    def context_features(self) -> int:
        """How many numbers of context the bijection sees; 0 for none."""
        return self.context.width

    @property
    def takes_pixels(self) -> bool:
        """Whether events are pixels, uint8; their density is then measured in bits/dim."""
        return self.dequantizer is not None and self.dequantizer.input_dtype is not None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._reference().device

    @property
    def nats_per_bpd(self) -> float:
        """How many nats of a whole event are one bit/dim: `dims * log 2`."""
        return self.dims * math.log(2)

    @property
    def chunk(self) -> int:
        """How many events to pass at once: many, of networks whose activations still fit."""
        return max(1, min(8_192, 2**20 // self.dims))

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Log-density of each event of x `(batch, *shape)`: `(batch,)`, in nats, in x's units.

        With a dequantizer that is not `exact` it is that of a noisy copy, drawn with `generator`.

        In eval mode it is -inf where an event is so far from all data that it leaves the range of
        its dtype on the way to z, and NaN only where x or context is. In training mode such an
        event may give NaN, which a training loop then notices.
        """
        y, context, entry = self.prepared(x, context, generator)
        with naming(self):
            return (self._program or self._scores)(x, y, context, entry)

    def _scores(self, x: Tensor, y: Tensor, context: Tensor | None, entry: Tensor | None) -> Tensor:
        log_prob = self.log_density(y, context)
        log_prob = log_prob if entry is None else log_prob + entry
        return log_prob if self.training else nan_to_minus_infinity(log_prob, x, context)

    def prepared(
        self, x: Tensor, context: Tensor | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `log_density` takes, and what dequantization adds to it; x and context checked."""
        context = self._check(x, context)
        y, entry = self.dequantizer.scored(x, generator) if self.dequantizer else (x, None)
        return y, context, entry

    def log_density(self, x: Tensor, context: Tensor | None) -> Tensor:
        """`log_prob` `(batch,)` of what is `prepared`, without what dequantization adds."""
        z, log_det = self.bijection(x, self._encode_context(context))
        return self.base.log_prob(z) + log_det

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """`log_prob`: what hooks on the flow, and `DistributedDataParallel`, are for."""
        return self.log_prob(x, context, generator=generator)

    def bits_per_dim(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Bits for each dimension of x `(batch, *shape)`: `(batch,)`.

            -log p(x) / (dims * log 2)

        For 8-bit images the density is per grey level, so this is what is published as bits/dim.
        """
        return -self.log_prob(x, context, generator=generator) / self.nats_per_bpd

    @checked
    def sample(
        self,
        n: Whole,
        context: Tensor | int | None = None,
        *,
        temperature: NonNegative = 1.0,
        generator: Generator | None = None,
    ) -> Tensor:
        """Draw n events `(n, *shape)`; their noise is multiplied by `temperature` (`Base.scaled`).

        Args:
            n: how many.
            context: `(n, context_features)`, or one row of it for all of them; for a
                class-conditional flow `(n,)`, or one class for all of them: `(1,)`, or a number.
            temperature: 1 for the density itself, less for more typical rows, 0 for the mode of z.
            generator: source of the noise; torch's global one if none is given.

        Raises:
            ValueError: if n or temperature is negative, or context is missing or misshapen, or the
                base has no such temperature.
        """
        rows = repeat_context(context, n, self.device)
        return self.decode(self.base.scaled(self.noise(n, generator), temperature), rows)

    def noise(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n points of the base density, `(n, dims)`."""
        return self.base.sample(n, self.dims, self._reference(), generator).to(self.device)

    def distribution(
        self, context: Tensor | None = None, *, validate_args: bool | None = None
    ) -> FlowDistribution:
        """The density as one of `torch.distributions`, and of Pyro (see `FlowDistribution`)."""
        from diffeo.distribution import distribution_of

        return distribution_of(self, context, validate_args)

    def encode(
        self, x: Tensor, context: Tensor | None = None, *, generator: Generator | None = None
    ) -> Tensor:
        """Noise z `(batch, dims)` of data x.

        It draws nothing, a dequantizer taking the middle of each cell; `decode(encode(x))` is x.
        With a generator z is that of a noisy copy, which is distributed as the base if the flow is
        right; it decodes to x but for points at the very edge of a cell.
        """
        context = self._encode_context(self._check(x, context))
        if self.dequantizer is not None:
            dequantizer = self.dequantizer
            x, _ = dequantizer(x) if generator is None else dequantizer.noisy(x, generator)
        with naming(self):
            return self.bijection(x, context)[0].contiguous()

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Data x `(batch, *shape)` of noise z `(batch, dims)`."""
        x, _ = self.invert(z, context)
        return (x if self.dequantizer is None else self.dequantizer.inverse(x)).contiguous()

    def invert(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The bijection's `(x, log|det dx/dz|)` of noise z: before a dequantizer rounds x."""
        check_tensor("z", z, self._reference())
        if z.ndim != 2 or z.shape[1] != self.dims:
            raise ValueError(f"expected z of shape (batch, {self.dims}), got {tuple(z.shape)}.")
        context = self._encode_context(self._check_context(len(z), context))
        with naming(self):
            return self.bijection.inverse(z, context)

    def split_latents(self, z: Tensor) -> list[Tensor]:
        """The levels of z `(batch, dims)`, each `(batch, *shape)` with a shape of latent_shapes."""
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        levels = zip(z.split(sizes, dim=1), self.latent_shapes, strict=True)
        return [level.unflatten(1, shape) for level, shape in levels]

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Self:
        """Set what starts from data: pass the whole training split, or a good part of it.

        Before, a standardization or an actnorm is the identity. What was initialised before stays
        as it is, and so does all if the data are refused. Returns the flow itself.
        """
        context = self._check(x, context)
        before = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        try:
            for encoder in (self.embedding, self.context_encoder):
                if encoder is not None:
                    assert context is not None  # as `_check` has seen to
                    context = encoder.initialize(context)
            if self.dequantizer is not None:
                self.dequantizer.initialize(x)
                x, _ = self.dequantizer(x)
            self.bijection.initialize(x, context)
        except Exception:
            self.load_state_dict(before)
            raise
        return self

    @torch.no_grad()
    def recalibrate(
        self, batches: Iterable[tuple[Tensor, Tensor | None]], *, generator: Generator | None = None
    ) -> Self:
        """Set the averages of batch normalizations from these batches `(x, context)`.

        A flow with `BatchNorm` that was trained by hand, or whose weights were changed, needs it
        before it is evaluated; a few thousand training events suffice. Returns the flow itself.
        """
        if not restart_batch_norms(self):
            return self
        was_training = self.training
        self.train()
        for x, context in batches:
            self.log_prob(x, context, generator=generator)
        return self.train(was_training)

    def set_precision(self, dtype: torch.dtype | None) -> Self:
        """Let the networks compute in a lower precision, such as `torch.bfloat16`.

        None is that of the flow. The data between the networks and the log-determinants keep their
        precision, and log-likelihoods agree to about 1e-3 of their value. To decode what was
        encoded bit for bit, use None (see `Coupling`). Returns the flow itself.
        """
        for module in self.modules():
            if isinstance(module, Conditioned):
                module.precision = dtype
        return self

    def set_memory(self, memory: Memory) -> Self:
        """Choose what training stores: "stored" activations, or "constant" memory (see `Chain`).

        Constant memory does not grow with depth, for a third more time. Returns the flow itself.
        """
        for module in self.modules():
            if isinstance(module, Chain):
                module.memory = memory
        return self

    def compile(self, *args: Any, **options: Any) -> Self:  # type: ignore[override]
        """Compile `log_prob` and the bijection by `torch.compile`, once for all batch sizes.

        `log_prob`, `encode` and training use programs from the next call on, which compiles and
        takes some seconds to minutes. Weights, state and results stay, up to rounding. It pays for
        small tables and on GPUs; on a CPU, convolutions gain nothing. Copies of the flow are not
        compiled. Options are those of `torch.compile`. Returns the flow itself.

        Raises:
            ValueError: if there is no compiler for the flow's device.
        """
        mlp_blocks.prepared()
        self.bijection.compile(*args, **compile_options(self.device.type, **options))
        self._program = Program(self._scores, self.device.type, *args, **options)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_program": None}

    def _check(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """Refuse what does not fit; classes become rows."""
        pixels = self.dequantizer is not None and self.dequantizer.input_dtype
        check_tensor("x", x, self._reference(), pixels or None)
        if tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, ("batch", *self.shape)))
            raise ValueError(f"expected x of shape ({wanted}), got {tuple(x.shape)}.")
        return self._check_context(len(x), context)

    def _check_context(self, rows: int, context: Tensor | None) -> Tensor | None:
        return self.context.checked(context, rows, self._reference())

    def _encode_context(self, context: Tensor | None) -> Tensor | None:
        """A context that has been checked, as the bijection takes it."""
        if context is None:
            return None
        if self.embedding is not None:
            # One row that stands for all (see `repeat_context`) is embedded once.
            repeated = len(context) > 1 and context.stride(0) == 0
            numbers = self.embedding(context[:1] if repeated else context)
            context = numbers.expand(len(context), -1)
        return context if self.context_encoder is None else self.context_encoder(context)[0]


load: Final = cast(type[Flow], PretrainedModel).from_pretrained  # a `FlowMixture` too
