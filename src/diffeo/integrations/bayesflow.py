"""A flow as an inference network of BayesFlow, by Keras on PyTorch (`KERAS_BACKEND=torch`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffeo import models
from diffeo.flow import Flow
from diffeo.integrations.making import check_normal, make_flow, missing

try:
    import keras
    from bayesflow.networks import InferenceNetwork
    from bayesflow.utils import weighted_mean
except ImportError:
    raise missing("BayesFlow", "bayesflow") from None


@keras.saving.register_keras_serializable("diffeo")
class FlowNetwork(InferenceNetwork):
    """A conditional density q(x | conditions), which BayesFlow trains by likelihood.

    Args:
        flow: a class such as `diffeo.NSF`, or a function that takes features and context.
        options: a dictionary of the class's, such as layers; of plain values, to be saved.
        kwargs: of a Keras layer, such as its name.

    BayesFlow standardizes what it passes on, so the flow does not.

    Raises:
        ValueError: if Keras has another backend; when built, if the class has no such option.

    (Radev et al. 2020)
    """

    def __init__(
        self, flow: Callable[..., Flow] | str = models.NSF, options: Any = None, **kwargs: Any
    ) -> None:
        if keras.backend.backend() != "torch":
            raise ValueError("Keras has another backend: set KERAS_BACKEND=torch first.")
        super().__init__(base_distribution="normal", **kwargs)
        self.kind: Any = getattr(models, flow, flow) if isinstance(flow, str) else flow
        self.options = dict(options or {})

    def build(self, xz_shape: Any, conditions_shape: Any = None) -> None:
        """Make the flow, of the sizes that are seen first."""
        if not self.built:
            self.base_distribution.build(xz_shape)
            width = 0 if conditions_shape is None else conditions_shape[-1]
            made = make_flow(self.kind, xz_shape[-1], self.options, width)
            self.wrapped = keras.layers.TorchModuleWrapper(check_normal(made, "BayesFlow"))

    def get_config(self) -> dict[str, Any]:
        """What makes it again, of diffeo's own models."""
        name = getattr(self.kind, "__name__", "")
        if getattr(models, name, None) is not self.kind:
            raise ValueError(f"{self.kind!r} is no model of diffeo's: save the flow's weights.")
        return {"flow": name, "options": self.options, "name": self.name}

    def log_prob(
        self, samples: Tensor, conditions: Tensor | None = None, training: bool = False, **_: Any
    ) -> Tensor:
        """Log-density of samples `(*batch, dims)`: `(*batch,)`, in nats."""
        flow, x, context = self._rows(samples, conditions, training)
        return flow.log_prob(x, context).reshape(samples.shape[:-1])

    def compute_metrics(
        self, x: Tensor, conditions: Tensor | None = None, sample_weight: Any = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The mean of -log q, in nats."""
        training = kwargs.get("stage", "training") == "training"
        return {"loss": weighted_mean(-self.log_prob(x, conditions, training), sample_weight)}

    def _forward(
        self, x: Tensor, conditions: Tensor | None = None, density: bool = False, **kwargs: Any
    ) -> Any:
        flow, rows, context = self._rows(x, conditions, **kwargs)
        z = flow.encode(rows, context).reshape(x.shape)
        return (z, self.log_prob(x, conditions, **kwargs)) if density else z

    def _inverse(
        self, z: Tensor, conditions: Tensor | None = None, density: bool = False, **kwargs: Any
    ) -> Any:
        flow, rows, context = self._rows(z, conditions, **kwargs)
        x, log_det = flow.invert(rows, context)
        x, log_prob = x.reshape(z.shape), flow.base.log_prob(rows) - log_det
        return (x, log_prob.reshape(z.shape[:-1])) if density else x

    def _rows(
        self, x: Tensor, conditions: Tensor | None, training: bool = False, **_: Any
    ) -> tuple[Flow, Tensor, Tensor | None]:
        """The flow in its mode, and each event with its context as a row."""
        flow: Flow = self.wrapped.module.train(training)
        return flow, x.flatten(0, -2), None if conditions is None else conditions.flatten(0, -2)
