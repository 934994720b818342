"""Answers of a model of a mixed table: any conditional, filled cells, and explanations of rows."""

from typing import TYPE_CHECKING, Final

from diffeo.answers.conditional import Answer, Conditional, conditional
from diffeo.answers.explaining import explain
from diffeo.answers.filling import fill
from diffeo.utils.lazy import lazy_import

if TYPE_CHECKING:
    from diffeo.answers.describing import draw_distributions

__all__ = ["Answer", "Conditional", "conditional", "draw_distributions", "explain", "fill"]

# To ask needs no matplotlib.
__getattr__: Final = lazy_import(__name__, {"draw_distributions": "describing"})
