"""A flow as one of `torch.distributions`, and of Pyro."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from diffeo.utils.ranges import Count, checked

# A standard error of a thirtieth of the spread of log p - log q.
KL_SAMPLES = 1_000
Flow: TypeAlias = Any  # a `diffeo.flow.Flow`, which is above this module


class FlowDistribution(Distribution):
    """The density of a flow, given a context, as PyTorch's distributions are; see `Flow`.

        x = f^-1(z; context),  z ~ p_Z;    log p(x | context) in nats

    Args:
        flow: the density. It is not copied, and used in its own mode: call `train()` to learn it,
            `eval()` to use it.
        context: what it is conditional on, `(*batch, context_features)`, or `(*batch, *shape)` of
            an `EmbeddedContext`, or the classes `(*batch)`
            of a class-conditional flow, as integers. Its rows are the batch: `(context_features,)`
            is one distribution, of batch shape (), and a flow without context has that too.
        validate_args: whether contexts and values are checked; by default what PyTorch does.

    `rsample` is reparametrized: gradients reach the flow's weights and the context. A flow with a
    dequantizer draws from a grid, and so has `sample` alone; its `log_prob` is that of a noisy copy
    of the value (see `Flow.log_prob`). Images are `uint8`, and their support is 0 to 255. One whose
    base is a `Mixture`, which chooses a component, has `sample` alone as well.

    Flows know no mean, variance or entropy in closed form; as other distributions without, they
    raise NotImplementedError. `kl_divergence` is estimated by `monte_carlo_kl`.

    Where Pyro has been imported, `Flow.distribution` returns a `PyroFlowDistribution`, which
    `pyro.sample` takes as well; register the weights by `pyro.module("flow", flow)`.

    Examples:
        >>> import diffeo
        >>> p = diffeo.RealNVP(features=2, context=3).eval().distribution(torch.zeros(5, 3))
        >>> p.batch_shape, p.event_shape, p.rsample((7,)).shape
        (torch.Size([5]), torch.Size([2]), torch.Size([7, 5, 2]))
        >>> p.log_prob(torch.zeros(2)).shape
        torch.Size([5])

    Raises:
        ValueError: if the context is missing or does not fit the flow.
    """

    def __init__(
        self, flow: Flow, context: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.flow = flow
        self.context: Tensor | None = _rows_of(flow, context)
        axes = len(flow.context.event_shape)
        batch = Size() if self.context is None else self.context.shape[:-axes]
        super().__init__(batch, Size(flow.shape), validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have gradients: not on a grid, nor where the base chooses a component."""
        return self.flow.dequantizer is None and self.flow.base.reparametrized

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What a context has to be: real vectors, or arrays."""
        if self.context is None:
            return {}
        axes = len(self.flow.context.event_shape)
        return {"context": constraints.independent(constraints.real, axes)}

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All of real space; for images the whole numbers from 0 to 255."""
        values = (
            constraints.integer_interval(0, 255) if self.flow.takes_pixels else constraints.real
        )
        return constraints.independent(values, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """The same distributions over a larger batch shape, without copying the context."""
        new = self._get_checked_instance(FlowDistribution, _instance)
        # An empty tensor tells as a context would which shapes there are to expand to.
        batch = torch.empty(()).expand(self.batch_shape).expand(tuple(batch_shape)).shape
        new.flow = self.flow
        new.context = None
        if self.context is not None:
            new.context = self.context.expand(*batch, *self._event_of_context())
        super(FlowDistribution, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of values that broadcast with `(*batch, *event)`, in nats.

        Raises:
            ValueError: if a value does not fit.
        """
        if self._validate_args:
            self._validate_sample(value)
        values = value.shape[: value.ndim - len(self.event_shape)]
        batch = torch.broadcast_shapes(values, self.batch_shape)
        x = value.expand(*batch, *self.event_shape).reshape(batch.numel(), *self.event_shape)
        return self.flow.log_prob(x, self._context_of(batch)).reshape(batch)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Draws `(*sample_shape, *batch, *event)`, without gradients."""
        with torch.no_grad():
            return self._draw(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Draws `(*sample_shape, *batch, *event)` through which gradients flow.

        Raises:
            NotImplementedError: if the flow has a dequantizer.
        """
        self._check_rsample()
        return self._draw(sample_shape)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """`rsample`, and `log_prob` of the draws, `(*sample_shape, *batch)`, in one pass.

        Raises:
            NotImplementedError: as `rsample`.
        """
        self._check_rsample()
        batch = Size((*sample_shape, *self.batch_shape))
        z = self.flow.noise(batch.numel())
        x, log_det = self.flow.invert(z, self._context_of(batch))
        log_prob = self.flow.base.log_prob(z) - log_det
        return x.reshape(*batch, *self.event_shape), log_prob.reshape(batch)

    def _check_rsample(self) -> None:
        if self.flow.dequantizer is not None:
            raise NotImplementedError("draws on a grid have no gradients: use sample().")
        if not self.has_rsample:
            raise NotImplementedError(
                "draws of a base that chooses a component have no gradients: use sample()."
            )

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        batch = Size((*sample_shape, *self.batch_shape))
        x = self.flow.decode(self.flow.noise(batch.numel()), self._context_of(batch))
        return x.reshape(*batch, *self.event_shape)

    def _context_of(self, batch: Size) -> Tensor | None:
        """A row of context for each event of a batch of any shape."""
        if self.context is None:
            return None
        event = self._event_of_context()
        return self.context.expand(*batch, *event).reshape(batch.numel(), *event)

    def _event_of_context(self) -> Size:
        """The shape of one context."""
        assert self.context is not None
        return self.context.shape[len(self.batch_shape) :]


def distribution_of(
    flow: Flow, context: Tensor | None = None, validate_args: bool | None = None
) -> FlowDistribution:
    """A `FlowDistribution`, which is one of Pyro's too where Pyro has been imported."""
    kind = _pyro_kind() if "pyro" in sys.modules else FlowDistribution
    return kind(flow, context, validate_args)


@cache
def _pyro_kind() -> type[FlowDistribution]:
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    class PyroFlowDistribution(FlowDistribution, TorchDistributionMixin):  # type: ignore[misc, override]
        """A `FlowDistribution` that `pyro.sample` takes, as guide and as likelihood.

        Importing it from here imports Pyro. (Bingham et al. 2019)
        """

    PyroFlowDistribution.__qualname__ = "PyroFlowDistribution"
    return PyroFlowDistribution


def __getattr__(name: str) -> Any:
    # Made when it is asked for, so that diffeo needs no Pyro, and found by name, as pickle does.
    if name == "PyroFlowDistribution":
        return _pyro_kind()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _rows_of(flow: Flow, context: Tensor | None) -> Tensor | None:
    """The context as rows `(*batch, context_features)`, classes as a row of zeros and a one."""
    spec, axes = flow.context, len(flow.context.event_shape)
    if context is None and not spec:
        return None
    if not spec:
        raise ValueError("this flow takes no context: leave it out.")
    if context is not None:
        context = spec.as_rows(context, flow.noise(0))
    if context is None or not spec.takes(context.shape[-axes:]):
        shape = None if context is None else tuple(context.shape)
        wanted = spec.shape_text("...")
        raise ValueError(f"this flow needs a context of shape {wanted}, got {shape}.")
    return context


@checked
def monte_carlo_kl(p: Distribution, q: Distribution, samples: Count = KL_SAMPLES) -> Tensor:
    """An estimate of KL(p | q) `(*batch)` in nats, of which one side or both are flows.

        1/n sum_i log p(x_i) - log q(x_i),   x_i ~ p

    Its standard error is the standard deviation of a term over sqrt(n). It is unbiased, and so
    may come out below 0; and so are its gradients: through the draws where p has `rsample`, and
    otherwise by the score, `(log p - log q) grad log p` (Williams 1992).

    Args:
        p: where the draws come from.
        q: the other; its batch shape broadcasts with that of p.
        samples: n, for each of the batch; `torch.distributions.kl_divergence` takes 1,000.

    Raises:
        ValueError: if n is below 1, or the events differ in shape.
        NotImplementedError: if a flow has a dequantizer, of which only a bound is known.
    """
    if p.event_shape != q.event_shape:
        shapes = f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        raise ValueError(f"events of shape {shapes} cannot be compared: give both the same.")
    for side in (p, q):
        if isinstance(side, FlowDistribution) and side.flow.dequantizer is not None:
            raise NotImplementedError(
                "a flow that dequantizes knows only a bound of its probabilities, and of their "
                "divergence none: take one without dequantizer."
            )
    draw = p.rsample if p.has_rsample else p.sample
    # With room for the axes of q's batch that p has not.
    more = max(0, len(q.batch_shape) - len(p.batch_shape))
    x = draw(Size([samples])).reshape(samples, *[1] * more, *p.batch_shape, *p.event_shape)
    log_p = p.log_prob(x)
    terms = log_p - q.log_prob(x)
    if not p.has_rsample:
        terms = terms + terms.detach() * (log_p - log_p.detach())
    return terms.mean(0)


def _kl(p: Distribution, q: Distribution) -> Tensor:
    return monte_carlo_kl(p, q)


register_kl(FlowDistribution, FlowDistribution)(_kl)
register_kl(FlowDistribution, Distribution)(_kl)
register_kl(Distribution, FlowDistribution)(_kl)
