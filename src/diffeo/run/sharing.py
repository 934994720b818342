"""A run made fit to be shared: its model, and a card that says what was measured of it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from torch import Generator, Tensor

from diffeo import figures
from diffeo.data import DataOptions
from diffeo.data.images.dataset import IMAGE_SETS
from diffeo.data.tables.opening import BUNDLED
from diffeo.data.tables.synthetic import GENERATORS
from diffeo.evaluation.likelihood import Score, evaluate, is_exact
from diffeo.flow import Flow
from diffeo.models.mixed import MixedFlow
from diffeo.run import presets
from diffeo.run.folder import Run, as_setting
from diffeo.run.showing import read_results
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.config import public_name

Settings = Mapping[str, Any]
IMAGES, ROWS = 64, 2_000
MOST_CLASSES = 20  # that have a column each in a grid of samples
# Of the server, and of the connection to it; which package has them depends on the hub's release.
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
        name: on the hub, `owner/name`; with `out` it only stands on the card.
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
    place = Path(out or "")
    if out is not None and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{out} is not empty: name another folder by --out.")
    with tempfile.TemporaryDirectory() as folder:
        # As others will load it.
        run.flow.save_pretrained(Path(folder) / "model", dtype=dtype)
        flow = Flow.from_pretrained(Path(folder) / "model").to(run.flow.device)
        card = _card(run, flow, dtype, Path(folder), console or Console(quiet=True))
        card |= {"license": license} | ({"name": name} if name else {})
        if name is None or out is not None:
            run.flow.save_pretrained(place, dtype=dtype, model_card_kwargs=card)
            return str(out)
        try:
            return run.flow.push_to_hub(name, dtype=dtype, model_card_kwargs=card, **options)
        except HUB_ERRORS as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{name} could not be pushed to the hub ({reason}): log in by `hf auth login`, "
                "check the name, or write a folder by --out."
            ) from error


def _card(
    run: Run, flow: Flow, dtype: torch.dtype | None, folder: Path, console: Console
) -> dict[str, Any]:
    """What the card says, as far as the run knows it."""
    card: dict[str, Any] = {"dtype": dtype}
    if run.config_file.is_file():
        try:
            settings = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
            card["command"] = command_of(settings, type(flow))
            source = str(settings["data"]["source"])
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"{run.config_file} is damaged: it is no run's settings.") from error
        if source.startswith("hf://"):
            card["dataset"] = "/".join(source.removeprefix("hf://").split("/")[:2])
    scores, card["notes"] = _scores(run, flow, dtype, console)
    unit = "images" if flow.takes_pixels else "rows"
    card["results"] = {split: f"{score}, {score.rows:,} {unit}" for split, score in scores.items()}
    image = folder / "samples.png"
    caption = _draw(run, flow, image)
    return card | ({"image": image, "caption": caption} if caption else {})


def _scores(
    run: Run, flow: Flow, dtype: torch.dtype | None, console: Console
) -> tuple[dict[str, Score], list[str]]:
    """Scores of the splits, and sentences about them."""
    scores, seconds = read_results(run.folder)
    if not scores:
        return {}, []
    notes = ["In the units of the data; ± is the standard error over rows."]
    if is_exact(flow):
        notes = ["The bits/dim are exact, and no bounds; ± is the standard error over images."]
    elif flow.takes_pixels:
        notes = [
            "Each image is scored by one noisy copy, so that these are upper bounds of the "
            "bits/dim of the images themselves; ± is the standard error over images."
        ]
        if flow.dequantizer is not None and not flow.dequantizer.bounds:
            notes = [
                "These are bits/dim of images with Gaussian noise, and comparable with nothing "
                "else; ± is the standard error over images."
            ]
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
    """Draw samples, always with the same noise, and return a caption; None if none can be drawn."""
    category, columns, count = flow.context.category, None, IMAGES
    if not flow.takes_pixels:
        count = ROWS
        context = _contexts(run, count)
    elif category is not None and 1 < len(category.values) <= MOST_CLASSES:
        columns = len(category.values)
        count = IMAGES // 8 * columns
        context = torch.eye(columns).repeat(IMAGES // 8, 1)
    else:
        context = _contexts(run, count)
    alone = flow.dims < 2 and not isinstance(flow, MixedFlow)
    if alone or (flow.context_features and context is None):
        return None
    context = None if context is None else context.to(flow.device)
    with torch.no_grad():
        x = flow.sample(count, context, generator=Generator().manual_seed(0))
    if not flow.takes_pixels:
        if isinstance(flow, MixedFlow):
            figures.save(figures.marginals(flow.schema, None, x), path)
        else:
            figures.save(figures.corner(None, x, run.columns), path)
        return f"{count:,} rows that the model drew"
    figures.save_images(x, path, columns=columns)
    return f"{count} images that the model drew{', a class in each column' if columns else ''}"


def _contexts(run: Run, count: int) -> Tensor | None:
    """Contexts of the test split, over and over; None where it is not at hand."""
    if not run.context_columns or not run.config_file.is_file():
        return None
    try:
        known = run.data().test
    except ValueError:
        return None
    return known.take(torch.arange(count) % len(known))[1] if len(known) else None


# The command ------------------------------------------------------------------------------------


def command_of(settings: Settings, model: type[Flow]) -> str:
    """`diffeo train` with the fewest words that repeat these settings, a preset if that is less.

    Nothing in it tells where files are: of a path only the last part is left.

    Args:
        settings: those of a run's `config.yaml`.
        model: the class that it names.
    """
    commands = [
        _words(settings, model, {}, ["--model", public_name(model).removeprefix("diffeo.")])
    ]
    for name in presets.names():
        preset = yaml.safe_load(presets.find(name).read_text(encoding="utf-8"))
        if preset.get("model", {}).get("class_path") == settings["model"]["class_path"]:
            commands.append(_words(settings, model, preset, ["--preset", name]))
    return shlex.join(["diffeo", "train", *min(commands, key=len)])


def _words(
    settings: Settings, model: type[Flow], preset: dict[str, Any], start: list[str]
) -> list[str]:
    """What the settings say that neither the preset nor the defaults do."""
    parameters = inspect.signature(model).parameters.values()
    usual = {p.name: p.default for p in parameters if p.default is not p.empty}
    usual = {name: as_setting(value) for name, value in (usual | model.defaults).items()}
    usual |= preset.get("model", {}).get("init_args", {})
    words = [*start, *_differing("model", settings["model"].get("init_args", {}), usual)]
    data = dict(settings["data"])
    data.pop("cache", None)  # which is a matter of the machine
    words += ["--data", public_source(data.pop("source"))]
    words += _differing("data", data, _defaults(DataOptions) | preset.get("data", {}))
    others = {name: settings[name] for name in ("seed", "precision")}
    words += _differing("", others, {"seed": 0, "precision": "auto"} | preset)
    for section, kind in (("optimizer", OptimizerOptions), ("trainer", TrainerOptions)):
        words += _differing(section, settings[section], _defaults(kind) | preset.get(section, {}))
    return words


def _defaults(options: Any) -> dict[str, Any]:
    """The defaults of a dataclass of options."""
    return {option.name: option.default for option in dataclasses.fields(options)}


def _differing(section: str, chosen: Settings, usual: Settings) -> list[str]:
    words = []
    for name, value in chosen.items():
        if name not in usual or _plain(usual[name]) != _plain(value):
            option = f"--{section}.{name}" if section else f"--{name}"
            if isinstance(value, dict):  # a class and its arguments
                path = value["class_path"]
                words += [option, path.rpartition(".")[2] if path.startswith("diffeo.") else path]
                words += _differing(option.removeprefix("--"), value.get("init_args", {}), {})
            else:
                words += [option, _spelled(value)]
    return words


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _spelled(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return public_source(value) if re.match(r"[~\\/]|[A-Za-z]:[\\/]", value) else value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        joined = ",".join(value)
        if joined.count(",") == len(value) - 1 and not joined.startswith("["):
            return joined
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def public_source(source: str) -> str:
    """The name of a source of data, without the folder that it is in."""
    if source in (*GENERATORS, *BUNDLED, *IMAGE_SETS) or source.startswith("hf://"):
        return source
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1] or "DATA"
