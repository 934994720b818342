"""Any number of events to z and back: in parts of bounded memory, in eval mode, without gradients.

Results lie where the input lay, and the flow keeps its mode.
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, cat

from diffeo.context import Context
from diffeo.flow import Flow, eval_mode


def encode(
    flow: Flow, x: Shaped[Tensor, "n *shape"], context: Context | None = None
) -> Float[Tensor, "n dims"]:
    """`flow.encode` of x `(n, *shape)`, part by part."""
    with eval_mode(flow):
        return cat([flow.encode(*part).to(x.device) for part in _parts(flow, x, context)])


def decode(
    flow: Flow, z: Float[Tensor, "n dims"], context: Context | None = None
) -> Shaped[Tensor, "n *shape"]:
    """`flow.decode` of z `(n, dims)`, part by part."""
    with eval_mode(flow):
        return cat([flow.decode(*part).to(z.device) for part in _parts(flow, z, context)])


def _parts(
    flow: Flow, values: Tensor, context: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    # One part at least: of no events, the flow says which shape is wrong.
    starts = range(0, max(1, len(values)), flow.chunk)
    rows = [slice(start, start + flow.chunk) for start in starts]
    values = values.to(flow.device)
    if context is None:
        return [(values[part], None) for part in rows]
    context = spread(context, len(values)).to(flow.device)
    return [(values[part], context[part]) for part in rows]


def spread(
    context: Float[Tensor, "rows context_features"], n: int
) -> Float[Tensor, "events context_features"]:
    """One row of context for each of n events, of as many or of one row for all."""
    return context.expand(n, -1) if context.ndim == 2 and len(context) == 1 else context
