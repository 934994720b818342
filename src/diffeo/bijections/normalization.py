"""Normalization of channels as bijections, by the statistics of each batch or of the first."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.memory import is_replaying
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count, Fraction, Positive
from diffeo.utils.statistics import first_moments


class BatchNorm(Bijection):
    """Bring each channel to mean 0 and variance 1, without learned scale and shift.

        y = (x - mean) / sqrt(var + eps),   log|det dy/dx| = -H W sum(log(var + eps)) / 2

    In training mode mean and variance are those of the batch, over all processes of a distributed
    run, and gradients flow through them. In eval mode they are running averages. `inverse` uses
    the statistics that the last `forward` used in the same mode, so it undoes it in both.

    Args:
        channels: C of the input `(batch, C, *spatial)`.
        momentum: weight of a new batch in the running averages.
        eps: added to the variance.

    Running averages lag behind weights that move, and do not belong to averaged weights. The
    likelihood of a stack of such layers may then be off by orders of magnitude in eval mode. So
    before an evaluation `Flow.recalibrate` calls `restart()` on each layer and passes some batches
    in training mode; until the next `restart` the averages weigh all batches equally.

    (Dinh et al. 2017, section 3.7 and appendix E)
    """

    cheap_inverse = False  # in training mode, the statistics are those of the last batch

    def __init__(self, channels: Count, momentum: Fraction = 0.1, eps: Positive = 1e-4) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.batches: int | None = None
        self.running_mean: Tensor = nn.Buffer(torch.zeros(channels))
        self.running_var: Tensor = nn.Buffer(torch.ones(channels))
        self.last_mean: Tensor = nn.Buffer(torch.zeros(channels), persistent=False)
        self.last_var: Tensor = nn.Buffer(torch.ones(channels), persistent=False)

    def restart(self) -> None:
        """Forget the running averages, and weigh all batches from here on equally."""
        self.batches = 0
        # Averages that are not finite would outlast even a weight of 0.
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.training:
            mean, var = batch_statistics(x)
            self._update(mean.detach(), var.detach())
        else:
            mean, var = self.running_mean, self.running_var
        y = (x - _column(mean, x)) * _column((var + self.eps).rsqrt(), x)
        return y, self._log_det(x, var)

    def normalize(self, x: Tensor) -> Tensor:
        """`forward`'s y `(batch, C, *spatial)` alone, by PyTorch's kernel, for use in networks.

        x may be of a lower precision than the statistics; y is of its dtype, they keep theirs.
        """
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        if _processes() > 1:
            return self.forward(x.to(self.running_mean.dtype))[0].to(x.dtype)
        # The weight of ones makes the kernel keep statistics in its dtype, not in that of x.
        ones = torch.ones_like(self.running_var)
        y, mean, scale = torch.native_batch_norm(x, ones, None, None, None, True, 0.0, self.eps)
        self._update(mean, scale**-2 - self.eps)
        return y

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        last = self.last_mean, self.last_var
        mean, var = last if self.training else (self.running_mean, self.running_var)
        x = y * _column((var + self.eps).sqrt(), y) + _column(mean, y)
        return x, -self._log_det(y, var)

    def _log_det(self, x: Tensor, var: Tensor) -> Tensor:
        per_pixel = -0.5 * (var + self.eps).log().sum()
        return (math.prod(x.shape[2:]) * per_pixel).expand(x.shape[0])

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor) -> None:
        if is_replaying():
            return
        self.last_mean.copy_(mean)
        self.last_var.copy_(var)
        weight = self.momentum
        if self.batches is not None:
            self.batches += 1
            weight = 1 / self.batches
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(var, weight)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3, 2, 2), "constant", normalizes_batches=True)


def restart_batch_norms(module: nn.Module) -> bool:
    """Restart all batch normalizations of a module; whether it has any."""
    norms = [part for part in module.modules() if isinstance(part, BatchNorm)]
    for norm in norms:
        norm.restart()
    return bool(norms)


class ActNorm(Bijection):
    """Affine map of each channel, whose first batch comes out with mean 0 and variance 1.

        y = exp(3 s) * (x + b),   log|det dy/dx| = 3 H W sum(s)

    Args:
        channels: C of the input `(batch, C, *spatial)`.
        scale: standard deviation with which the first batch comes out, instead of 1.

    `initialize` sets `b` and `s` from a batch, over all processes of a distributed run; values far
    from all others do not count (see `diffeo.utils.statistics`). Before, the map is the identity,
    and afterwards they are learned. `initialized` is a buffer, so a loaded model is never
    initialised again. A channel that does not vary in that batch is only shifted.
    The factor 3, from the paper's own code, lets the scale learn faster.

    (Kingma & Dhariwal 2018, section 3.1)
    """

    SPEED = 3.0

    def __init__(self, channels: Count, scale: Positive = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.shift: nn.Parameter = nn.Parameter(torch.zeros(channels))
        self.log_scale: nn.Parameter = nn.Parameter(torch.zeros(channels))
        self.initialized: Tensor = nn.Buffer(torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        factor = self.factor()
        y = torch.addcmul(_column(factor * self.shift, x), x, _column(factor, x))
        return y, self._log_det(x)

    def factor(self) -> Tensor:
        """What each channel is multiplied by, `exp(3 s)`."""
        return (self.SPEED * self.log_scale).exp()

    def log_det_per_pixel(self) -> Tensor:
        """log|det dy/dx| of one pixel, `3 sum(s)`."""
        return self.SPEED * self.log_scale.sum()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            # In the widest floats: the mean of a channel may be far larger than its spread.
            wide = x.to(widest(x.device))
            mean, std, _ = first_moments(wide.transpose(0, 1).flatten(1).T)
            if _processes() > 1:  # of equal parts
                both = torch.stack([mean, std.square() + mean.square()])
                dist.all_reduce(both)
                mean, square = both / _processes()
                std = (square - mean.square()).clamp(min=0.0).sqrt()
            std = torch.where(std > 0, std, self.scale)
            self.shift.copy_(-mean)
            self.log_scale.copy_((self.scale / std).log() / self.SPEED)
            self.initialized.fill_(True)
        return self(x)[0]

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        factor = (-self.SPEED * self.log_scale).exp()
        return y * _column(factor, y) - _column(self.shift, y), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.log_det_per_pixel()).expand(x.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3, 2, 2), "constant")
        yield Example(lambda: cls(4, scale=0.5), (4,), "constant")


def _column(values: Tensor, x: Tensor) -> Tensor:
    """One value a channel, in a shape that broadcasts over x `(batch, C, *spatial)`."""
    return values.view(-1, *[1] * (x.ndim - 2))


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel `(C,)`, over all processes."""
    axes = [0, *range(2, x.ndim)]
    processes = _processes()
    if processes == 1:
        var, mean = torch.var_mean(x, dim=axes, correction=0)
        return mean, var
    from torch.distributed.nn.functional import all_reduce

    # Means of equal parts average to the mean of all; a gradient flows through both sums.
    mean = all_reduce(x.mean(dim=axes)) / processes
    var = all_reduce((x - _column(mean, x)).square().mean(dim=axes)) / processes
    return mean, var


def _processes() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
