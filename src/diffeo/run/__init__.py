"""The run folder: one training with its settings, checkpoints, figures and model.

runs/NAME/
    config.yaml     every setting; `diffeo train --config` repeats it
    model/          the best model: what people share
    checkpoints/    last.ckpt to resume from, before.ckpt if it is damaged; best.ckpt
    metrics.csv     a line for each epoch
    results.json    the last figures, on each split
    tensorboard/    scalars and figures over time
    figures/        images of the model and its data
"""

from typing import TYPE_CHECKING, Final

from diffeo.run.folder import Run
from diffeo.utils.lazy import lazy_import

if TYPE_CHECKING:
    from diffeo.run.drawing import FigureKind, draw
    from diffeo.run.learning import train
    from diffeo.run.sharing import share

__all__ = ["FigureKind", "Run", "draw", "share", "train"]

# To open a run and to sample needs neither the training loop nor matplotlib.
__getattr__: Final = lazy_import(
    __name__,
    {"FigureKind": "drawing", "draw": "drawing", "train": "learning", "share": "sharing"},
)
