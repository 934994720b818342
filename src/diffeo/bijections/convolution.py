"""The 1x1 convolution of Glow: a learned mixing of channels instead of a permutation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import Gradients
from diffeo.bijections.base import Bijection, Context
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.together import Alike, known, prepare, stacked


class InvertibleConv1x1(Bijection):
    """Mix the channels of each pixel by one invertible matrix.

        y[:, i, h, w] = sum_j W[i, j] x[:, j, h, w],   log|det dy/dx| = H W log|det W|

    Either W itself is learned, or, so that it stays invertible and its determinant is at hand, the
    parts of

        W = P L (U + diag(sign * exp(log_s))),   log|det W| = sum(log_s)

    where L is lower triangular with ones on its diagonal and U strictly upper triangular; the
    permutation P and the signs stay as they are. W starts as a random rotation.

    Args:
        channels: C of the input `(batch, C, H, W)`.
        lu: whether the parts are learned instead of W.
        seed: of the rotation; drawn from torch's random state by default.

    In eval mode W, its inverse (in float64, by triangular solves) and its log-determinant are
    computed once, and again after any change of the weights.

    Raises:
        ValueError: in eval mode, and by `inverse`, if W is so near to singular that its inverse
            has no correct digit.

    (Kingma & Dhariwal 2018, section 3.2)
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, lu: bool = True, seed: int | None = None) -> None:
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
            self.register_buffer("permutation", p.argmax(1))
            self.register_buffer("sign", upper.diagonal().sign().to(dtype))
            self.lower = nn.Parameter(lower.tril(-1).to(dtype))
            self.upper = nn.Parameter(upper.triu(1).to(dtype))
            self.log_s = nn.Parameter(upper.diagonal().abs().log().to(dtype))
        else:
            self.weight = nn.Parameter(rotation.to(dtype))
        self._ready: _Ready | None = None
        self.register_load_state_dict_post_hook(_check_permutation)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        weight, log_det = self.weight_and_log_det()
        return _mix(x, weight), _per_row(log_det, x)

    def inverse(
        self, y: Float[Tensor, "batch channels height width"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        inverse, log_det = self.inverse_and_log_det()
        return _mix(y, inverse), -_per_row(log_det, y)

    def weight_and_log_det(self) -> tuple[Float[Tensor, "channels channels"], Float[Tensor, ""]]:
        """W and log|det W|."""
        if self.training:
            return self.matrix(), self._log_det()
        ready = self._prepared()
        return ready.weight, ready.log_det

    def inverse_and_log_det(self) -> tuple[Float[Tensor, "channels channels"], Float[Tensor, ""]]:
        """W^-1 and log|det W|."""
        ready = self._prepared()
        return ready.inverse, ready.log_det

    def matrix(self) -> Float[Tensor, "channels channels"]:
        """W."""
        if not self.lu:
            return self.weight
        lower, upper = self.triangles()
        return (lower @ upper)[self.permutation]

    def triangles(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """L, and U with its diagonal, each `(channels, channels)`."""
        lower, upper, log_s = (part.to(dtype) for part in (self.lower, self.upper, self.log_s))
        eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return lower.tril(-1) + eye, upper.triu(1) + torch.diag(self.sign * log_s.exp())

    def _log_det(self) -> Tensor:
        if self.lu:
            return self.log_s.sum()
        return torch.linalg.slogdet(self.weight.double())[1].to(self.weight.dtype)

    def _inverse(self) -> Tensor:
        """W^-1 in float64."""
        if not self.lu:
            return torch.linalg.inv(self.weight.double())
        lower, upper = self.triangles(torch.float64)
        eye = torch.eye(len(lower), dtype=torch.float64, device=lower.device)
        right = torch.linalg.solve_triangular(
            lower, eye[self.permutation.argsort()], upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, right, upper=True)

    def _prepared(self) -> _Ready:
        """W, its inverse and its log-determinant; those of the last call if nothing changed."""
        # Not with its graph, nor on the device that has no values to compare.
        keep = not (self.training or torch.is_grad_enabled() or next(self.parameters()).is_meta)
        if keep and self._ready is not None and self._ready.is_of(self):
            return self._ready
        weight = self.matrix()
        self._check(weight)
        ready = _Ready(
            [t.detach().clone() for t in _tensors(self)],
            weight,
            self._inverse().to(weight.dtype),
            self._log_det(),
        )
        self._ready = ready if keep else None
        return ready

    @torch.no_grad()
    def _check(self, weight: Tensor) -> None:
        if weight.is_meta:
            return
        if weight.isfinite().all():
            values = torch.linalg.svdvals(weight.double())
            if values[-1] > values[0] * torch.finfo(weight.dtype).eps:
                return
        raise SingularError(self)

    def extra_repr(self) -> str:
        return f"{len(next(self.parameters()))}, lu={self.lu}"


class NormalizedConv1x1(Bijection):
    """An actnorm and a 1x1 convolution as one affine map of the channels of each pixel.

        y = W exp(3 s) (x + b),   log|det dy/dx| = H W (3 sum(s) + log|det W|)

    Args:
        norm: has s and b.
        conv: has W.

    (Kingma & Dhariwal 2018, sections 3.1 and 3.2)
    """

    def __init__(self, norm: ActNorm, conv: InvertibleConv1x1) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv

    def forward(
        self, x: Float[Tensor, "batch channels height width"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        self.norm.start_from(x)
        weight, bias, log_det = self._affine()
        return _mix(x, weight, bias), _per_row(log_det, x)

    def inverse(
        self, y: Float[Tensor, "batch channels height width"], context: Context | None = None
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        inverse, log_det = self.conv.inverse_and_log_det()
        x = _mix(y, inverse / self.norm.factor()[:, None], -self.norm.shift)
        return x, -_per_row(log_det + self.norm.log_factor().sum(), y)

    def _affine(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, c and log|det A| of `y = A x + c`."""
        ready = known(self, self.norm.shift.dtype)
        if ready is not None:
            return ready.weight, ready.bias, ready.log_det
        weight, log_det = self.conv.weight_and_log_det()
        weight = weight * self.norm.factor()
        return weight, weight @ self.norm.shift, log_det + self.norm.log_factor().sum()

    # Backward -----------------------------------------------------------------------------------

    def run(self, x: Tensor, context: Context | None) -> tuple[Tensor, Tensor, Any]:
        """See `Bijection.run`."""
        if not self._by_hand():
            return super().run(x, context)
        self.norm.start_from(x)
        ready = prepare(self, x.dtype)
        return _mix(x, ready.weight, ready.bias), _per_row(ready.log_det, x), (x, ready)

    def rebuild(self, y: Tensor, context: Context | None, note: Any) -> tuple[Tensor, Any]:
        """See `Bijection.rebuild`."""
        if not self._by_hand():
            return super().rebuild(y, context, note)
        ready = prepare(self, y.dtype)
        inverse, offset = (part[ready.place] for part in ready.alike.inverse)
        x = _mix(y, inverse, offset)
        return x, (x, ready)

    def back(
        self,
        kept: Any,
        context: Context | None,
        grad: Tensor,
        grad_log_det: Tensor,
        found: Gradients,
    ) -> Tensor:
        """See `Bijection.back`."""
        if not isinstance(kept[1], _Affine):
            return super().back(kept, context, grad, grad_log_det, found)
        x, ready = kept
        pixels = grad.flatten(2)
        by_weight = torch.bmm(pixels, x.flatten(2).mT).sum(0)
        by_log_det = grad_log_det.sum() * pixels.shape[2]
        found.later(self, (ready, by_weight, pixels.sum((0, 2)), by_log_det))
        return _mix(grad, ready.weight.T)

    def _by_hand(self) -> bool:
        return self.training and self.conv.lu

    # Together with others (see `together.Alike`) --------------------------------------------------

    def prepares(self, x: Tensor) -> Iterable[tuple[Alike, torch.dtype]]:
        """See `Bijection.prepares`."""
        return ((self, x.dtype),)

    def likeness(self) -> Hashable:
        """Its channels; None where its gradient is not found by hand, or not yet."""
        ready = self._by_hand() and not self.norm.awaits_data()
        return len(self.norm.shift) if ready else None

    @classmethod
    def prepare(cls, modules: Sequence[Self], dtype: torch.dtype) -> list[_Affine]:
        """A, c and log|det A| of `y = A x + c`, and what they are made of."""
        learned = [_learned(module) for module in modules]
        shift, log_scale, lower, upper, log_s = map(stacked, zip(*learned, strict=True))
        lower, upper = lower.tril(-1), upper.triu(1)
        lower.diagonal(0, -2, -1).fill_(1)
        upper.diagonal(0, -2, -1).copy_(log_s.exp().mul_(stacked([m.conv.sign for m in modules])))
        log_factor = ActNorm.SPEED * log_scale
        log_det = torch.stack([a.sum() + b.sum() for a, b in zip(log_s, log_factor, strict=True)])
        factor = log_factor.exp()
        rows = stacked([m.conv.permutation for m in modules])
        # One by one, and so to the last digit what `_affine` has.
        weight = torch.stack([(a @ b)[row] for a, b, row in zip(lower, upper, rows, strict=True)])
        weight = weight * factor[:, None]
        bias = torch.stack([w @ b for w, b in zip(weight, shift, strict=True)])
        alike = _Alike(weight, bias)
        parts = zip(weight, bias, log_det, lower, upper, factor, rows, learned, strict=True)
        return [_Affine(alike, place, *part) for place, part in enumerate(parts)]

    @classmethod
    def settle(cls, raws: Sequence[Any], found: Gradients) -> None:
        """From the gradients of A, c and log|det A|, those of what is learned."""
        affine, *grads = zip(*raws, strict=True)
        by_weight, by_bias, by_log_det = map(stacked, grads)
        parts = ((a.weight, a.lower, a.upper, a.factor, a.rows, a.learned[0]) for a in affine)
        weight, lower, upper, factor, rows, shift = map(stacked, zip(*parts, strict=True))
        rows, by_log_det = rows[:, :, None].expand_as(lower), by_log_det[:, None]
        by_weight = torch.addcmul(by_weight, by_bias[:, :, None], shift[:, None])
        by_log_factor = (by_weight * weight).sum(1) + by_log_det
        by_product = torch.empty_like(weight).scatter_(1, rows, by_weight * factor[:, None])
        by_upper = torch.bmm(lower.mT, by_product)
        # The diagonal of U is sign * exp(log_s), its own derivative.
        diagonal, by_diagonal = upper.diagonal(0, 1, 2), by_upper.diagonal(0, 1, 2)
        gradients = (
            torch.bmm(by_bias[:, None], weight)[:, 0],
            by_log_factor * ActNorm.SPEED,
            torch.bmm(by_product, upper.mT).tril_(-1),
            by_upper.triu(1),
            torch.addcmul(by_log_det, by_diagonal, diagonal),
        )
        learned = zip(*(each.learned for each in affine), strict=True)
        for tensors, gradient in zip(learned, gradients, strict=True):
            found.add_each(tensors, gradient)


def _learned(module: NormalizedConv1x1) -> tuple[Tensor, ...]:
    norm, conv = module.norm, module.conv
    return norm.shift, norm.log_scale, conv.lower, conv.upper, conv.log_s


class _Alike:
    """The maps `y = A x + c` of several that are alike, `(n, C, C)` and `(n, C)`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    @cached_property
    def inverse(self) -> tuple[Tensor, Tensor]:
        """A^-1 and -A^-1 c of the very weights that were used, by way of float64.

        NaN where A has no inverse: a step of training that is lost, and no error of its own.
        """
        inverse, failed = torch.linalg.inv_ex(self.weight.double())
        inverse.masked_fill_((failed != 0)[:, None, None], torch.nan)
        offset = torch.bmm(inverse, -self.bias.double()[:, :, None])[:, :, 0]
        return inverse.to(self.weight.dtype), offset.to(self.weight.dtype)


@dataclass(frozen=True)
class _Affine:
    """The map `y = A x + c` of a `NormalizedConv1x1` in training, and the parts of A."""

    alike: _Alike
    place: int
    weight: Tensor
    bias: Tensor
    log_det: Tensor
    lower: Tensor
    upper: Tensor
    factor: Tensor
    rows: Tensor
    learned: tuple[Tensor, ...]


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


@dataclass(frozen=True)
class _Ready:
    """What follows from the tensors of an `InvertibleConv1x1`, and those tensors."""

    tensors: list[Tensor]
    weight: Tensor
    inverse: Tensor
    log_det: Tensor

    def is_of(self, layer: InvertibleConv1x1) -> bool:
        # By value: a version counter would miss what is changed through `.data`.
        return all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(self.tensors, _tensors(layer), strict=True)
        )


def _check_permutation(layer: InvertibleConv1x1, _: Any) -> None:
    """Refuse a permutation that was loaded and is none."""
    if layer.lu and not torch.equal(
        layer.permutation.sort()[0].cpu(), torch.arange(len(layer.sign))
    ):
        raise ValueError("the permutation of a 1x1 convolution that was loaded is none.")


def _tensors(layer: InvertibleConv1x1) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The matrix times the channels of each pixel, plus the bias.

    As one product for each picture: a convolution of so few channels takes longer.
    """
    pixels, weights = x.flatten(2), weight.expand(x.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(weights, pixels).view_as(x)
    return torch.baddbmm(bias[:, None], weights, pixels).view_as(x)


def _per_row(log_det: Tensor, x: Tensor) -> Tensor:
    return (log_det * x.shape[2] * x.shape[3]).expand(x.shape[0])
