"""A monotone neural network: a univariate map with hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from diffeo.bijections.mixture_cdf import components_at, first_components, mixture_scores
from diffeo.bijections.quantiles import NOISE
from diffeo.bijections.roots import invert
from diffeo.bijections.univariate import Univariate
from diffeo.utils.ranges import Range

LOGISTIC = NOISE["logistic"]
OVERLAP = 0.8  # as of `MixtureCDF`, but nearer to the identity: layers multiply
NEAREST = 2.0  # logit by which a component starts to prefer one unit of the layer before


class Layer(NamedTuple):
    """One layer for each element: K components, from which its units, or y, are mixed.

    Attributes:
        log_mix: log U `(units before, K, *shape)`; None where x alone comes before.
        mean: of the components, `(K, *shape)`.
        log_s: their log-scales.
        log_w: log W `(K, units, *shape)`, or `(K, *shape)` in the last layer.
    """

    log_mix: Tensor | None
    mean: Tensor
    log_s: Tensor
    log_w: Tensor


class DeepSigmoidal(Univariate):
    """A monotone neural network: one input, layers of sigmoids with positive weights, one output.

        h_0 = x,   h_l = G^-1(W_l G((U_l h_(l-1) - m_l) / s_l)),   y = h_L

    where G is the sigmoid, and rows of W and U are positive and sum to 1. Each unit is the quantile
    of a mixture, so a network of one layer, the paper's deep sigmoidal flow, is `MixtureCDF` of
    logistic shape. This one, its deep dense sigmoidal flow, has two or more. The derivative is
    exact, and computed with y in log space in the smaller tail: far out the map is linear. The
    inverse is Newton's method in a bracket that follows from the components' quantiles, layer by
    layer, with the gradients of the implicit function.

    Parameters of an element: for each layer K logits of weights, K changes of means and K changes
    of log-scales, bounded by 5; then, for each layer but the first, K logits of U. The matrices W
    and U are softmaxes of these logits and of matrices that the map learns for all elements, which
    keeps the outputs of the network few. Parameters of zero are near to the identity.

    Args:
        units: their number K in each hidden layer; an element has (4 layers - 1) K parameters.
        layers: L, of sigmoids.

    (Huang et al. 2018)
    """

    cheap_inverse = False

    def __init__(
        self,
        units: Annotated[int, Range(2)] = 8,
        layers: Annotated[int, Range(2)] = 2,
    ) -> None:
        super().__init__()
        self.units = units
        self.layers = layers
        self.parameters_each: int = (4 * layers - 1) * units
        self.places: list[float]
        self.scale: float
        self.places, self.scale = first_components(units, LOGISTIC, OVERLAP)
        self.weights: nn.Parameter = nn.Parameter(torch.zeros(layers - 1, units, units))
        # At the start units are equal. Their uses differ, and so what they learn.
        self.mixing: nn.Parameter = nn.Parameter(
            NEAREST * torch.eye(units).repeat(layers - 1, 1, 1)
        )

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = self._evaluate(x, self._layers(x, parameters))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        layers = self._layers(y, parameters)
        low = high = y.detach()
        for layer in reversed(layers):
            # Where all units are beyond the quantiles of all components, so is each mixture.
            mean, scale = layer.mean.detach(), layer.log_s.detach().exp()
            low, high = (mean + scale * low).amin(0), (mean + scale * high).amax(0)

        def network(x: Tensor) -> tuple[Tensor, Tensor]:
            return self._evaluate(x, layers)

        x = invert(network, y, low, high, y.detach())
        return x, -network(x)[1].flatten(1).sum(1)

    def _layers(self, x: Tensor, parameters: Tensor) -> list[Layer]:
        """The layers for each element of x."""
        raw = parameters.unflatten(1, (-1, self.units, x.shape[1])).movedim((1, 2), (0, 1))
        matrix = self.units, self.units, *[1] * x.ndim
        found = []
        for i in range(self.layers):
            logits, shift, change = raw[3 * i : 3 * i + 3]
            log_mix = None
            if i > 0:
                own = raw[3 * self.layers + i - 1][:, None]
                log_mix = (self.mixing[i - 1].view(matrix) + own).log_softmax(0)
            if i < self.layers - 1:
                logits = self.weights[i].view(matrix) + logits[:, None]
            mean, log_s = components_at(shift, change, self.places, self.scale)
            found.append(Layer(log_mix, mean, log_s, logits.log_softmax(0)))
        return found

    def _evaluate(self, x: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
        """The y of each element of x, and log dy/dx."""
        h, log_slope = x, torch.zeros_like(x)
        for log_mix, mean, log_s, log_w in layers:
            if log_mix is not None:
                h = (log_mix.exp() * h[:, None]).sum(0)
                log_slope = (log_mix + log_slope[:, None]).logsumexp(0)
            # Components whose arguments have the slope so far: it divides their scales.
            u, log_s = (h - mean) * (-log_s).exp(), log_s - log_slope
            if log_w.ndim > u.ndim:
                u, log_s = u[:, None], log_s[:, None]
            h, log_slope = mixture_scores(LOGISTIC, u, log_w, log_s)
        return h, log_slope

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return (cls(3),)
