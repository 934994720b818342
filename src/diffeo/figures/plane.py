"""A flow of two features, as its drawings ask it: unchanged, at one context, within one window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffeo.bijections.base import Context
from diffeo.figures.points import Window
from diffeo.flow import Flow

REACH = {"normal": 3.5, "logistic": 6.5}  # of the latent panels, from 0


@contextmanager
def still(flow: Flow) -> Iterator[None]:
    """The flow in eval mode and without gradients; every module's own mode comes back after."""
    modes = [(module, module.training) for module in flow.modules()]
    flow.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def latent_window(flow: Flow) -> Window:
    """Limits of the panels of latent space."""
    reach = REACH[flow.base]
    return (-reach, reach), (-reach, reach)


def mean_context(context: Context | None, rows: int) -> tuple[Tensor | None, str]:
    """The context's mean as that many rows, and what the title says of it."""
    if context is None:
        return None, ""
    return context.mean(dim=0, keepdim=True).expand(rows, -1), ", at the mean context"
