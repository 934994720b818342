"""What there is to see of a model and its data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from diffeo import figures
from diffeo.data import Data, Images, ImageSplit, Split, Table
from diffeo.data.datasets import evenly
from diffeo.evaluation.likelihood import true_nll
from diffeo.flow import Flow
from diffeo.run.folder import Run
from diffeo.schema import NumberColumn, Schema
from diffeo.training.options import loss_of

TableFigure = Literal["panels", "density", "grid", "corner", "marginals", "curve"]
ImageFigure = Literal["samples", "reconstructions", "latents", "curve"]
FigureKind = Literal[TableFigure, ImageFigure]

SAMPLES = 64
# More than are drawn: the caption counts how many come back; and enough for a smooth histogram.
RECONSTRUCTED, ENCODED = 64, 256


def kinds_for(data: Data) -> list[FigureKind]:
    """The figures that suit some data, the most telling one first."""
    if isinstance(data, Images):
        return list(get_args(ImageFigure))
    if data.schema is not None:
        return ["marginals", "corner"] if len(_numbers(data.schema)) > 1 else ["marginals"]
    return ["panels", "density", "grid", "curve"] if data.features == 2 else ["corner", "curve"]


def draw(run: Run, data: Data, kind: FigureKind, path: Path, *, temperature: float = 1.0) -> None:
    """Write one figure of a model and its data.

    Args:
        run: the model.
        data: the data.
        kind: for two columns "panels" (data, encoded data, noise, decoded noise), "density" (a heat
            map) and "grid" (the latent grid in data space); for any table "corner" (data against
            samples, pair by pair), and for a mixed one "marginals" (column by column). For images
            "samples", "reconstructions" (of data, also without the finer levels) and "latents" (a
            histogram of each level). "curve" (the loss of each epoch) for all.
        path: where; its suffix chooses the format.
        temperature: of samples of images.

    Raises:
        ValueError: if the kind is not for such data, or there are no metrics.
    """
    images = isinstance(data, Images)
    known, what = (ImageFigure, "images") if images else (TableFigure, "a table")
    if kind not in get_args(known):
        choices = ", ".join(get_args(known))
        raise ValueError(f"a figure of kind {kind} is not for {what}: use {choices}.")
    if kind == "curve":
        figures.save(_curve(run, data), path)
    elif isinstance(data, Images):
        _draw_images(run.flow, data.test, kind, path, temperature)
    else:
        figures.save(_table_figure(run, data, kind), path)


def painter(
    data: Data, folder: Path, temperature: float = 1.0
) -> Callable[[Flow, str], dict[str, Path]] | None:
    """Draws a flow as it learns, always with the same rows and the same noise.

    None for a table that has not two columns.
    """
    if isinstance(data, Images):
        images = data.val

        def draw_images(flow: Flow, name: str) -> dict[str, Path]:
            kinds = ("samples", "reconstructions", "latents")
            paths = {kind: folder / f"{kind}-{name}.png" for kind in kinds}
            for kind, path in paths.items():
                _draw_images(flow, images, kind, path, temperature)
            return paths

        return draw_images
    if data.features != 2 or data.schema is not None:
        return None

    def draw_panels(flow: Flow, name: str) -> dict[str, Path]:
        path = folder / f"{name}.png"
        figures.save(_panels(flow, data, title=name.replace("-", " ")), path)
        return {"flow": path}

    return draw_panels


def draw_run(run: Run, data: Data, temperature: float = 1.0) -> Path:
    """Draw everything there is to see of a trained model into `figures/`; return the main one."""
    folder = run.folder / "figures"
    kinds = kinds_for(data)
    for kind in kinds:
        draw(run, data, kind, folder / f"{kind}.png", temperature=temperature)
    frames = sorted(folder.glob("samples-epoch-*.png")) or sorted(folder.glob("epoch-*.png"))
    if frames:
        figures.animate(frames, folder / "training.gif", milliseconds=300)
    return folder / f"{kinds[0]}.png"


def _draw_images(flow: Flow, images: ImageSplit, kind: str, path: Path, temperature: float) -> None:
    if kind == "samples":
        # The contexts of the first images, over and over.
        _, context = images.take(torch.arange(SAMPLES) % len(images))
        context = None if context is None else context.to(flow.device)
        noise = Generator().manual_seed(0)
        with torch.no_grad():
            samples = flow.sample(SAMPLES, context, temperature=temperature, generator=noise)
        figures.save_images(samples, path)
        return
    count = RECONSTRUCTED if kind == "reconstructions" else ENCODED
    x, context = images.take(torch.arange(min(count, len(images))))
    make = figures.reconstructions if kind == "reconstructions" else figures.latent_histograms
    figures.save(make(flow, x, context), path)


def _table_figure(run: Run, table: Table, kind: str) -> Figure:
    rows, flow = _rows_to_draw(table), run.flow
    if kind in ("corner", "marginals"):
        samples = run.sample(len(rows), context=rows.context, seed=0)
        if table.schema is None and kind == "corner":
            return figures.corner(rows.x, samples, table.columns)
        if table.schema is not None and kind == "corner":
            which = _numbers(table.schema)
            names = [table.columns[i] for i in which]
            x, drawn = (found[:, which] for found in (rows.x, samples))
            return figures.corner(_without_gaps(x), _without_gaps(drawn), names)
        if table.schema is not None:
            return figures.marginals(table.schema, rows.x, samples)
        raise ValueError(f"a figure of kind {kind} is for mixed tables: use corner.")
    if table.schema is not None:
        raise ValueError(f"a figure of kind {kind} is not for mixed tables: use marginals.")
    if table.features != 2:
        raise ValueError(
            f"a figure of kind {kind} needs 2 columns, not {table.features}: use corner."
        )
    if kind == "panels":
        return _panels(flow, table)
    make = figures.density_map if kind == "density" else figures.latent_grid
    return make(flow, rows.x, rows.context, table.columns)


def _numbers(schema: Schema) -> list[int]:
    """The places of the columns of numbers."""
    return [i for i, c in enumerate(schema.modelled) if isinstance(c, NumberColumn)]


def _without_gaps(x: Tensor) -> Tensor:
    return x[~x.isnan().any(1)]


def _panels(flow: Flow, table: Table, title: str | None = None) -> Figure:
    rows, generator = _rows_to_draw(table), Generator().manual_seed(0)
    return figures.four_panels(flow, rows.x, rows.context, generator=generator, title=title)


def _rows_to_draw(table: Table) -> Split:
    """The test rows, which show no overfitting, unless they are too few to show anything."""
    rows = table.test if len(table.test) >= 1_000 else table.train
    return rows if rows.weights is None else Split(*rows.take(evenly(rows, len(rows))))


def _curve(run: Run, data: Data) -> Figure:
    path = run.folder / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{run.folder} has no metrics.csv to draw a curve from.")
    metric, unit = loss_of(run.flow)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = ("epoch", f"train_{metric}", f"val_{metric}")
        columns = [[float(row[name]) for row in rows] for name in names]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: diffeo train --resume {run.folder} writes it again."
        ) from error
    floor = true_nll(data, "val") if isinstance(data, Table) else None
    return figures.training_curve(*columns, floor=floor, unit=unit)
