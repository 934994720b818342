"""Linear layers with ReLU between them, all of a few rows at a time, by C++ in compiled programs.

What these rows become stays in the processor's first cache from the first layer to the last, and
the gradient goes back through them likewise (as Müller et al. 2021 do on GPUs).
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vjp

from diffeo.networks import mlp_fused

MOST = 2**17  # weights of a layer; of more, a library computes as fast
ROWS = 64  # of a block, as in the source
is_there: bool = False  # whether the library is


def takes(h: Tensor, layers: list[Tensor]) -> bool:
    """Whether a program is being compiled, for a CPU, in float32, and layers are not too large."""
    return (
        is_there
        and torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and h.is_cpu
        and {h.dtype, *(layer.dtype for layer in layers)} == {torch.float32}
        and len(layers) > 2
        and max(weight.numel() for weight in layers[::2]) <= MOST
    )


def plain(x: Tensor, *layers: Tensor) -> Tensor:
    """The output `(outputs, batch)` for x `(inputs, batch)`; layers are weight and bias in turn."""
    return mlp_fused.plain([None] * (len(layers) // 2), x.t(), *layers).t()


def by_blocks(x: Tensor, *layers: Tensor) -> Tensor:
    """`plain`, by the library, once it is `prepared`. It can be differentiated twice."""
    if forward_ad._current_level >= 0:  # no operation of it has a tangent
        return plain(x, *layers)
    try:
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *layers)):
            return _Blocks.apply(x, *layers)[-1]
        return torch.ops.diffeo.mlp_output(x, layers[::2], layers[1::2])
    except RuntimeError:  # by `vmap`, which needs single operations of torch
        return plain(x, *layers)


class _Blocks(torch.autograd.Function):
    """Hidden layers, and `plain`."""

    @staticmethod
    def forward(x: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.diffeo.mlp_layers(x, layers[::2], layers[1::2]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[:-1])
        ctx.save_for_backward(*inputs, *output[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Gradients.apply(ctx.needs_input_grad[0], grads[-1], *ctx.saved_tensors)


class _Gradients(torch.autograd.Function):
    """The gradients of `plain`: of x, and of weights and biases in turn."""

    @staticmethod
    def forward(of_x: bool, grad: Tensor, x: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
        count = (len(saved) + 1) // 3
        weights, hidden = saved[: 2 * count : 2], saved[2 * count :]
        found = torch.ops.diffeo.mlp_gradients(grad, x, hidden, weights, of_x)
        pairs = zip(found[1 : count + 1], found[count + 1 :], strict=True)
        first = found[0] if of_x else torch.zeros_like(x)
        return first, *(part for pair in pairs for part in pair)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, grad, x, *saved = inputs
        ctx.count = 2 * ((len(saved) + 1) // 3)
        ctx.save_for_backward(grad, x, *saved[: ctx.count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        def gradients(grad: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            return vjp(plain, *given)[1](grad)

        found = vjp(gradients, *ctx.saved_tensors)[1](grads)
        return None, *found, *[None] * (ctx.count // 2 - 1)


@cache
def prepared() -> bool:
    """Whether the library is there, which is compiled once for each kind of processor with AVX2.

    From then on programs are compiled with it.

    Warns:
        UserWarning: if it cannot be compiled.
    """
    processor: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not processor.get("avx2", False):
        return False
    from torch._inductor.codecache import CppCodeCache

    source = Path(__file__).with_suffix(".cpp").read_text()
    for header in Path(__file__).parent.glob("*.h"):
        source = source.replace(f'#include "{header.name}"', header.read_text())
    try:
        # For another processor, the same source is another library.
        source += f"// {processor}"
        CppCodeCache.load(source, device_type="cpu")
    except Exception as error:
        warnings.warn(
            f"the networks are computed by torch's operations, since their own could not be "
            f"compiled ({type(error).__name__}).",
            stacklevel=2,
        )
        return False
    for name, fake in {"layers": _layers, "output": _output, "gradients": _gradients}.items():
        torch.library.register_fake(f"diffeo::mlp_{name}")(fake)
    torch.compiler.allow_in_graph(by_blocks)  # so that the compiler does not look into it
    global is_there
    is_there = True
    return True


def _output(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    return x.new_empty(len(biases[-1]), x.shape[1])


def _layers(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    blocks = (x.shape[1] + ROWS - 1) // ROWS
    hidden = [x.new_empty(blocks, len(bias), ROWS) for bias in biases[:-1]]
    return [*hidden, _output(x, weights, biases)]


def _gradients(
    grad: Tensor, x: Tensor, hidden: list[Tensor], weights: list[Tensor], of_x: bool
) -> list[Tensor]:
    found = [x.new_empty(x.shape[0] if of_x else 0, x.shape[1])]
    found += [weight.new_empty(weight.shape) for weight in weights]
    return found + [weight.new_empty(weight.shape[0]) for weight in weights]
