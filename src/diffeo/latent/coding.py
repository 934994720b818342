"""Encode and decode any number of events in chunks, in eval mode and without gradients.

Results lie on the device of the input, and the mode of the flow does not change.
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, cat

from diffeo.context import Context
from diffeo.flow import Flow, eval_mode


def encode(
    flow: Flow, x: Shaped[Tensor, "n *shape"], context: Context | None = None
) -> Float[Tensor, "n dims"]:
    """`flow.encode` of x `(n, *shape)`, chunk by chunk; one row of context serves all events."""
    with eval_mode(flow):
        return cat([flow.encode(*chunk).to(x.device) for chunk in _chunks(flow, x, context)])


def decode(
    flow: Flow, z: Float[Tensor, "n dims"], context: Context | None = None
) -> Shaped[Tensor, "n *shape"]:
    """`flow.decode` of z `(n, dims)`, chunk by chunk; one row of context serves all events."""
    with eval_mode(flow):
        return cat([flow.decode(*chunk).to(z.device) for chunk in _chunks(flow, z, context)])


def _chunks(
    flow: Flow, values: Tensor, context: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    # `split` returns one chunk even of no events, so that the flow can refuse a wrong shape.
    chunks = values.to(flow.device).split(flow.chunk)
    if context is None:
        return [(chunk, None) for chunk in chunks]
    contexts = repeat_row(context, len(values)).to(flow.device)
    starts = range(0, max(1, len(values)), flow.chunk)
    return [(c, contexts[i : i + flow.chunk]) for c, i in zip(chunks, starts, strict=True)]


def repeat_row(
    context: Float[Tensor, "rows context_features"], n: int
) -> Float[Tensor, "events context_features"]:
    """A context with one row for each of n events: itself, or its only row n times."""
    return context.expand(n, -1) if context.ndim == 2 and len(context) == 1 else context
