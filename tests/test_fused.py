"""Gradients written by hand, compared with those of the plain form beside them, and numerically."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffeo.bijections import bends, convolution, fused
from diffeo.conditioners import glow


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    source = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def three(context: int = 0) -> tuple:
    layers = (5, 3, 3, 3 + context), (5,), (5,), (5, 1, 1, 5), (5,), (5,), (4, 3, 3, 5), (4,), (4,)
    h, *tensors = drawn((2, 3 + context, 4, 4), *layers)
    return h, *tensors, torch.float64


FUNCTIONS = {
    "affine bend": (bends.scale_and_shift, lambda: (*drawn((3, 2), (3, 4)), 1.5)),
    "affine bend of pictures": (
        bends.scale_and_shift,
        lambda: (*drawn((2, 2, 2, 3), (2, 4, 2, 3)), 0.7),
    ),
    "actnorm and triangles": (
        convolution.normalized_lu,
        lambda: (
            *drawn((3, 3), (3, 3), (3,)),
            torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64),
            torch.tensor([2, 0, 1]),
            *drawn((3,), (3,)),
        ),
    ),
    "three convolutions": (glow.three_convolutions, three),
}
every = pytest.mark.parametrize(("function", "make"), FUNCTIONS.values(), ids=FUNCTIONS.keys())


def outputs(result) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@every
def test_gradients_are_the_numerical_ones(function, make):
    assert torch.autograd.gradcheck(function, make())
    assert torch.autograd.gradgradcheck(function, make(), fast_mode=True)


@every
def test_the_hand_written_form_is_the_plain_one(function, make, monkeypatch):
    found = []
    for hand_written in (True, False):
        monkeypatch.setattr(fused, "wanted", lambda by=hand_written: by)
        inputs = make()
        result = outputs(function(*inputs))
        names = {type(part.grad_fn).__name__ for part in result}
        assert (names == {"FunctionBackward"}) == hand_written
        asked = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]
        total = sum((part * torch.linspace(1, 2, part.numel()).view_as(part)).sum() for part in result)
        found.append([*result, *torch.autograd.grad(total, asked)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every
def test_transforms_see_the_plain_form(function, make):
    first, *others = make()

    def of_first(x):
        return sum(part.sum() for part in outputs(function(x, *others)))

    (truth,) = torch.autograd.grad(of_first(first), first)
    torch.testing.assert_close(torch.func.grad(of_first)(first), truth)


@every
def test_inputs_that_need_no_gradient_get_none(function, make):
    first, *others = make()
    fixed = first.detach()
    total = sum(part.sum() for part in outputs(function(fixed, *others)))
    asked = [value for value in others if isinstance(value, Tensor) and value.requires_grad]
    first_too = sum(part.sum() for part in outputs(function(first, *others)))
    for one, other in zip(
        torch.autograd.grad(total, asked), torch.autograd.grad(first_too, asked), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
