"""The inverse of an increasing function, by Newton's method in a bracket."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Increasing = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> (f(x), log f'(x)), elementwise
EVERY = 4  # iterations, between looks whether anything changes


def solve(f: Increasing, y: Tensor, low: Tensor, high: Tensor, start: Tensor) -> Tensor:
    """The x in [low, high] with f(x) = y, to float precision and without gradients.

    A step of Newton's is taken where it stays in the bracket and gains on the one before, else the
    bracket is halved. The CPU stops where nothing changes; other devices, which would have to wait
    for that answer, take all steps.
    """
    with torch.no_grad():
        x, before = start.clamp(low, high), high - low
        digits = round(-math.log2(torch.finfo(y.dtype).eps))
        # A program that is traced has all steps in it, and is as exact with half of them.
        tracing = torch.compiler.is_compiling()
        # Tensors without numbers have all of their shapes after one.
        steps = 1 if x.is_meta else digits if tracing else 2 * digits
        for i in range(steps):
            value, log_slope = f(x)
            gap = value - y
            low, high = torch.where(gap < 0, x, low), torch.where(gap > 0, x, high)
            step = gap * (-log_slope).exp()
            newton = x - step
            good = (newton >= low) & (newton <= high) & (2 * step.abs() <= before)
            new = torch.where(gap == 0, x, torch.where(good, newton, low + (high - low) / 2))
            before, x, last = (new - x).abs(), new, x
            look = i % EVERY == EVERY - 1 and x.device.type == "cpu" and not tracing
            if look and torch.equal(x, last):
                break
        return x


def invert(f: Increasing, y: Tensor, low: Tensor, high: Tensor, start: Tensor) -> Tensor:
    """`solve` with gradients of the first order, those of the implicit function.

    dx/dy = 1 / f'(x),   dx/dp = -(df/dp)(x) / f'(x)
    """
    x = solve(f, y, low, high, start)
    value, log_slope = f(x)
    gap = value - y
    # On a plateau of f, such as between far modes, the slope underflows, and x is any point of it.
    steepest = 0.5 * math.log(torch.finfo(y.dtype).max)
    # A step of Newton's from a gap of 0, whose gradient is the one above.
    return x - (gap - gap.detach()) * (-log_slope.detach()).clamp(max=steepest).exp()
