"""What is measured: a model in training, and ours as they are built for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import diffeo
from diffeo import Flow

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
RATE = 1e-4  # low, so that no model runs away on noise


class Subject:
    """A model, and what it does in a training step, when it scores and when it samples.

    Args:
        model: whose parameters Adam learns.
        log_prob: the log-densities of a batch, drawn before; or what stands for them.
        sample: draws as many.
        loss: what a step minimises; by default the mean of `-log_prob`.
        decode: makes one image of its latent.
    """

    keep_gradients = False

    def __init__(
        self,
        model: nn.Module,
        log_prob: Callable[[], Tensor],
        sample: Callable[[], object] | None = None,
        loss: Callable[[], Tensor] | None = None,
        decode: Callable[[], object] | None = None,
    ) -> None:
        self.model = model
        self._log_prob, self._sample, self._decode = log_prob, sample, decode
        self._loss = loss or (lambda: -log_prob().mean())
        # Its fused form is the fastest, for everyone.
        self.adam = torch.optim.Adam(model.parameters(), RATE, fused=True)

    def enter(self, task: str) -> None:
        """Set the mode of a task; in the task itself it would be timed."""
        self.model.train(task == "step")

    def step(self) -> None:
        """Forward, backward, Adam."""
        self.adam.zero_grad(set_to_none=not self.keep_gradients)
        self._loss().backward()
        self.adam.step()

    @torch.no_grad()
    def log_prob(self) -> None:
        """Score a batch."""
        self._log_prob()

    @torch.no_grad()
    def sample(self) -> None:
        """Draw a batch."""
        assert self._sample is not None
        self._sample()

    @torch.no_grad()
    def decode(self) -> None:
        """Decode one latent."""
        assert self._decode is not None
        self._decode()

    @torch.no_grad()
    def flops(self) -> int:
        """Floating-point operations of forward and backward, which is twice the former."""
        self.enter("step")
        with FlopCounterMode(display=False) as counter:
            self._loss()
        return 3 * counter.get_total_flops()

    def held(self) -> int:
        """Bytes of gradients and of the optimizer's state."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        states = [v for s in self.adam.state.values() for v in s.values()]
        tensors = [*gradients, *(v for v in states if isinstance(v, Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pixels(batch: int, shape: tuple[int, int, int], device: str) -> Tensor:
    """Random images; how long a step takes does not depend on what they show."""
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)


def prepared(flow: Flow, x: Tensor, precision: str, memory: str | None) -> Flow:
    """Ours, initialised from data on their device, with networks of a precision."""
    flow.to(x.device).initialize(x)
    flow.set_precision(PRECISIONS[precision])
    if memory is not None:
        flow.set_memory(memory)
    return flow


def glow(
    width: int,
    precision: str = "float32",
    memory: str | None = None,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    levels: int = 3,
    steps: int = 8,
    batch: int = 32,
    device: str = "cpu",
) -> Subject:
    """Our Glow, on a batch of pixels.

    Args:
        width: channels of the coupling networks.
        precision: of these networks, "float32" or "bfloat16".
        memory: "stored" or "constant"; None for what is usual.
        shape: (C, H, W) of an image.
        levels: L.
        steps: K.
        batch: images of a step and of a sample.
        device: "cpu" or "cuda".
    """
    x = pixels(batch, shape, device)
    flow = prepared(diffeo.Glow(shape, levels, steps, width), x, precision, memory)
    z = torch.randn(1, flow.dims, device=device)
    return Subject(
        flow,
        lambda: flow.log_prob(x),
        lambda: flow.sample(batch),
        decode=lambda: flow.decode(z),
    )


def image_realnvp(
    precision: str = "float32",
    memory: str | None = None,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    scales: int = 2,
    width: int = 64,
    blocks: int = 8,
    batch: int = 16,
    device: str = "cpu",
    checkerboard: str = "compact",
) -> Subject:
    """Our ImageRealNVP, on a batch of pixels; for the arguments see `glow` and the model."""
    x = pixels(batch, shape, device)
    flow = diffeo.ImageRealNVP(shape, scales, width, blocks, checkerboard=checkerboard)
    prepared(flow, x, precision, memory)
    return Subject(flow, lambda: flow.log_prob(x), lambda: flow.sample(batch))


def realnvp(features: int, batch: int) -> Subject:
    """Our RealNVP for tables, with its defaults: 8 affine couplings, hidden layers of 64 and 64."""
    x = torch.randn(batch, features)
    flow = diffeo.RealNVP(features).initialize(x)
    return Subject(flow, lambda: flow.log_prob(x), lambda: flow.sample(batch))
