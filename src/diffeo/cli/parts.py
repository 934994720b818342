"""Scoring and sampling by parts, into a folder: here, or on Ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from diffeo.cli.common import reference
from diffeo.cli.contexts import Contexts
from diffeo.data import Batches
from diffeo.evaluation.likelihood import Batch
from diffeo.run import Run
from diffeo.scale import Cluster, sample_parts, score_parts


def scores_wanted(options: Namespace) -> bool:
    """Whether scores go into a folder."""
    return _on_ray(options) or _is_folder(options.out)


def samples_wanted(options: Namespace, run: Run) -> bool:
    """Whether samples go into a folder of parts; pictures go into one of PNGs by themselves."""
    if _on_ray(options) or options.part_rows is not None:
        return True
    return not run.flow.takes_pixels and _is_folder(options.out or "samples.csv")


def score(options: Namespace, run: Run, console: Console) -> None:
    """Write a file of scores for each file of `--data`."""
    out = _folder(options.out)

    def batches(source: str) -> Iterable[Batch]:
        if run.flow.takes_pixels:
            return Batches(run.gallery(source, unlabelled=True).images, run.flow.chunk)
        return run.rows(source, unlabelled=True, delimiter=options.delimiter)

    usual = reference(options, run, batches)
    outcome = score_parts(
        run,
        options.data,
        out,
        kind=options.kind,
        reference=usual,
        delimiter=options.delimiter,
        cluster=_cluster(options),
        console=console,
    )
    console.print(outcome.told(out), highlight=False, soft_wrap=True)


def sample(options: Namespace, run: Run, console: Console) -> None:
    """Write so many rows or pictures."""
    if options.num is None:
        raise ValueError("a folder of parts has as many rows as you say: give --num.")
    if options.temperatures is not None:
        raise ValueError("--temperatures draws one sheet: leave it out, or --ray and --part-rows.")
    out = _folder(options.out or "samples")
    outcome = sample_parts(
        run,
        options.num,
        out,
        contexts=Contexts.said(options, run),
        temperature=options.temperature,
        seed=options.seed,
        rows=options.part_rows,
        cluster=_cluster(options),
        console=console,
    )
    console.print(outcome.told(out), highlight=False, soft_wrap=True)


def _on_ray(options: Namespace) -> bool:
    return options.ray or options.ray_address is not None


def _cluster(options: Namespace) -> Cluster | None:
    return Cluster(options.ray_address) if _on_ray(options) else None


def _is_folder(name: str) -> bool:
    return name.endswith("/") or not Path(name).suffix or Path(name).is_dir()


def _folder(name: str) -> Path:
    """The folder of that name.

    Raises:
        ValueError: if it is the name of a file.
    """
    if not _is_folder(name):
        raise ValueError(f"{name} is a file, and parts go into a folder: name one by --out.")
    return Path(name)
