"""A model as files that score and sample without diffeo."""

from __future__ import annotations

from jsonargparse import Namespace
from rich.console import Console

from diffeo.cli.common import open_run
from diffeo.export import export as export_flow


def export(options: Namespace, console: Console) -> None:
    """Write the files, and say of each what it takes and gives."""
    run = open_run(options)
    for file in export_flow(run.flow, options.out, options.to, options.what):
        line = f"{file.path}: {file.takes} -> {file.gives}; within {file.error:.1g} {file.unit}."
        console.print(line, highlight=False, soft_wrap=True, markup=False)
