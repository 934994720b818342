"""The distribution function of a mixture of logistics as one operation, its gradient by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffeo.utils.fused import gradients_with_graph

LOG_SCALE = 5.0  # largest change of a log-scale


class Fused(torch.autograd.Function):
    """`(y, log dy/dx)` of elements and their raw parameters `(3, K, *shape)`, as `plain` has them.

    With F_k = G((x - m_k) / s_k), the shares b_k = w_k F_k / F and a_k = w_k (1 - F_k) / (1 - F) of
    both tails, and p_k those of the density:

        dy/du_k = b_k (1 - F_k) + a_k F_k,   dy/dlog w_k = b_k - a_k
        dl/du_k = p_k (1 - 2 F_k) - b_k (1 - F_k) + a_k F_k,   dl/dlog w_k = p_k - b_k - a_k

    for l = log dy/dx and u_k = (x - m_k) / s_k. Each tail is computed in log space on its own, so
    y = log F - log(1 - F) is exact far out. It takes two thirds of the time of the plain form.
    """

    @staticmethod
    def forward(ctx: Any, mixture: Any, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        logits, shift, change = raw
        log_w = logits.log_softmax(0)
        bounded = torch.tanh(change / LOG_SCALE)
        log_rate = torch.mul(bounded, -LOG_SCALE).sub_(math.log(mixture.scale))
        rate = log_rate.exp()
        u = torch.stack([x - shift[k] - place for k, place in enumerate(mixture.places)])
        u.mul_(rate)
        below, above = u.sigmoid(), (-u).sigmoid()
        # Of either tail by itself: a difference of both would lose its digits far out.
        smaller = torch.nn.functional.logsigmoid(u.abs())
        log_below, log_above = smaller + u.clamp(max=0), smaller.sub_(u.clamp(min=0))
        b, log_b, log_f = _shares(log_below + log_w)
        a, log_a, log_g = _shares(log_above + log_w)
        # By the smaller tail, and in log space: between narrow components all products underflow.
        lower = log_f < log_g
        terms = torch.where(lower, log_above.add_(log_b), log_below.add_(log_a)).add_(log_rate)
        p, _, log_hazard = _shares(terms)
        b_above, a_below = b * above, a * below
        ctx.mixture = mixture
        ctx.save_for_backward(x, raw, log_w, bounded, rate, u, below, b, a, p, b_above, a_below)
        return log_f - log_g, log_hazard.sub_(torch.where(lower, log_g, log_f))

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log: Tensor) -> Any:
        x, raw, log_w, bounded, rate, u, below, b, a, p, b_above, a_below = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *gradients_with_graph(ctx, ctx.mixture.plain, (x, raw), grad, grad_log)
        of_raw = torch.empty_like(raw)
        g_weight, g_shift, g_change = of_raw
        more, less = grad + grad_log, grad - grad_log
        # By u, and times the rate by x.
        g_p = p * grad_log
        g_u = torch.addcmul(g_p, g_p, below, value=-2)
        g_u.addcmul_(b_above, less).addcmul_(a_below, more)
        torch.mul(g_u, rate, out=g_shift)
        g_x = g_shift.sum(0)
        g_shift.neg_()
        # By log-scales: l has -log s_k in it, and u is divided by s_k.
        torch.mul(g_u, u, out=g_change).add_(g_p).neg_()
        g_change.mul_(torch.addcmul(torch.ones_like(bounded), bounded, bounded, value=-1))
        # By log-weights, and through their softmax.
        torch.addcmul(g_p, b, less, out=g_weight).addcmul_(a, more, value=-1)
        g_weight.addcmul_(log_w.exp(), g_weight.sum(0), value=-1)
        return None, g_x, of_raw


def _shares(terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The shares of terms of their sum, their logarithms, and that of the sum.

    Args:
        terms: by their logarithms `(K, *shape)`; changed in place.
    """
    most = terms.amax(0)
    shares = terms.sub_(most).exp()
    total = shares.sum(0)
    shares.mul_(total.reciprocal())
    log_total = total.log_()
    return shares, terms.sub_(log_total), log_total + most
