"""The run folder: one training with its settings, checkpoints, figures and model.

runs/NAME/
    config.yaml     every setting; `diffeo train --config` repeats it
    model/          the best model: what people share
    checkpoints/    last.ckpt to resume from, best.ckpt
    metrics.csv     a line for each epoch
    results.json    the last figures, on each split
    tensorboard/    scalars and pictures over time
    figures/        pictures
"""

from diffeo.run.drawing import FigureKind, draw
from diffeo.run.folder import Run
from diffeo.run.learning import train

__all__ = ["FigureKind", "Run", "draw", "train"]
