"""What is exported of a flow, as modules of plain operations that draw nothing."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from diffeo.bijections.convolution import InvertibleConv1x1
from diffeo.bijections.dequantization import PixelDequantize, UniformDequantize
from diffeo.bijections.whitening import Whiten
from diffeo.flow import Flow

Inputs = dict[str, Tensor]


class Program(nn.Module):
    """One computation of a flow that `prepare` returned."""

    name: str  # of the file
    output: str
    unit: str  # of errors, in words

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def example(self, n: int) -> tuple[Inputs, Tensor]:
        """Inputs for n events, and the output of the flow itself."""
        raise NotImplementedError

    def encode_context(self, context: Tensor | None) -> Tensor | None:
        """The context as bijections take it, which `Flow` makes of it with checks of its values."""
        if context is None:
            return None
        if self.flow.context.category is not None:
            context = nn.functional.one_hot(context, self.flow.context.width).to(torch.float32)
        if self.flow.embedding is not None:
            return self.flow.embedding(context)
        encoder = self.flow.context_encoder
        return context if encoder is None else encoder(context)[0]


class Score(Program):
    """`x, [noise], [context] -> log p(x | context)`."""

    name: str = "score"
    output: str = "log_prob"
    unit: str = "nats"

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        dequantizer = flow.dequantizer
        if not isinstance(dequantizer, PixelDequantize | UniformDequantize | None):
            raise ValueError(
                f"{type(dequantizer).__name__} cannot be exported, only PixelDequantize and "
                "UniformDequantize: export the sampling alone, or a flow without it."
            )

    def forward(
        self, x: Tensor, noise: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities `(batch,)`."""
        dequantizer = self.flow.dequantizer
        if isinstance(dequantizer, PixelDequantize) and noise is not None:
            # Not by shifting bits, which the translation to ONNX takes for signed.
            x = (x.to(noise.dtype) * 2.0 ** (dequantizer.bits - 8)).floor() + noise
        elif isinstance(dequantizer, UniformDequantize) and noise is not None:
            x = x + torch.tensor(dequantizer.steps, dtype=x.dtype) * (noise - 0.5)
        z, log_det = self.flow.bijection(x, self.encode_context(context))
        return self.flow.base.log_prob(z) + log_det

    def example(self, n: int) -> tuple[Inputs, Tensor]:
        context = _contexts(self.flow, n)
        x = self.flow.sample(n, context.get("context"), generator=_seeded(n))
        log_prob = self.flow.log_prob(x, context.get("context"), generator=_seeded(n + 1))
        inputs = {"x": x}
        if self.flow.dequantizer is not None:  # the same noise as `log_prob` has just drawn
            inputs["noise"] = torch.rand(x.shape, generator=_seeded(n + 1))
        return inputs | context, log_prob


class Sample(Program):
    """`z, [context] -> x`."""

    name: str = "sample"
    output: str = "x"

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self.unit = "of the pixels" if flow.takes_pixels else "standard deviations"

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Data `(batch, *shape)`."""
        x, _ = self.flow.bijection.inverse(z, self.encode_context(context))
        return x if self.flow.dequantizer is None else self.flow.dequantizer.inverse(x)

    def example(self, n: int) -> tuple[Inputs, Tensor]:
        context = _contexts(self.flow, n)
        z = self.flow.noise(n, _seeded(n)).detach()
        return {"z": z, **context}, self.flow.decode(z, context.get("context"))


def _contexts(flow: Flow, n: int) -> Inputs:
    """Contexts like those of the training data; none for a flow without context."""
    width = flow.context.width
    if flow.context.category is not None:
        return {"context": torch.randint(width, (n,), generator=_seeded(n))}
    if not width:
        return {}
    if flow.embedding is not None:
        shape = [size for size in flow.context.event_shape if size is not None]
        if len(shape) < len(flow.context.event_shape):
            raise ValueError(
                f"contexts of shape {flow.context.shape_text('batch')} cannot be exported: make "
                "the flow with a context of a known shape."
            )
        return {"context": flow.embedding.example(n, shape, _seeded(n))}
    context = torch.randn(n, width, generator=_seeded(n))
    if flow.context_encoder is not None:
        context = flow.context_encoder.inverse(context)[0]
    return {"context": context}


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


# A flow of plain operations ---------------------------------------------------------------------


@torch.no_grad()
def prepare(flow: Flow) -> Flow:
    """A copy on the CPU, in float32 and eval mode, with matrices and parametrizations computed."""
    plain = copy.deepcopy(flow).to("cpu", torch.float32).eval().requires_grad_(False)
    plain.set_precision(None)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            _compute_parametrizations(module)
        if isinstance(module, InvertibleConv1x1):
            _compute_matrices(module)
        if isinstance(module, Whiten):
            _compute_inverse(module)
    return plain


def _compute_parametrizations(module: nn.Module) -> None:
    """Replace parametrized weights by buffers.

    `parametrize.remove_parametrizations` would change the class, which a copy shares with its
    original.
    """
    names = list(module.parametrizations)  # type: ignore[arg-type]
    weights = {name: getattr(module, name) for name in names}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, weight in weights.items():
        module.register_buffer(name, weight)


def _compute_matrices(conv: InvertibleConv1x1) -> None:
    """Replace the weights of a 1x1 convolution by its matrix, inverse and log-determinant."""
    methods = ("weight_and_log_det", "inverse_and_log_det")
    results = [tuple(part.clone() for part in getattr(conv, name)()) for name in methods]
    for name, _ in list(conv.named_parameters(recurse=False)):
        delattr(conv, name)
    for name, result in zip(methods, results, strict=True):
        setattr(conv, name, lambda result=result: result)


def _compute_inverse(whiten: Whiten) -> None:
    """Replace the triangular solve of a whitening, which ONNX lacks, by a product."""
    root = whiten.root.double()
    eye = torch.eye(len(root), dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False).to(whiten.root.dtype)
    whiten.solve = lambda x: x @ inverse.T  # type: ignore[method-assign]
