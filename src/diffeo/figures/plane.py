"""A flow of two features, as its drawings ask it: at one context, within one window."""

from __future__ import annotations

from torch import Tensor

from diffeo.bijections.base import Context
from diffeo.figures.points import Window
from diffeo.flow import Flow

REACH = {"normal": 3.5, "logistic": 6.5}  # of the latent panels, from 0


def latent_window(flow: Flow) -> Window:
    """Limits of the panels of latent space."""
    reach = REACH[flow.base]
    return (-reach, reach), (-reach, reach)


def mean_context(context: Context | None, rows: int) -> tuple[Tensor | None, str]:
    """The context's mean as that many rows, and what the title says of it."""
    if context is None:
        return None, ""
    return context.mean(dim=0, keepdim=True).expand(rows, -1), ", at the mean context"
