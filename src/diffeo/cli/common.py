"""What several commands share: options, the run, its pictures, the file to draw into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from torch import Tensor

from diffeo.data import Images, ImageSplit
from diffeo.evaluation.likelihood import Batch
from diffeo.evaluation.scores import Reference, needs_reference
from diffeo.pretrained import zoo
from diffeo.run import Run
from diffeo.utils.precision import Precision, networks_dtype


def run_options(parser: ArgumentParser) -> None:
    """The run, first of all, and whether its class is trusted."""
    parser.add_argument(
        "run",
        type=str,
        help="A run folder or a model folder; where there is none of that name, a model that ships "
        f"with diffeo ({', '.join(zoo.names())}), or owner/name on the Hugging Face hub.",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="Import the model's class even if it is none of diffeo's: it runs its code.",
    )


def precision_option(parser: ArgumentParser, auto: str) -> None:
    """In which precision the networks compute."""
    parser.add_argument(
        "--precision",
        type=Precision,
        default="auto",
        help="Let the networks compute in float32, or in bf16 (bfloat16); the flow around them "
        f"stays in float32. auto is {auto}.",
    )


def open_run(options: Namespace) -> Run:
    """The run that the command names, its networks in the precision that it asks for, if any."""
    run = Run(options.run, trust=options.trust)
    run.flow.set_precision(networks_dtype(options.get("precision", "float32")))
    return run


def open_images(options: Namespace) -> Run:
    """The run, of pictures.

    Raises:
        ValueError: if it is one of a table.
    """
    run = open_run(options)
    if not run.flow.takes_pixels:
        raise ValueError(f"{options.run} is a model of a table: only pictures are drawn like this.")
    return run


def chosen_images(options: Namespace, run: Run, split: str = "test") -> ImageSplit:
    """Those of `--data`, or else of a split of the run's own data."""
    return _chosen(options, run, split)[0]


def chosen_attributes(options: Namespace, run: Run) -> tuple[ImageSplit, list[str]]:
    """The pictures of `--data`, or else of the training, with the names of their attributes.

    Raises:
        ValueError: if they have none.
    """
    split, names = _chosen(options, run, "train")
    if split.attributes is None or not names:
        raise ValueError(
            f"{options.data or f'the data of {options.run}'} has no attributes: name pictures with "
            "labels or attributes by --data, or directions by `diffeo edit --directions`."
        )
    return split, names


def _chosen(options: Namespace, run: Run, split: str) -> tuple[ImageSplit, list[str]]:
    if options.data is not None:
        gallery = run.gallery(options.data)
        return gallery.images, gallery.attribute_names
    data = run.data()
    assert isinstance(data, Images)
    return data.split(split), data.attribute_names


def first_images(split: ImageSplit, count: int) -> tuple[Tensor, Tensor | None]:
    """The first `count` pictures, or all if they are fewer, with their context.

    Raises:
        ValueError: if count is below 1.
    """
    if count < 1:
        raise ValueError(f"-n is {count}: ask for at least one picture.")
    return split.take(torch.arange(min(count, len(split))))


def reference(
    options: Namespace, run: Run, batches: Callable[[str], Iterable[Batch]]
) -> Reference | None:
    """What the score of `--kind` is seen against: `--reference`, or what the model keeps.

    Raises:
        ValueError: if there is neither and it is needed, or if it is not needed.
    """
    needed = needs_reference(run.flow, options.kind)
    if options.reference is None:
        return Reference.of(run.flow) if needed else None
    if not needed:
        raise ValueError(f"{options.kind} is seen against no other data: leave --reference out.")
    return Reference.measure(run.flow, batches(options.reference))


def say_unlabelled(source: str, run: Run, console: Console | None) -> None:
    """Say that events are scored under all classes."""
    if console is not None:
        console.print(run.unlabelled(source), highlight=False, soft_wrap=True)


def figure_file(name: str) -> Path:
    """The file of a figure.

    Raises:
        ValueError: if its name ends otherwise.
    """
    out = Path(name)
    if out.suffix not in {".png", ".pdf", ".svg"}:
        raise ValueError(f"{out} is no picture: its name has to end in .png, .pdf or .svg.")
    return out
