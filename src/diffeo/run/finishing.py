"""What follows training: scores of the splits, a reference for other scores, and figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from rich.console import Console

from diffeo.data import SPLITS, Data
from diffeo.evaluation.likelihood import evaluate
from diffeo.evaluation.scores import Reference
from diffeo.run.drawing import draw_run
from diffeo.run.folder import Run
from diffeo.utils.files import atomic_write, dump_json


def finish(
    folder: Path,
    data: Data,
    seconds: float,
    device: torch.device,
    temperature: float,
    console: Console,
) -> None:
    """Evaluate the best model, record usual scores in it, draw it, and print where all is."""
    run = Run(folder)
    flow = run.flow.to(device)
    scores = {name: evaluate(flow, data, name) for name in SPLITS}
    Reference.learn(flow, data).attach(flow)
    flow.cpu().save_pretrained(folder / "model")
    results = {name: dataclasses.asdict(score) for name, score in scores.items()}
    results["training"] = {"seconds": round(seconds, 2)}
    with atomic_write(folder / "results.json") as partial:
        partial.write_text(dump_json(results), encoding="utf-8")
    figure = draw_run(run, data, temperature)
    console.print(
        f"Trained in {seconds:.1f} s. Test {scores['test']}.\n"
        f"Run folder {folder}, figure {figure}.",
        highlight=False,
        soft_wrap=True,
    )
