"""The figures of merit of a run folder, and how a notebook shows a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffeo.data import SPLITS
from diffeo.evaluation.likelihood import Score
from diffeo.flow import Flow
from diffeo.utils import html


def read_results(folder: Path) -> tuple[dict[str, Score], float | None]:
    """The score of each split, test first, and the seconds of training, if they are known.

    Raises:
        ValueError: if `results.json` is damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        return {}, None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        known = [name for name in reversed(SPLITS) if name in results]
        scores = {name: Score.from_json(results[name]) for name in known}
        return scores, results.get("training", {}).get("seconds")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: make it anew by training.") from error


def as_html(folder: Path, flow: Flow, columns: Sequence[str]) -> str:
    """A run with its scores, columns, context and model."""
    facts = [type(flow).__name__, html.weights(flow) or "no weights"]
    parts = [html.heading(folder, facts)]
    try:
        scores, seconds = read_results(folder)
        rows = [(name, f"{score.rows:,}", score) for name, score in scores.items()]
        parts += [html.table(("split", "rows", "score"), rows)] if rows else []
        parts += [html.line(f"trained in {seconds:,.1f} s")] if seconds is not None else []
    except ValueError as error:
        parts.append(html.line(error))
    if flow.takes_pixels:
        parts.append(html.line(f"images of {html.shape(flow.shape)}"))
    else:
        parts.append(html.folded(f"{len(columns):,} columns", "".join(map(html.line, columns))))
    if given := [variable.name for variable in flow.context.variables]:
        parts.append(html.line(f"given {', '.join(given)}"))
    return html.page(*parts, html.folded("model", html.tree(flow)))
