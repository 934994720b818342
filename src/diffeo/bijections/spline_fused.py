"""The rational-quadratic spline as one operation, with its gradient by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffeo.utils.fused import gradients_with_graph


class Fused(torch.autograd.Function):
    """`(y, log dy/dx)` of elements and their raw parameters, as `plain` computes them.

    It goes fewer times over memory, and does not fill gradients with zeros for each part of raw.
    """

    @staticmethod
    def forward(ctx: Any, spline: Any, given: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        value = given.clamp(-spline.bound, spline.bound)
        scale, least = spline.scale
        shares = spline.shares(raw)
        below = spline.edges(shares[0]).le_(value)  # as floats
        count = below.sum(0)
        k = count.long()
        low = (shares[:, :-1] * below).sum(1)
        size = shares.gather(1, k.expand(2, 1, *k.shape))[:, 0]
        x0, y0 = torch.add(count * least - spline.bound, low, alpha=scale)
        w, h = spans = size * scale + least
        rows = spline.rows(k)
        d = spline.derivatives(raw, rows)
        d0, d1 = d.unbind()
        s, t = h / w, (value - x0).div_(w).clamp_(0, 1)
        a, b = torch.lerp(d0, s, t), torch.lerp(s, d1, t)
        m, n = torch.lerp(a, b, t), torch.lerp(b, a, t)
        share = (t * a).div_(n)
        inside = spline.inside(given)
        y = torch.where(inside, torch.addcmul(y0, h, share), given)
        log_slope = torch.where(inside, m.log().add_((s / n).log_(), alpha=2), 0.0)
        ctx.spline = spline
        ctx.save_for_backward(
            given, raw, shares, below, low, size, spans, k, rows, d, s, t, a, b, m, n, share, inside
        )
        return y, log_slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log: Tensor) -> Any:
        saved = ctx.saved_tensors  # once: a checkpoint hands them out no second time
        given, raw, shares, below, low, size, spans, k, rows, d, *rest = saved
        s, t, a, b, m, n, share, inside = rest
        if torch.is_grad_enabled():
            return None, *gradients_with_graph(ctx, ctx.spline.plain, (given, raw), grad, grad_log)
        (w, h), (d0, d1) = spans.unbind(), d.unbind()
        gy, gl = torch.where(inside, grad, 0.0), torch.where(inside, grad_log, 0.0)
        # Through m = (1 - t) a + t b, n = (1 - t) b + t a and share = t a / n.
        g_share = gy * h
        gm, gn = gl / m, torch.addcmul(2 * gl, g_share, share).div_(n).neg_()
        g_share.div_(n)
        ga, gb = torch.lerp(gm, gn + g_share, t), torch.lerp(gn, gm, t)
        gt = g_share.mul_(a).addcmul_(gn.sub_(gm), a - b)
        # Through a = (1 - t) d0 + t s and b = (1 - t) s + t d1.
        gt.addcmul_(ga, s - d0).addcmul_(gb, d1 - s).div_(w)
        gs = torch.lerp(gb, ga, t).add_(gl / s, alpha=2).div_(w)
        gd = torch.stack((ga.addcmul(ga, t, value=-1), gb * t))
        # Through t = (x - x0) / w and s = h / w.
        scale, bins = ctx.spline.scale[0], ctx.spline.bins
        g_low = torch.stack((-gt, gy)).mul_(scale)
        g_size = torch.stack(((gt * t).addcmul_(gs, s).neg_(), gs.addcmul_(gy, share))).mul_(scale)
        # Through the softplus. The rows before and after those of derivatives belong to the ends.
        g_raw = raw.new_empty(3 * bins, *given.shape)
        g_raw[2 * bins - 1 :] = 0.0
        g_raw.scatter_(0, rows, gd.mul_(torch.expm1(ctx.spline.min_derivative - d).neg_()))
        # Through the softmax: shares * (g - sum(shares * g)).
        sizes = g_raw[: 2 * bins].unflatten(0, (2, bins))
        mean = (g_low * low).addcmul_(g_size, size).neg_()[:, None]
        torch.addcmul(mean, below, g_low[:, None], out=sizes[:, :-1])
        sizes[:, -1:] = mean
        sizes.scatter_add_(1, k.expand(2, 1, *k.shape), g_size[:, None]).mul_(shares)
        return None, torch.where(inside, gt, grad), g_raw[: len(raw)]
