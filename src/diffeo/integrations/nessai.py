"""A flow for nessai: `FlowSampler(..., flow_config={"flow": NessaiFlow, "model": diffeo.NSF})`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from diffeo.flow import Flow
from diffeo.integrations.making import FirstBatch, make_flow, missing
from diffeo.models import RealNVP

try:
    from nessai.flows.base import BaseFlow
except ImportError:
    raise missing("nessai", "nessai") from None


class NessaiFlow(BaseFlow):
    """A flow as nessai trains and samples it.

    Args:
        n_inputs: number of features.
        n_neurons: width of each hidden layer.
        n_blocks: number of the flow's layers.
        n_layers: number of hidden layers of each network.
        model: a class such as `diffeo.RealNVP`, or a function that takes features.
        options: of the class, which stand for those above where both are given.

    The first batch of the first training standardizes it.

    Raises:
        ValueError: if the class has no such option, or there is a context.
    """

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        n_blocks: int,
        n_layers: int,
        model: Callable[..., Flow] = RealNVP,
        **options: Any,
    ) -> None:
        super().__init__()
        sizes = {"layers": n_blocks, "hidden": [n_neurons] * n_layers}
        self._make = partial(make_flow, model, n_inputs, sizes | options)
        self.flow: Flow = self._make()
        self._standardize = FirstBatch(self.flow)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise z `(n, n_inputs)` of x, and log|det dz/dx| `(n,)`."""
        if context is not None:
            raise ValueError("this flow takes no context: leave it out.")
        self._standardize(x)
        return self.flow.bijection(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data x `(n, n_inputs)` of noise z, and log|det dx/dz| `(n,)`."""
        return self.flow.invert(z, context)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """Draw n points `(n, n_inputs)`."""
        return self.inverse(self.sample_latent_distribution(n), context)[0]

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of x `(n, n_inputs)`: `(n,)`."""
        return self.forward_and_log_prob(x, context)[1]

    def sample_latent_distribution(self, n: int, context: Tensor | None = None) -> Tensor:
        return self.flow.noise(n)

    def base_distribution_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.flow.base.log_prob(z)

    def forward_and_log_prob(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise of x, and the log-density of x."""
        z, log_det = self(x, context)
        return z, self.flow.base.log_prob(z) + log_det

    def sample_and_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points, with their log-density."""
        z = self.sample_latent_distribution(n)
        x, log_det = self.inverse(z, context)
        return x, self.flow.base.log_prob(z) - log_det

    def reset_parameters(self) -> None:  # by which nessai starts anew, standardization included
        self.flow.load_state_dict(self._make().state_dict())
        self._standardize.seen = False

    def freeze_transform(self) -> None:
        self.flow.bijection.requires_grad_(False)

    def unfreeze_transform(self) -> None:
        self.flow.bijection.requires_grad_(True)
