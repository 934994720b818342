"""The loss by epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffeo.figures.style import DATA, GREY, LINE, MODEL, house_style, panel, plain, tick


@house_style()
def training_curve(
    epochs: Sequence[float],
    train: Sequence[float],
    validation: Sequence[float],
    *,
    floor: float | None = None,
    unit: str = "nats",
    title: str | None = None,
) -> Figure:
    """Negative log-likelihood (NLL) by epoch, and the best epoch of the validation curve.

    NaN stands for what was not measured, and `floor` is the lowest NLL that any model can reach.

    Raises:
        ValueError: if the lists differ in length, or hold no finite value.
    """
    lengths = len(epochs), len(train), len(validation)
    if len({*lengths}) > 1:
        raise ValueError(f"epochs, train and validation differ in length: {lengths}.")
    at, curves = np.asarray(epochs, float), np.array([train, validation], float)
    good = np.isfinite(curves)
    if not good.any():
        raise ValueError("there is no finite NLL to draw.")
    # The first epochs fall from so high that on their scale the rest would be a flat line.
    low = min(float(curves[good].min()), np.inf if floor is None else floor)
    high = max(float(np.quantile(curves[good], 0.9)), low)
    pad = 0.12 * (high - low) or 0.5

    figure = Figure(figsize=(6.4, 3.6))
    axes = panel(figure, 0.75, 0.55, 5.45, 2.65)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=LINE, lw=0.5, alpha=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_axisbelow(True)
    axes.plot(at[good[0]], curves[0, good[0]], color=DATA, lw=1.2, label="train")
    axes.plot(at[good[1]], curves[1, good[1]], color=MODEL, lw=1.8, label="validation")
    if good[1].any():
        best = int(np.where(good[1], curves[1], np.inf).argmin())
        label = f"best: {curves[1, best]:.5g} at epoch {tick(at[best])}"
        axes.plot(at[best], curves[1, best], "o", ms=6, mfc="white", color=MODEL, label=label)
    if floor is not None:
        axes.axhline(floor, color=GREY, lw=1, ls=(0, (4, 3)), label=f"floor: {floor:.5g}")
    axes.set(xlabel="epoch", ylabel=f"NLL ({unit})", ylim=(low - pad, high + pad))
    axes.margins(x=0.02)
    axes.legend(loc="upper right")
    axes.set_title(plain(title or "negative log-likelihood while training"))
    return figure
