"""The run folder: one training with its settings, checkpoints, figures and model.

runs/NAME/
    config.yaml     every setting; `diffeo train --config` repeats it
    model/          the best model: what people share
    checkpoints/    last.ckpt to resume from, before.ckpt if it is damaged; best.ckpt
    metrics.csv     a line for each epoch
    results.json    the last figures, on each split
    tensorboard/    scalars and pictures over time
    figures/        pictures
"""

import importlib
from typing import TYPE_CHECKING, Any

from diffeo.run.folder import Run

if TYPE_CHECKING:
    from diffeo.run.drawing import FigureKind, draw
    from diffeo.run.learning import train
    from diffeo.run.sharing import share

# Imported when asked for: to open a run and to sample needs neither Lightning nor matplotlib.
LATER = {"FigureKind": "drawing", "draw": "drawing", "train": "learning", "share": "sharing"}

__all__ = ["FigureKind", "Run", "draw", "share", "train"]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
