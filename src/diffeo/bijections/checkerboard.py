"""Checkerboard cuts: every other pixel is kept, and steers its neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.base import Context
from diffeo.bijections.reshape import Squeeze


class CompactCheckerboard(nn.Module):
    """Cut a picture into its two colours of a checkerboard, each packed without gaps.

        x (batch, C, H, W) -> kept, bent (batch, 2 C, H/2, W/2)

    In each 2 x 2 block one diagonal is kept and the other bent; the two pixels of a diagonal become
    channels. So no convolution runs over zeros, and each runs over a quarter of the positions.

    Args:
        keep: which diagonal is kept, "main" (from the upper left) or "anti".
    """

    def __init__(self, keep: str = "main") -> None:
        super().__init__()
        self.keep = keep
        self.squeeze = Squeeze(ordered=True)

    def split(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch half _h _w"], Float[Tensor, "batch half _h _w"]]:
        """Take x `(batch, C, H, W)` apart: `(kept, bent)`, each `(batch, 2 C, H/2, W/2)`."""
        main, anti = self.squeeze(x)[0].chunk(2, dim=1)
        return (main, anti) if self.keep == "main" else (anti, main)

    def merge(
        self,
        kept: Float[Tensor, "batch half height width"],
        bent: Float[Tensor, "batch half height width"],
    ) -> Float[Tensor, "batch channels _h _w"]:
        """Undo `split`: x `(batch, C, H, W)`."""
        halves = (kept, bent) if self.keep == "main" else (bent, kept)
        return self.squeeze.inverse(torch.cat(halves, dim=1))[0]

    # It moves elements and changes none.
    gather = merge

    def extra_repr(self) -> str:
        return f"keep={self.keep!r}"


class MaskedCheckerboard(nn.Module):
    """Cut a picture with a mask, as the paper does: both parts keep the size, with zeros between.

        kept = m * x,   bent = (1 - m) * x,   x = kept + bent,
        m[i, j] = 1 where i + j is even (keep "main") or odd ("anti")

    The conditioner has to be `Masked`, so that it bends no pixel that is kept.

    Args:
        keep: which colour is kept: "main" has the upper left pixel.
    """

    def __init__(self, keep: str = "main") -> None:
        super().__init__()
        self.keep = keep

    def mask(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "height width"]:
        """The mask m `(H, W)`, in the dtype and on the device of x."""
        rows = torch.arange(x.shape[2], device=x.device)
        columns = torch.arange(x.shape[3], device=x.device)
        odd = (rows[:, None] + columns) % 2
        return (odd if self.keep == "anti" else 1 - odd).to(x.dtype)

    def split(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[
        Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]
    ]:
        """Take x apart: `(kept, bent)`, both of its shape."""
        kept = x * self.mask(x)
        return kept, x - kept

    def merge(
        self,
        kept: Float[Tensor, "batch channels height width"],
        bent: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Undo `split`."""
        return kept + bent

    def gather(
        self,
        kept: Float[Tensor, "batch channels height width"],
        bent: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The transpose of `split`: gradients of what was set to zero are lost."""
        return torch.where(self.mask(kept).bool(), kept, bent)

    def extra_repr(self) -> str:
        return f"keep={self.keep!r}"


class MaskedNetwork(nn.Module):
    """A conditioner that sees the mask as a further channel, and is silent where pixels are kept.

        out = (1 - m) * conditioner([x, m], context)

    Args:
        cut: knows the mask.
        conditioner: network for one channel more than x has.
    """

    def __init__(self, cut: MaskedCheckerboard, conditioner: nn.Module) -> None:
        super().__init__()
        self.cut = cut
        self.conditioner = conditioner

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], context: Context | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """The parameters `(batch, outputs, H, W)`, zero at kept pixels."""
        mask = self.cut.mask(x)
        channel = mask.expand(x.shape[0], 1, -1, -1)
        return (1 - mask) * self.conditioner(torch.cat((x, channel), dim=1), context)
