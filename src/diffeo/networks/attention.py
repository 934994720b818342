"""The layers of transformers: self-attention and a network of each token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Positive


class KeyValues:
    """The keys and values of one attention layer, of the tokens that it has seen.

    A layer offers those of the tokens it is called with; `commit` says that they stay. So tokens
    may be evaluated again, with other values, before they do. Without gradients they lie in one
    block of memory; with gradients, which need the values of before, in new tensors.

    Args:
        tokens: the most there will be.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.length: int = 0
        self.offered: int = 0
        self._both: Tensor | None = None

    def extended(self, new: Tensor) -> Tensor:
        """Those that stay and these `(2, batch, heads, n, channels)`, one after another."""
        self.offered = self.length + new.shape[3]
        if torch.is_grad_enabled():
            before = [] if self._both is None else [self._both[:, :, :, : self.length]]
            self._both = torch.cat((*before, new), dim=3)
        else:
            if self._both is None:
                shape = (*new.shape[:3], self.tokens, new.shape[4])
                self._both = new.new_empty(shape)
            self._both[:, :, :, self.length : self.offered] = new
        return self._both[:, :, :, : self.offered]

    def commit(self) -> None:
        """Let those of the last call stay."""
        self.length = self.offered


class Attention(Configurable, nn.Module):
    """Self-attention of several heads, of normalized tokens.

        out_t = W sum_s softmax_s(q_t . k_s / sqrt(channels of a head)) v_s

    where q, k and v are linear in the normalized tokens; if it is causal, s runs up to t.

    Args:
        channels: of each token.
        heads: their number, which divides the channels.
        causal: whether a token sees only itself and those before.
        eps: of the normalization.
        outputs: channels of each token of the output; by default as many.

    Raises:
        ValueError: if the heads do not divide the channels.

    (Vaswani et al. 2017)
    """

    def __init__(
        self,
        channels: Count,
        heads: Count,
        causal: bool = False,
        eps: Positive = 1e-5,
        outputs: Count | None = None,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(
                f"{channels} channels cannot be shared by {heads} heads: choose a multiple of "
                f"{heads}."
            )
        self.heads = heads
        self.causal = causal
        self.norm: nn.LayerNorm = nn.LayerNorm(channels, eps)
        self.qkv: nn.Linear = nn.Linear(channels, 3 * channels)
        self.proj: nn.Linear = nn.Linear(channels, outputs or channels)

    def forward(self, x: Tensor, seen: KeyValues | None = None) -> Tensor:
        """`(batch, tokens, outputs)` of x `(batch, tokens, channels)`, which follow those seen."""
        shape = *x.shape[:2], 3, self.heads, x.shape[2] // self.heads
        parts = self.qkv(self.norm(x)).view(shape).permute(2, 0, 3, 1, 4)
        if seen is None:
            q, k, v = parts
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            q, (k, v) = parts[0], seen.extended(parts[1:])
            n, total = q.shape[2], k.shape[2]
            mask = None
            if n > 1:
                mask = torch.ones(n, total, dtype=torch.bool, device=x.device).tril(total - n)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class TransformerLayer(Configurable, nn.Module):
    """Attention, and a network of one hidden layer for each token, both added to the tokens.

        h = x + attention(norm(x)),   out = h + W_2 gelu(W_1 norm(h))

    Args:
        channels: of each token.
        heads: of the attention.
        expansion: how many times wider the hidden layer is.
        causal: whether a token sees only itself and those before.
        eps: of the normalizations.
        exact: whether gelu is x Phi(x) itself, or its approximation by tanh.

    (Vaswani et al. 2017; normalized before each part, as Xiong et al. 2020)
    """

    def __init__(
        self,
        channels: Count,
        heads: Count,
        expansion: Count = 4,
        causal: bool = False,
        eps: Positive = 1e-5,
        exact: bool = True,
    ) -> None:
        super().__init__()
        self.attention: Attention = Attention(channels, heads, causal, eps)
        self.norm: nn.LayerNorm = nn.LayerNorm(channels, eps)
        self.mlp: nn.Sequential = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.GELU("none" if exact else "tanh"),
            nn.Linear(expansion * channels, channels),
        )

    def forward(self, x: Tensor, seen: KeyValues | None = None) -> Tensor:
        """`(batch, tokens, channels)` for x of that shape."""
        h = x + self.attention(x, seen)
        return h + self.mlp(self.norm(h))


def draw_xavier(layer: TransformerLayer) -> None:
    """Draw the weights so that layers keep the size of signals (Glorot & Bengio 2010)."""
    attention = layer.attention
    for weight in (*attention.qkv.weight.chunk(3), attention.proj.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        with torch.no_grad():
            weight.uniform_(-bound, bound)
    for linear in (attention.qkv, attention.proj, layer.mlp[0], layer.mlp[2]):
        assert isinstance(linear, nn.Linear)
        nn.init.zeros_(linear.bias)
    for part in (layer.mlp[0], layer.mlp[2]):
        assert isinstance(part, nn.Linear)
        nn.init.xavier_uniform_(part.weight)
