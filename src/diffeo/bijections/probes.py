"""Random numbers of estimates, without a random state: they follow from a seed, weights and rows.

Equal weights and rows have equal numbers, so that both directions of a map agree and a run that is
resumed goes on as it would have. Each step of training, which moves the weights, has new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 64.0  # rows are compared up to this grid, as rounding must not change their numbers
OFFSET = 0.2137  # of its borders from round numbers
LARGEST = 2.0**40


def make_key(seed: int, weight: Tensor) -> Tensor:
    """A whole number of 64 bits from a seed and the values of a weight, on its device."""
    total = (weight.detach().sum() * 2.0**20).nan_to_num(0.0).clamp(-LARGEST, LARGEST)
    return _mix(_mix(total.long()) + seed)


def uniform(key: Tensor) -> Tensor:
    """A number in (0, 1) for a key."""
    return ((_mix(key + 1) & (2**24 - 1)).to(torch.float32) + 0.5) / 2.0**24


def signs(x: Tensor, key: Tensor) -> Tensor:
    """Random signs, -1 or 1, of the shape of x `(batch, D)`, for each of its rows others."""
    cells = (x.detach() * CELLS + OFFSET).nan_to_num(0.0).clamp(-LARGEST, LARGEST).round().long()
    places = _mix(torch.arange(1, x.shape[1] + 1, device=x.device) + _mix(key + 2))
    rows = _mix((cells * places).sum(1))
    bits = _mix(rows[:, None] ^ places)
    return (((bits >> 32) & 1) * 2 - 1).to(x.dtype)


def _mix(h: Tensor) -> Tensor:
    """Spread each bit over all (SplitMix64, Steele et al. 2014), in integers that overflow."""
    h = (h ^ ((h >> 30) & (2**34 - 1))) * -4658895280553007687
    h = (h ^ ((h >> 27) & (2**37 - 1))) * -7723592293110705685
    return h ^ ((h >> 31) & (2**33 - 1))
