"""A run made fit to be shared: its model, and a card that says what was measured of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from torch import Generator, Tensor

from diffeo import figures
from diffeo.data import SPLITS
from diffeo.evaluation.likelihood import Score, evaluate
from diffeo.flow import Flow
from diffeo.run.command import command_of
from diffeo.run.folder import Run

IMAGES, ROWS = 64, 2_000
MOST_CLASSES = 20  # that have a column each on a sheet of samples
# Of the server, and of the way to it; which package carries them depends on the hub's release.
HUB_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError)


def share(
    run: Run,
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    license: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> str:
    """Push the model of a run to the Hugging Face hub, with a card; or write what would be pushed.

    The card says what the run folder knows: scores, the command, samples. It has no path of this
    machine and no row of the data. The scores are those of the weights as they are shared: where
    rounding changed them, the test split is scored again.

    Args:
        run: the run.
        name: on the hub, `owner/name`; with `out` it is only said on the card.
        out: a folder to write to instead, which is new or empty.
        dtype: see `Flow.save_pretrained`.
        license: see `diffeo.pretrained.card.Card`.
        console: where to report.
        options: see `Flow.push_to_hub`: private, token, branch and others.

    Returns:
        The address on the hub, or the folder.

    Raises:
        ValueError: if neither a name nor a folder is given, the folder is in use, or the hub
            refuses.
    """
    if name is None and out is None:
        raise ValueError("say where to: a name on the hub, owner/name, or --out FOLDER.")
    if out is not None and _in_use(Path(out)):
        raise ValueError(f"{out} is not empty: name another folder by --out.")
    with tempfile.TemporaryDirectory() as folder:
        # As others will load it.
        run.flow.save_pretrained(Path(folder) / "model", dtype=dtype)
        flow = Flow.from_pretrained(Path(folder) / "model")
        card = _card(run, flow, dtype, Path(folder), console or Console(quiet=True))
        card |= {"license": license} | ({"name": name} if name else {})
        if out is not None:
            run.flow.save_pretrained(out, dtype=dtype, model_card_kwargs=card)
            return str(out)
        assert name is not None
        try:
            return run.flow.push_to_hub(name, dtype=dtype, model_card_kwargs=card, **options)
        except HUB_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{name} could not be pushed to the hub ({reason}): log in by `hf auth login`, "
                "check the name, or write a folder by --out."
            ) from error


def _in_use(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _card(
    run: Run, flow: Flow, dtype: torch.dtype | None, folder: Path, console: Console
) -> dict[str, Any]:
    """What the card says, as far as the run knows it."""
    settings = _settings(run)
    card: dict[str, Any] = {"dtype": dtype}
    if settings is not None:
        card["command"] = command_of(settings, type(flow))
        source = str(settings["data"]["source"])
        if source.startswith("hf://"):
            card["dataset"] = "/".join(source.removeprefix("hf://").split("/")[:2])
    scores, notes = _scores(run, flow, dtype, console)
    unit = "images" if flow.takes_pixels else "rows"
    card["results"] = {split: f"{score}, {score.rows:,} {unit}" for split, score in scores.items()}
    card["notes"] = notes
    image = folder / "samples.png"
    caption = _draw(run, flow, image)
    return card | ({"image": image, "caption": caption} if caption else {})


def _settings(run: Run) -> dict[str, Any] | None:
    if not run.config_file.is_file():
        return None
    try:
        settings: dict[str, Any] = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
        # All that a command is made of.
        _ = [settings[part] for part in ("model", "data", "seed", "precision", "optimizer")]
        _ = settings["model"]["class_path"], settings["data"]["source"], settings["trainer"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{run.config_file} is damaged: it is no run's settings.") from error
    return settings


# Scores -----------------------------------------------------------------------------------------


def _scores(
    run: Run, flow: Flow, dtype: torch.dtype | None, console: Console
) -> tuple[dict[str, Score], list[str]]:
    """Scores of the splits, and sentences about them."""
    path = run.folder / "results.json"
    if not path.is_file():
        return {}, []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        scores = {split: Score(**results[split]) for split in SPLITS if split in results}
        seconds = results.get("training", {}).get("seconds")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: make it anew by training.") from error
    scores = {split: scores[split] for split in ("test", "val", "train") if split in scores}
    notes = []
    if flow.takes_pixels:
        notes.append(
            "Each image is scored by one noisy copy, so that these are upper bounds of the "
            "bits/dim of the images themselves; ± is the standard error over images."
        )
    else:
        notes.append("In the units of the data; ± is the standard error over rows.")
    if dtype is not None:
        try:
            with console.status("scoring the rounded weights on the test split"):
                scores = {"test": evaluate(flow, run.data(), "test")}
            notes.append("Scored with the weights as they are here, after rounding.")
        except ValueError:
            notes.append("Scored before the kernels were rounded: the data were no longer there.")
    if seconds is not None:
        notes.append(f"Training took {seconds:,.0f} seconds.")
    return scores, notes


# Samples ----------------------------------------------------------------------------------------


def _draw(run: Run, flow: Flow, path: Path) -> str | None:
    """Draw samples, always with the same noise, and say what they are; None if there is no way."""
    generator = Generator().manual_seed(0)
    if not flow.takes_pixels:
        context = _contexts(run, ROWS)
        if flow.dims < 2 or (flow.context_features and context is None):
            return None
        with torch.no_grad():
            rows = flow.sample(ROWS, context, generator=generator)
        figures.save(figures.corner(None, rows, run.columns), path)
        return f"{ROWS:,} rows that the model drew"
    classes = _classes(run)
    count = IMAGES if classes is None else IMAGES // 8 * classes
    context = torch.eye(classes).repeat(8, 1) if classes else _contexts(run, count)
    if flow.context_features and context is None:
        return None
    with torch.no_grad():
        x = flow.sample(count, context, generator=generator)
    figures.save_images(x, path, columns=classes)
    note = ", a class in each column" if classes else ""
    return f"{count} images that the model drew{note}"


def _classes(run: Run) -> int | None:
    """The number of classes of a class-conditional model, if there are few; otherwise None."""
    category = run.flow.context.category
    count = 0 if category is None else len(category.values)
    return count if 1 < count <= MOST_CLASSES else None


def _contexts(run: Run, count: int) -> Tensor | None:
    """Contexts of the test split, over and over; None where it is not at hand."""
    if not run.context_columns or not run.config_file.is_file():
        return None
    try:
        known = run.data().test
    except ValueError:
        return None
    context = known.take(torch.arange(len(known)))[1] if len(known) else None
    return None if context is None else context[torch.arange(count) % len(context)]
