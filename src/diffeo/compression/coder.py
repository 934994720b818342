"""Range coding: symbols as bits by their probabilities, in the order in which they are coded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

OTHERWISE = (
    "the file cannot be read by this arithmetic, which rounds otherwise than the one that made it: "
    "use the kind of processor and the release of PyTorch that it was made with."
)


class Coder(ABC):
    """One end of a line of symbols; code that knows the probabilities serves both ends alike.

    A symbol of probability p takes -log2 p bits. Probabilities are rounded to 24 bits, so that no
    symbol is impossible.

    (Martin 1979)
    """

    @abstractmethod
    def code(self, p: Tensor, symbols: Tensor | None = None) -> Tensor:
        """The next symbols `(n,)`, of n distributions p `(n, K)`; those given, where it writes."""


class Writer(Coder):
    """Turns symbols into bytes."""

    def __init__(self) -> None:
        self._encoder = constriction().stream.queue.RangeEncoder()

    def code(self, p: Tensor, symbols: Tensor | None = None) -> Tensor:
        assert symbols is not None
        if len(symbols):
            family = constriction().stream.model.Categorical(perfect=False)
            self._encoder.encode(symbols.numpy(force=True).astype(np.int32), family, _rounded(p))
        return symbols

    def finish(self) -> bytes:
        """All that was coded."""
        words: Any = self._encoder.get_compressed()
        data: bytes = words.astype("<u4").tobytes()
        return data


class Reader(Coder):
    """Turns bytes back into symbols.

    Args:
        data: of `Writer.finish`.
    """

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._decoder = constriction().stream.queue.RangeDecoder(words)

    def code(self, p: Tensor, symbols: Tensor | None = None) -> Tensor:
        if not len(p):
            return torch.zeros(0, dtype=torch.long)
        family = constriction().stream.model.Categorical(perfect=False)
        try:
            found = self._decoder.decode(family, _rounded(p))
        except Exception as error:  # of the library, of bytes that other probabilities would give
            raise ValueError(OTHERWISE) from error
        return torch.from_numpy(found.astype(np.int64)).to(p.device)


def _rounded(p: Tensor) -> Any:
    """Probabilities that sum to 1, as the library takes them."""
    p = p.double().clamp(min=1e-12)
    return (p / p.sum(1, keepdim=True)).float().numpy(force=True)


def constriction() -> Any:
    """The library (Bamler 2022).

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise ValueError(
            "constriction is missing, which lossless files need: pip install 'diffeo[compression]'."
        ) from None
    return constriction
