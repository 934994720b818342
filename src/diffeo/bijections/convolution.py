"""The invertible 1x1 convolution of Glow: a learned mixing of channels, not a permutation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.linear import lu_triangles, solve_lu
from diffeo.bijections.memory import is_replaying
from diffeo.bijections.normalization import ActNorm
from diffeo.utils.machine import widest
from diffeo.utils.modules import is_plain
from diffeo.utils.ranges import Count, Seed


class InvertibleConv1x1(Bijection):
    """Mix the channels of each pixel by one invertible matrix.

        y[:, i, h, w] = sum_j W[i, j] x[:, j, h, w],   log|det dy/dx| = H W log|det W|

    Either W itself is learned, or, so that it stays invertible and its determinant is cheap, the
    factors of

        W = P L (U + diag(sign * exp(log_s))),   log|det W| = sum(log_s)

    where L is lower triangular with ones on its diagonal and U strictly upper triangular; the
    permutation P and the signs stay as they are. W starts as a random rotation.

    Args:
        channels: C of the input `(batch, C, H, W)`.
        lu: whether the factors are learned instead of W.
        seed: of the rotation; drawn from torch's random state by default.

    The inverse is computed by triangular solves in the widest floats of the device. On the CPU in
    eval mode it, W and log|det W| are computed once, and again after any change of the weights.

    Raises:
        ValueError: on the CPU, in eval mode and by `inverse`, if W is so near to singular that its
            inverse has no correct digit. On other devices, where the host would have to wait to
            learn of it, `inverse` gives NaN instead.

    (Kingma & Dhariwal 2018, section 3.2)
    """

    def __init__(self, channels: Count, lu: bool = True, seed: Seed | None = None) -> None:
        super().__init__()
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        start = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
        rotation, triangular = torch.linalg.qr(start)
        # Signs that make it uniform over rotations and reflections (Mezzadri 2007).
        rotation = rotation * triangular.diagonal().sign()
        dtype = torch.get_default_dtype()
        self.lu = lu
        if lu:
            p, lower, upper = torch.linalg.lu(rotation)
            self.permutation: Tensor = nn.Buffer(p.argmax(1))
            self.sign: Tensor = nn.Buffer(upper.diagonal().sign().to(dtype))
            self.lower: nn.Parameter = nn.Parameter(lower.tril(-1).to(dtype))
            self.upper: nn.Parameter = nn.Parameter(upper.triu(1).to(dtype))
            self.log_s: nn.Parameter = nn.Parameter(upper.diagonal().abs().log().to(dtype))
        else:
            self.weight: nn.Parameter = nn.Parameter(rotation.to(dtype))
        self._ready: tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
        self.register_load_state_dict_post_hook(_check_permutation)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight, log_det = self.weight_and_log_det()
        return _mix(x, weight), _per_row(log_det, x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inverse, log_det = self.inverse_and_log_det()
        return _mix(y, inverse), -_per_row(log_det, y)

    def weight_and_log_det(self) -> tuple[Tensor, Tensor]:
        """W and log|det W|."""
        if self.training or (self.sign if self.lu else self.weight).device.type != "cpu":
            return self.matrix(), self._log_det()
        weight, _, log_det = self._prepared()
        return weight, log_det

    def inverse_and_log_det(self) -> tuple[Tensor, Tensor]:
        """W^-1 and log|det W|."""
        _, inverse, log_det = self._prepared()
        return inverse, log_det

    def matrix(self) -> Tensor:
        """W."""
        if not self.lu:
            return self.weight
        lower, upper = self.triangles()
        return (lower @ upper)[self.permutation]

    def triangles(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """L, and U with its diagonal, each `(channels, channels)`."""
        lower, upper, log_s = (part.to(dtype) for part in (self.lower, self.upper, self.log_s))
        return lu_triangles(lower, upper, self.sign * log_s.exp())

    def _log_det(self) -> Tensor:
        if self.lu:
            return self.log_s.sum()
        # As `torch.linalg.slogdet`, whose gradient Apple's GPUs lack.
        wide = self.weight.to(widest(self.weight.device))
        diagonal = torch.linalg.lu_factor_ex(wide).LU.diagonal()
        return diagonal.abs().log().sum().to(self.weight.dtype)

    def _inverse(self) -> Tensor:
        """W^-1 in the widest floats of the device."""
        if not self.lu:
            return torch.linalg.inv_ex(self.weight.to(widest(self.weight.device))).inverse
        lower, upper = self.triangles(widest(self.lower.device))
        eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return solve_lu(lower, upper, eye[self.permutation.argsort()])

    def _prepared(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, its inverse and its log-determinant; those of the last call if nothing changed."""
        tensors = [*self.parameters(), *self.buffers()]
        # Not with its graph, nor where to compare values would make the host wait for the device.
        on_cpu = tensors[0].device.type == "cpu"
        keep = on_cpu and not (self.training or torch.is_grad_enabled())
        if keep and self._ready is not None and _are_equal(self._ready[0], tensors):
            return self._ready[1]
        weight, inverse = self.matrix(), self._inverse()
        if not is_replaying():  # there it is a step that is lost, which the training loop reports
            exists = _is_inverse(inverse, weight)
            if not on_cpu:
                inverse = torch.where(exists, inverse, math.nan)
            elif not exists:
                raise SingularError(self)
        ready = weight, inverse.to(weight.dtype), self._log_det()
        self._ready = ([tensor.detach().clone() for tensor in tensors], ready) if keep else None
        return ready

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3, 2, 2), "constant")
        yield Example(lambda: cls(4, lu=False), (4, 1, 2), "constant")


class NormalizedConv1x1(Bijection):
    """An actnorm and a 1x1 convolution as one affine map of the channels of each pixel.

        y = W exp(3 s) (x + b),   log|det dy/dx| = H W (3 sum(s) + log|det W|)

    Args:
        norm: has s and b.
        conv: has W.

    Where one of them is of a class of its own, or somebody watches its calls, each is called.

    (Kingma & Dhariwal 2018, sections 3.1 and 3.2)
    """

    def __init__(self, norm: ActNorm, conv: InvertibleConv1x1) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self._is_standard():
            y, first = self.norm(x)
            y, second = self.conv(y)
            return y, first + second
        weight, log_det = self.conv.weight_and_log_det()
        weight = weight * self.norm.factor()
        y = _mix(x, weight, weight @ self.norm.shift)
        return y, _per_row(log_det + self.norm.log_det_per_pixel(), x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self._is_standard():
            x, first = self.conv.inverse(y)
            x, second = self.norm.inverse(x)
            return x, first + second
        inverse, log_det = self.conv.inverse_and_log_det()
        x = _mix(y, inverse / self.norm.factor()[:, None], -self.norm.shift)
        return x, -_per_row(log_det + self.norm.log_det_per_pixel(), y)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.norm.initialize(x)
        return self(x)[0]

    def _is_standard(self) -> bool:
        return is_plain(self.norm, ActNorm) and is_plain(self.conv, InvertibleConv1x1)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(ActNorm(4), InvertibleConv1x1(4)), (4, 3, 2), "constant")


class SingularError(ValueError):
    """A 1x1 convolution cannot be inverted.

    Args:
        layer: which.
    """

    def __init__(self, layer: InvertibleConv1x1, name: str = "a 1x1 convolution") -> None:
        super().__init__(
            f"{name} has a weight that cannot be inverted in its precision, after a training that "
            "went astray: train again with a smaller learning rate, or go back to an earlier model."
        )
        self.layer = layer


def _are_equal(before: list[Tensor], now: list[Tensor]) -> bool:
    """By value, since a version counter would miss what is changed through `.data`."""
    return all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in zip(before, now, strict=True)
    )


@torch.no_grad()
def _is_inverse(inverse: Tensor, weight: Tensor) -> Tensor:
    """Whether an inverse has correct digits in the dtype of the weight; a truth value."""
    # The product of the norms is from 1 to n times the condition number. NaN compares as False.
    norm = torch.linalg.matrix_norm
    bound = len(weight) / torch.finfo(weight.dtype).eps
    return norm(weight.to(inverse.dtype)) * norm(inverse) < bound


def _check_permutation(layer: InvertibleConv1x1, _: Any) -> None:
    """Refuse a permutation that was loaded and is none."""
    if layer.lu and sorted(layer.permutation.tolist()) != list(range(len(layer.sign))):
        raise ValueError("the permutation of a 1x1 convolution that was loaded is none.")


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix times the channels of each pixel, plus the bias.

    As one product for each image: a convolution of so few channels takes longer.
    """
    pixels, weights = x.flatten(2), weight.expand(x.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(weights, pixels).view_as(x)
    return torch.baddbmm(bias[:, None], weights, pixels).view_as(x)


def _per_row(log_det: Tensor, x: Tensor) -> Tensor:
    return (log_det * x.shape[2] * x.shape[3]).expand(x.shape[0])


@contextmanager
def naming(module: nn.Module) -> Iterator[None]:
    """Name the layer in a module, where an error says that it cannot be inverted."""
    try:
        yield
    except SingularError as error:
        layers = {part: name for name, part in module.named_modules()}
        raise SingularError(error.layer, f"the layer {layers[error.layer]}") from None
