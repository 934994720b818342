"""The model card: what a shared model says of itself, to people and to the hub."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import ModelCardData

from diffeo.pretrained.storage import public_name

if TYPE_CHECKING:
    from diffeo.flow import Flow

LISTED = 40  # names of columns or classes; of more, only so many


@dataclass(frozen=True)
class Card:
    """What a model card says beside what the model itself knows.

    Whatever is said is put in such a form that it cannot end the place where it stands: names of
    columns and data come from anywhere.

    Args:
        name: what the model is loaded by, `owner/name`.
        results: of each split, its score.
        notes: more sentences about them.
        command: what trained it.
        picture: a file with samples, which is copied beside the card.
        caption: what the picture shows.
        license: an identifier of the hub's, such as "apache-2.0"; the card says how to add one if
            there is none.
        dataset: the name of the data on the hub, `owner/name`.
        dtype: what the kernels of the networks are kept as; None for the model's own type.
    """

    name: str = "OWNER/NAME"
    results: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str | None = None
    picture: Path | None = None
    caption: str = "Samples"
    license: str | None = None
    dataset: str | None = None
    dtype: torch.dtype | None = None

    @property
    def image_name(self) -> str:
        """What the picture is called beside the card."""
        return f"samples{self.picture.suffix}" if self.picture is not None else ""

    def text(self, flow: Flow) -> str:
        """The whole card of a model, in Markdown below a header in YAML."""
        sections = [
            f"---\n{self._header(flow)}\n---",
            f"# {_plain(f'{type(flow).__name__}, trained on {_data(flow)}')}",
            "A normalizing flow, made with diffeo: an exact log-density of each event, exact "
            "encoding into noise and decoding, and samples.",
            "## What it models",
            "\n".join(f"- {line}" for line in [*_facts(flow), self._weights(flow)]),
        ]
        if self.results:
            lines = [f"- {_plain(split)}: {_plain(text)}" for split, text in self.results.items()]
            sections += ["## How well", "\n".join(lines), *map(_plain, self.notes)]
        if self.picture is not None:
            sections += [f"![{_plain(self.caption)}]({self.image_name})", _plain(self.caption)]
        if self.command is not None:
            sections += ["## How it was made", _fenced("console", self.command)]
        sections += ["## How to use it", *self._usage(flow)]
        if self.license is None:
            sections += [
                "## Licence",
                "None is stated yet. Its owner adds one as a line `license: NAME` to the head of "
                "this file.",
            ]
        return "\n\n".join(sections) + "\n"

    def _header(self, flow: Flow) -> str:
        known = flow._hub_mixin_info.model_card_data
        data = ModelCardData(
            library_name=known.library_name,
            license=self.license,
            tags=[*(known.tags or []), type(flow).__name__.lower()],
            pipeline_tag="unconditional-image-generation" if flow.takes_pixels else None,
            datasets=[self.dataset] if self.dataset else None,
        )
        return data.to_yaml().strip()

    def _weights(self, flow: Flow) -> str:
        count = f"{sum(weight.numel() for weight in flow.parameters()):,} weights"
        if self.dtype is not None:
            kept = str(self.dtype).removeprefix("torch.")
            count += f", the kernels of its networks kept as {kept}; it computes as any other"
        return f"Model: {_code(type(flow).__name__)}, {count}. Its arguments are in `config.json`."

    def _usage(self, flow: Flow) -> list[str]:
        ours = public_name(type(flow)).startswith("diffeo.")
        name = shlex.quote(self.name) + ("" if ours else " --trust")
        context = f" --context {shlex.quote(_example(flow))}" if flow.context_features else ""
        out = "grid.png" if flow.takes_pixels else "samples.csv"
        commands = [
            f"diffeo sample {name}{context} --out {out}",
            f"diffeo score {name} --data {'FOLDER' if flow.takes_pixels else 'ROWS.csv'}",
        ]
        trust = "" if ours else ", trust=True"
        lines = ["import torch", "import diffeo", ""]
        lines += [f"flow = diffeo.load({json.dumps(self.name)}{trust})", "with torch.no_grad():"]
        given = ""
        if flow.context_features:
            lines.append(f"    context = torch.zeros(16, {flow.context_features})")
            columns = flow.metadata.get("context_columns") or []
            # Of a class the first, of a number 0.
            first = [i for i, column in enumerate(columns) if column in _example(flow).split(",")]
            lines += [f"    context[:, {i}] = 1  # {_one_line(columns[i])}" for i in first]
            given = ", context"
        lines += [
            f"    x = flow.sample(16{given})",
            f"    z = flow.encode(x{given})",
            f"    log_prob = flow.log_prob(x{given})  # nats",
        ]
        return [_fenced("console", "\n".join(commands)), _fenced("python", "\n".join(lines))]


def _data(flow: Flow) -> str:
    return str(flow.metadata.get("data") or "data of no name")


def _facts(flow: Flow) -> list[str]:
    """What the model says of its data: their name and shape, columns and context."""
    lines = [f"Data: {_code(_data(flow))}."]
    if flow.takes_pixels:
        channels, height, width = flow.shape
        plural = "s" if channels > 1 else ""
        lines.append(
            f"Events: pictures of {width} x {height} pixels in {channels} channel{plural}."
        )
    else:
        columns = flow.metadata.get("columns") or [f"x{i}" for i in range(flow.dims)]
        lines.append(f"Events: rows of {len(columns)} columns, {_listed(columns)}.")
    lines += [f"Given: {text}." for text in _given(flow)]
    return lines


def _given(flow: Flow) -> list[str]:
    """What the density is conditional on: each class with its names, and each number."""
    if not flow.context_features:
        return []
    names = flow.metadata.get("context_columns") or []
    if not names:
        return [f"{flow.context_features} numbers for each event"]
    classes: dict[str, list[str]] = {}
    for column in names:
        what, equals, which = column.partition("=")
        classes.setdefault(what, []).extend([which] * bool(equals))
    return [
        f"{_code(what)}, one of {_listed(which)}" if which else f"the number {_code(what)}"
        for what, which in classes.items()
    ]


def _example(flow: Flow) -> str:
    """What `--context` may be: a class where there are some, and a VALUE for each number."""
    said: dict[str, str] = {}
    for column in flow.metadata.get("context_columns") or ["NAME"]:
        what, equals, which = column.partition("=")
        said.setdefault(what, which if equals else "VALUE")
    return ",".join(f"{what}={which}" for what, which in said.items())


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(_code(str(name)) for name in names[:LISTED])
    return listed + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")


def _one_line(text: str) -> str:
    """Printable, and without line breaks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _code(text: str) -> str:
    """A code span that holds the text, whatever backticks are in it."""
    text = _one_line(text)
    ticks = "`" * (_longest_run(text) + 1)
    # A space keeps ticks of the text from those around it, and is not shown.
    gap = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{ticks}{gap}{text or '(empty)'}{gap}{ticks}"


def _plain(text: str) -> str:
    """Text whose characters mean nothing to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", _one_line(text))


def _fenced(language: str, text: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
