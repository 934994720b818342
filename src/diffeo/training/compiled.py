"""A loss and its gradient as one compiled program."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call, grad_and_value

from diffeo.bijections.normalization import BatchNorm
from diffeo.flow import Flow
from diffeo.networks import mlp_blocks
from diffeo.training.objective import PreparedObjective
from diffeo.training.vectors import Vectors
from diffeo.utils.compiling import compile_options

# The compiler of torch remembers its programs here, and a second run loads what a first compiled.
CACHE, FOLDER = "TORCHINDUCTOR_CACHE_DIR", Path("~/.cache/diffeo/compiled")


def can_be_one_program(flow: Flow) -> bool:
    """Whether the gradient of a flow's loss can be computed by a `CompiledGradient`.

    Not that of images, whose weights lie in memory as convolutions read them; nor of layers that
    keep averages, of a model with a likelihood of its own, or of noise that is learned.
    """
    learned = flow.dequantizer is not None and any(True for _ in flow.dequantizer.parameters())
    averages = any(isinstance(part, BatchNorm) for part in flow.modules())
    own = type(flow).log_prob is not Flow.log_prob
    return not (flow.takes_pixels or learned or averages or own)


class CompiledGradient:
    """The loss of a batch and its gradient by one program, compiled once for all batch sizes.

    Forward and backward pass are one graph, so that nothing is stored between them but what is
    cheaper to store than to compute again, and no operation is called by itself.

    Args:
        flow: one that `can_be_one_program`.
        nats: see `Objective`.
        vectors: all weights of the flow that learn; they get the gradient.

    Raises:
        ValueError: if there is no compiler; by the first call, if it cannot compile the flow.
    """

    def __init__(self, flow: Flow, nats: float, vectors: Vectors) -> None:
        # Before the compiler is imported, which chooses a folder of its own.
        os.environ.setdefault(CACHE, str(FOLDER.expanduser()))
        options = compile_options(flow.device.type, dynamic=None)
        mlp_blocks.prepared()
        self.flow = flow
        self.vectors = vectors
        self.objective: PreparedObjective = PreparedObjective(flow, nats)
        known = {id(weight): name for name, weight in self.objective.named_parameters()}
        self.names: list[list[str]] = [
            [known[id(weight)] for weight in group] for group in vectors.weights
        ]
        # No leaves, which remember gradients: the program differentiates by itself.
        self.weights: dict[str, Tensor] = {
            n: w.detach() for n, w in self.objective.named_parameters()
        }
        self.works: bool = False
        options["options"] = options.get("options", {}) | {"guard_filter_fn": _of_the_batch}
        own = MethodType(_copied(CompiledGradient._gradient), self)
        self.program: Callable[..., tuple[Tensor, list[Tensor]]] = torch.compile(
            own, fullgraph=True, **options
        )

    def __call__(
        self, x: Tensor, context: Tensor | None, weights: Tensor | None, generator: Generator | None
    ) -> Tensor:
        """The loss of what `Objective` takes; its gradient is that of the vectors."""
        batch = (*self.flow.prepared(x, context, generator), weights)
        for tensor in batch:
            if tensor is not None:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            with torch.no_grad():
                loss, gradients = self.program(self.weights, *batch)
        except Exception as error:
            if self.works:  # then it is a fault of the batch, or of the machine
                raise
            name, what = type(self.flow).__name__, type(error).__name__
            raise ValueError(
                f"torch.compile cannot make one program of {name} ({what}): "
                "take --trainer.compile off."
            ) from error
        self.works = True
        for vector, gradient in zip(self.vectors.vectors, gradients, strict=True):
            assert vector.grad is not None
            vector.grad.copy_(gradient)  # of which those of the weights are views
        return loss

    def _gradient(
        self, weights: dict[str, Tensor], *batch: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        def loss(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(self.objective, weights, batch)

        gradients, value = grad_and_value(loss)(weights)
        return value, [torch.cat([gradients[n].flatten() for n in group]) for group in self.names]


def _copied(function: Any) -> FunctionType:
    """A function with code of its own.

    The compiler remembers programs by the code of a function, and looks at nothing but the batch:
    with one code, the program of one flow would be run for another.
    """
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _of_the_batch(guards: Sequence[Any]) -> list[bool]:
    """What is looked at before each step, to see whether the program fits it: the batch.

    Nothing else changes in a training, and to look at each weight takes a fifth of a small step.
    """
    return ["batch" in guard.name for guard in guards]
