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

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from torch import Generator, Tensor

from diffeo import figures
from diffeo.beside import beside
from diffeo.data import Split, Table, TableOptions, load_table
from diffeo.evaluation import CHUNK, SPLITS, evaluate, true_nll
from diffeo.flow import Flow, public_name
from diffeo.models.realnvp import RealNVP
from diffeo.training.fit import TrainerOptions, fit, limit_threads
from diffeo.training.module import OptimizerOptions

ModelFactory = Callable[[int], Flow]
# Below this, a flow of the default size overfits whatever it is told.
FEW_ROWS = 200
FigureKind = Literal["panels", "density", "grid", "corner", "curve"]


class Run:
    """A run folder, opened to use its model.

    Args:
        name: the run folder; a bare model folder or a hub name serves too, for all that needs no
            training data.
        trust: whether a class that is none of diffeo's may be imported (see
            `Flow.from_pretrained`).

    Raises:
        ValueError: if it holds no model.
    """

    def __init__(self, name: str | os.PathLike[str], *, trust: bool = False) -> None:
        self.folder = Path(name)
        inner = self.folder / "model"
        if self.config_file.is_file() and not inner.is_dir():
            raise ValueError(f"{name} holds no model yet: go on with --resume {name}.")
        self.flow = Flow.from_pretrained(inner if inner.is_dir() else name, trust=trust)
        names = [f"x{i}" for i in range(self.flow.dims)]
        self.columns: list[str] = self.flow.metadata.get("columns", names)
        self.context_columns: list[str] = self.flow.metadata.get("context_columns", [])

    @property
    def config_file(self) -> Path:
        """Where its settings are."""
        return self.folder / "config.yaml"

    def table(self) -> Table:
        """The data that it was trained on, split as then.

        Raises:
            ValueError: if the folder does not say what they were, or they are gone.
        """
        if not self.config_file.is_file():
            raise ValueError(f"{self.folder} does not say where its data are: name some by --data.")
        return load_table(_data_options(self.config_file))

    def sample(
        self,
        n: int,
        *,
        context: Tensor | None = None,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> Tensor:
        """Draw n rows `(n, features)`, in parts that bound the memory that it takes.

        Args:
            n: how many.
            context: `(n, context_features)` or one row of it.
            temperature: see `Flow.sample`.
            seed: the same seed draws the same rows; None for others each time.
        """
        return torch.cat(list(self.stream_samples(n, context, temperature, seed)))

    def stream_samples(
        self, n: int, context: Tensor | None, temperature: float, seed: int | None
    ) -> Iterator[Tensor]:
        """The rows of `sample`, part by part."""
        generator = Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        for start in range(0, max(n, 1), CHUNK):
            count = min(CHUNK, n - start)
            rows = context
            if context is not None and len(context) > 1:
                rows = context[start : start + count]
            with torch.no_grad():
                part = self.flow.sample(count, rows, temperature=temperature, generator=generator)
            yield part


def _data_options(path: Path) -> TableOptions:
    try:
        section = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
        return TableOptions(**section | {"splits": tuple(section["splits"])})
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: its section 'data' cannot be read.") from error


# Training ---------------------------------------------------------------------------------------


def train(
    model: ModelFactory = RealNVP,
    data: TableOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    optimizer: OptimizerOptions | None = None,
    trainer: TrainerOptions | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a flow by maximum likelihood, and fill a run folder.

    Args:
        model: makes the flow from the number of features: a model class, or
            `functools.partial(RealNVP, layers=12)`.
        data: the table; moons by default.
        out: the run folder; by default the first free one of runs/NAME, runs/NAME-2 and so on.
        seed: of the first weights and the order of the batches. The split has its own.
        optimizer: how the weights are learned.
        trainer: how long, and on which machines.
        resume: go on from the last checkpoint in `out`, or start anew where there is none.
        console: where to report.

    Returns:
        The run folder.

    Raises:
        ValueError: if the data, the model or the folder cannot be used; nothing is written then.
    """
    data = data or TableOptions()
    optimizer = optimizer or OptimizerOptions()
    trainer = trainer or TrainerOptions()
    console = console or Console()
    limit_threads()
    table = load_table(data)
    torch.manual_seed(seed)
    flow = build(model, table)
    folder = Path(out) if out is not None else _free_folder(table.name)
    settings = {
        "model": {"class_path": public_name(type(flow)), "init_args": _model_arguments(flow)},
        "data": dataclasses.asdict(data),
        "seed": seed,
        "optimizer": dataclasses.asdict(optimizer),
        "trainer": dataclasses.asdict(trainer),
    }
    _claim(folder, settings, resume)
    if len(table.train) < FEW_ROWS:
        console.print(
            f"{table.name} has only {len(table.train)} rows to learn from: expect a model that "
            "knows them by heart, and mind its standard error.",
            soft_wrap=True,
        )
    for note in table.notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(
        f"{type(flow).__name__}, {sum(p.numel() for p in flow.parameters()):,} weights, "
        f"learns {table.features} columns of {table.name} from {len(table.train):,} rows "
        f"({len(table.val):,} to validate, {len(table.test):,} to test).",
        highlight=False,
        soft_wrap=True,
    )
    seconds = fit(
        flow,
        (table.train.x, table.train.context),
        (table.val.x, table.val.context),
        folder,
        seed=seed,
        optimizer=optimizer,
        options=trainer,
        draw=_painter(table, folder / "figures") if table.features == 2 else None,
        resume=resume,
        console=console,
    )
    _finish(folder, table, seconds, console)
    return folder


def build(model: ModelFactory, table: Table) -> Flow:
    """Make the flow for a table, with the names that `score` and `sample` need.

    Raises:
        ValueError: if the model cannot be made for it.
    """
    needs: dict[str, Any] = {}
    if table.context_features:
        needs["context_features"] = table.context_features
    if any(table.steps):
        needs["steps"] = table.steps
    try:
        flow = model(table.features, **needs)
    except TypeError as error:
        raise ValueError(
            f"the model cannot be made from a number of features and {list(needs)}: {error}."
        ) from error
    flow.metadata = {
        "data": table.name,
        "columns": table.columns,
        "context_columns": table.context_columns,
    }
    return flow


def _model_arguments(flow: Flow) -> dict[str, Any]:
    """The arguments that the user chose; the others follow from the data."""
    first, *_ = flow.arguments
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flow.arguments.items()
        if name not in {first, "context_features", "steps"}
    }


def _free_folder(name: str) -> Path:
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    folder = Path("runs") / slug
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{slug}-{number}"
    return folder


def _claim(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Take the folder for this run by writing its settings there."""
    config = folder / "config.yaml"
    if config.exists() and not resume:
        raise ValueError(
            f"{folder} already holds a run: go on with it by --resume {folder}, "
            "or choose another folder by --out."
        )
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder by --out.")
    try:
        splits = settings["data"] | {"splits": list(settings["data"]["splits"])}
        text = yaml.safe_dump(settings | {"data": splits}, sort_keys=False, allow_unicode=True)
        with beside(config) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}): choose another folder by --out."
        ) from error


def _finish(folder: Path, table: Table, seconds: float, console: Console) -> None:
    """Evaluate the best model, draw it, and say where everything is."""
    run = Run(folder)
    scores = {name: evaluate(run.flow, table, name) for name in SPLITS}
    results = {name: dataclasses.asdict(score) for name, score in scores.items()}
    results["training"] = {"seconds": round(seconds, 2)}
    with beside(folder / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    picture = draw_run(run, table)
    console.print(
        f"Trained in {seconds:.1f} s. Test {scores['test']}.\n"
        f"Run folder {folder}, figure {picture}.",
        highlight=False,
        soft_wrap=True,
    )


# Figures ----------------------------------------------------------------------------------------


def _painter(table: Table, folder: Path) -> Callable[[Flow, str], Path]:
    """Draws a flow of two features, always with the same rows and the same noise."""

    def draw(flow: Flow, name: str) -> Path:
        path = folder / f"{name}.png"
        figures.save(_panels(flow, table, title=name.replace("-", " ")), path)
        return path

    return draw


def _panels(flow: Flow, table: Table, title: str | None = None) -> Figure:
    generator = Generator().manual_seed(0)
    rows = _rows_to_draw(table)
    return figures.four_panels(flow, rows.x, rows.context, generator=generator, title=title)


def draw_run(run: Run, table: Table) -> Path:
    """Draw everything there is to see of a trained model into `figures/`; return the main one."""
    folder = run.folder / "figures"
    kinds: list[FigureKind] = ["panels", "density", "grid"] if table.features == 2 else ["corner"]
    for kind in kinds:
        figures.save(draw(run, table, kind), folder / f"{kind}.png")
    figures.save(draw(run, table, "curve"), folder / "curve.png")
    frames = sorted(folder.glob("epoch-*.png"))
    if frames:
        figures.animate(frames, folder / "training.gif", milliseconds=300)
    return folder / f"{kinds[0]}.png"


def draw(run: Run, table: Table, kind: FigureKind) -> Figure:
    """One figure of a model and its data.

    Args:
        run: the model.
        table: the data.
        kind: "panels" (data, encoded data, noise, decoded noise), "density" (a heat map) and "grid"
            (the latent grid in data space) for two features; "corner" (data against samples,
            pair by pair); "curve" (the loss of each epoch).

    Raises:
        ValueError: if the kind is not for so many features, or there are no metrics.
    """
    if kind == "curve":
        return _curve(run, table)
    rows = _rows_to_draw(table)
    if kind == "corner":
        samples = run.sample(len(rows), context=rows.context, seed=0)
        return figures.corner(rows.x, samples, table.columns)
    if table.features != 2:
        raise ValueError(
            f"a figure of kind {kind} needs 2 columns, not {table.features}: use corner."
        )
    if kind == "density":
        return figures.density_map(run.flow, rows.x, rows.context, table.columns)
    if kind == "grid":
        return figures.latent_grid(run.flow, rows.x, rows.context, table.columns)
    return _panels(run.flow, table)


def _rows_to_draw(table: Table) -> Split:
    """The test rows, which show no overfitting, unless they are too few to show anything."""
    return table.test if len(table.test) >= 1_000 else table.train


def _curve(run: Run, table: Table) -> Figure:
    path = run.folder / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{run.folder} has no metrics.csv to draw a curve from.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [[float(row[name]) for row in rows] for name in ("epoch", "train_nll", "val_nll")]
    return figures.training_curve(*columns, floor=true_nll(table, "val"))
