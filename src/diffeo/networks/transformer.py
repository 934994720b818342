"""The transformers of TarFlow and Jet, which compute parameters for the tokens of a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffeo.networks.attention import KeyValues, TransformerLayer, draw_xavier
from diffeo.networks.mlp import start_at_zero
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Positive, Whole

HEAD_CHANNELS = 64
SMALL = 1e-2  # standard deviation of TarFlow's embeddings at the start


class CausalTransformer(Configurable, nn.Module):
    """A transformer whose outputs for a token depend on the tokens before it, and on the context.

        h_t = W x_t + p_t + E context
        h <- h + attention(norm(h)),   h <- h + W_2 gelu(W_1 norm(h)),      in each layer
        out_(t+1) = V h_t + c,   out_1 = 0

    Args:
        inputs: channels of the tokens x `(batch, inputs, tokens)`.
        outputs: channels of the output `(batch, outputs, tokens)`.
        tokens: length of the sequence.
        hidden_channels: of h: 64 for each head, or fewer in all for one head.
        context_features: width of the context, which is embedded into each token.
        layers: number of layers.
        expansion: how many times wider the hidden layer of each token's network is.

    V and c start at zero, so that a map starts as the identity.

    Raises:
        ValueError: if heads of 64 do not fit the hidden channels.

    (Zhai et al. 2024, section 2.2)
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        tokens: Count,
        hidden_channels: Count = 128,
        context_features: Whole = 0,
        layers: Count = 2,
        expansion: Count = 4,
    ) -> None:
        super().__init__()
        channels = hidden_channels
        head = min(channels, HEAD_CHANNELS)
        if channels % head:
            raise ValueError(
                f"hidden_channels is {channels}: choose a multiple of {head}, the channels of a "
                "head."
            )
        self.outputs = outputs
        self.entry: nn.Linear = nn.Linear(inputs, channels)
        self.positions: nn.Parameter = nn.Parameter(SMALL * torch.randn(tokens, channels))
        self.embedding: nn.Parameter | None = None
        if context_features:
            self.embedding = nn.Parameter(SMALL * torch.randn(context_features, channels))
        self.layers: nn.ModuleList = nn.ModuleList(
            TransformerLayer(channels, channels // head, expansion, causal=True)
            for _ in range(layers)
        )
        self.exit: nn.Module = start_at_zero(nn.Linear(channels, outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, tokens)` of x `(batch, inputs, tokens)`."""
        rest = self.following(x[:, :, :-1], 0, context)
        return torch.cat((rest.new_zeros(x.shape[0], self.outputs, 1), rest), dim=2)

    def following(
        self,
        x: Tensor,
        start: int,
        context: Tensor | None = None,
        seen: Sequence[KeyValues] | None = None,
    ) -> Tensor:
        """The parameters of the tokens after each token of x.

        Args:
            x: n tokens `(batch, inputs, n)`.
            start: place of the first of them in the sequence.
            context: `(batch, context_features)`.
            seen: what `memory` made, with the tokens before `start`; None if there are none.

        Returns:
            `(batch, outputs, n)`, of the tokens `start + 1` to `start + n`.
        """
        h = self.entry(x.transpose(1, 2)) + self.positions[start : start + x.shape[2]]
        if self.embedding is not None and context is not None:
            h = h + (context @ self.embedding)[:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h, None if seen is None else seen[i])
        return self.exit(h).transpose(1, 2)

    def memory(self) -> list[KeyValues]:
        """What the layers remember of tokens, to compute one after another: nothing so far."""
        return [KeyValues(len(self.positions)) for _ in self.layers]


class VisionTransformer(Configurable, nn.Module):
    """A transformer in which all tokens see each other.

        h_t = W x_t + p_t + E context
        h <- h + attention(norm(h)),   h <- h + W_2 gelu(W_1 norm(h)),      in each layer
        out_t = V norm(h_t) + c

    Args:
        inputs: channels of the tokens x `(batch, inputs, tokens)`.
        outputs: channels of the output `(batch, outputs, tokens)`.
        tokens: length of the sequence.
        hidden_channels: of h.
        context_features: width of the context, which is embedded into each token.
        layers: number of layers.
        heads: of the attention; they divide the hidden channels.
        expansion: how many times wider the hidden layer of each token's network is.
        eps: of the normalizations.

    V and c start at zero, so that a coupling starts near the identity.

    Raises:
        ValueError: if the heads do not divide the hidden channels.

    (Dosovitskiy et al. 2021, as Kolesnikov et al. 2024 use it)
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        tokens: Count,
        hidden_channels: Count = 64,
        context_features: Whole = 0,
        layers: Count = 1,
        heads: Count = 4,
        expansion: Count = 4,
        eps: Positive = 1e-6,
    ) -> None:
        super().__init__()
        channels = hidden_channels
        self.entry: nn.Linear = nn.Linear(inputs, channels)
        self.positions: nn.Parameter = nn.Parameter(
            torch.randn(tokens, channels) / math.sqrt(channels)
        )
        self.embedding: nn.Parameter | None = None
        if context_features:
            self.embedding = nn.Parameter(SMALL * torch.randn(context_features, channels))
        self.layers: nn.ModuleList = nn.ModuleList(
            TransformerLayer(channels, heads, expansion, eps=eps, exact=False)
            for _ in range(layers)
        )
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            draw_xavier(layer)
        self.norm: nn.LayerNorm = nn.LayerNorm(channels, eps)
        self.exit: nn.Module = start_at_zero(nn.Linear(channels, outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The parameters `(batch, outputs, tokens)` of x `(batch, inputs, tokens)`."""
        h = self.entry(x.transpose(1, 2)) + self.positions
        if self.embedding is not None and context is not None:
            h = h + (context @ self.embedding)[:, None]
        for layer in self.layers:
            h = layer(h)
        return self.exit(self.norm(h)).transpose(1, 2)
