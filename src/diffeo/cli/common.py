"""What several commands do: open the run, choose a reference, check the name of an output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.table import Table

from diffeo.evaluation.likelihood import Batch
from diffeo.evaluation.scores import Kind, Reference, needs_reference
from diffeo.run import Run
from diffeo.utils.console import PlainConsole
from diffeo.utils.machine import Device, Precision, find_device, networks_dtype


def open_run(
    run: str, *, precision: Precision = "auto", device: Device = "auto", trust: bool = False
) -> Run:
    """The run, with its model on a device and in a precision.

    Args:
        run: A run folder or a model folder. If there is none of that name: a model that ships with
            diffeo ({zoo}), or owner/name on the Hugging Face hub.
        precision: The precision of the networks, float32 or bf16 (bfloat16); the rest of the flow
            stays in float32. auto is float32: bf16 was measured to change the bits/dim of trained
            models by up to 0.03.
        device: The device that computes; auto is a GPU if there is one.
        trust: Import the model's class even if it is not one of diffeo's: this runs its code.
    """
    opened = Run(run, trust=trust)
    opened.flow.to(find_device(device)).set_precision(networks_dtype(precision))
    return opened


def report(what: str | Table) -> None:
    """Print a sentence or a table."""
    PlainConsole().print(what, highlight=False, soft_wrap=isinstance(what, str))


def choose_reference(
    run: Run, kind: Kind, source: str | None, batches: Callable[[str], Iterable[Batch]]
) -> Reference | None:
    """What scores of a kind are compared with, if anything: `--reference`, or the model's own."""
    needed = needs_reference(run.flow, kind)
    if source is None:
        return Reference.of(run.flow) if needed else None
    if not needed:
        raise ValueError(f"{kind} is not compared with other data: leave --reference out.")
    return Reference.measure(run.flow, batches(source))


def check_figure(name: str) -> Path:
    """The file of a figure; ValueError for a name with another ending."""
    out = Path(name)
    if out.suffix not in {".png", ".pdf", ".svg"}:
        raise ValueError(f"{out} cannot hold a figure: end its name in .png, .pdf or .svg.")
    return out


def is_folder(name: str) -> bool:
    """Whether an output is a folder: it ends in a slash, has no ending, or is one already."""
    return name.endswith("/") or not Path(name).suffix or Path(name).is_dir()


def check_folder(name: str) -> Path:
    """The folder of an output in parts; ValueError for the name of a file."""
    if not is_folder(name):
        raise ValueError(f"{name} is a file, and parts need a folder: name one with --out.")
    return Path(name)
