"""A masked autoregressive flow of flowjax, for the loop of `benchmarks.timed`."""

from __future__ import annotations

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import masked_autoregressive_flow
from numpy.typing import NDArray
from paramax import NonTrainable, unwrap

from benchmarks.timed import AVERAGE, CLIP, Rows, Setting

ADAM = optax.chain(optax.clip_by_global_norm(CLIP), optax.scale_by_adam())


@eqx.filter_jit
def log_prob(trained: Any, static: Any, x: jax.Array) -> jax.Array:
    """Log-densities of rows."""
    return unwrap(eqx.combine(trained, static)).log_prob(x)


@eqx.filter_jit
def advance(trained: Any, average: Any, static: Any, state: Any, x: jax.Array, lr: Any) -> Any:
    """One step of Adam: weights, averaged weights and the state of the optimizer."""
    gradient = eqx.filter_grad(lambda t: -log_prob(t, static, x).mean())(trained)
    change, state = ADAM.update(gradient, state)
    trained = jax.tree.map(lambda p, c: p - lr * c, trained, change)
    average = jax.tree.map(lambda a, p: AVERAGE * a + (1 - AVERAGE) * p, average, trained)
    return trained, average, state


@cache  # functions in it are compiled once for each object
def make(features: int, layers: int, hidden: tuple[int, ...], knots: int | None) -> Any:
    """A flow, with splines or affine."""
    return masked_autoregressive_flow(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(features)),
        transformer=RationalQuadraticSpline(knots=knots, interval=5) if knots else None,
        flow_layers=layers,
        nn_width=hidden[0],
        nn_depth=len(hidden),
    )


class FlowjaxLearner:
    """A flow with its optimizer; `options` of the setting may hold the knots of a spline."""

    def __init__(self, setting: Setting, train: Rows, val: Rows) -> None:
        flow = make(train.shape[1], setting.layers, setting.hidden, setting.options.get("knots"))
        self.trained, self.static = eqx.partition(
            flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable)
        )
        self.average = self.best = self.trained
        self.state = ADAM.init(self.trained)
        self.train, self.val = (jnp.asarray(x, dtype=jnp.float32) for x in (train, val))
        # To compile is not to train.
        batch = np.arange(min(setting.batch, len(train)))
        advance(*self._parts(batch, 0.0))
        self.validate()

    def step(self, rows: NDArray[np.int64], lr: float) -> None:
        """One step on these training rows."""
        self.trained, self.average, self.state = advance(*self._parts(rows, lr))

    def _parts(self, rows: NDArray[np.int64], lr: float) -> tuple[Any, ...]:
        x = self.train[rows]
        return self.trained, self.average, self.static, self.state, x, jnp.float32(lr)

    def validate(self) -> float:
        """The mean log-likelihood of the validation rows by the averaged weights."""
        return float(log_prob(self.average, self.static, self.val).mean())

    def snapshot(self) -> None:
        """Take the averaged weights as the result."""
        self.best = self.average

    def score(self, x: Rows) -> Rows:
        """Log-densities of rows by the result."""
        values = log_prob(self.best, self.static, jnp.asarray(x, dtype=jnp.float32))
        return np.asarray(values, dtype=np.float64)
