"""The model card: the README of a shared model, for people and for the hub."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from diffeo.context import Category
from diffeo.utils.config import public_name
from diffeo.utils.files import atomic_write

Flow: TypeAlias = Any  # a `diffeo.flow.Flow`, which is above this module
CARD = "README.md"
TAGS = ("normalizing-flow", "density-estimation")
LISTED = 40  # names of columns or classes; of more, only so many


@dataclass(frozen=True)
class Card:
    """What a model card contains besides what follows from the model.

    All texts are escaped, since names of columns and data may hold anything.

    Args:
        name: the name to load the model by, `owner/name`.
        results: the score of each split.
        notes: more sentences about them.
        command: the command that trained it.
        image: a file with samples, which is copied into the folder of the card.
        caption: what the image shows.
        license: an identifier of the hub's, such as "apache-2.0"; if there is none, the card
            explains how to add one.
        dataset: the name of the data on the hub, `owner/name`.
        dtype: the dtype in which the kernels of the networks are stored; None for the model's own.
    """

    name: str = "OWNER/NAME"
    results: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str | None = None
    image: Path | None = None
    caption: str = "Samples"
    license: str | None = None
    dataset: str | None = None
    dtype: torch.dtype | None = None

    @property
    def image_name(self) -> str:
        """The name of the image in the folder of the card."""
        return f"samples{self.image.suffix}" if self.image is not None else ""

    def write(self, folder: Path, flow: Flow) -> None:
        """Write `README.md` and the image into a folder."""
        if self.image is not None:
            with atomic_write(folder / self.image_name) as partial:
                shutil.copyfile(self.image, partial)
        with atomic_write(folder / CARD) as partial:
            partial.write_text(self.text(flow), encoding="utf-8")

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
        if self.image is not None:
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
        from huggingface_hub import ModelCardData  # which only those who share need

        data = ModelCardData(
            library_name="diffeo",
            license=self.license,
            tags=[*TAGS, type(flow).__name__.lower()],
            pipeline_tag="unconditional-image-generation" if flow.takes_pixels else None,
            datasets=[self.dataset] if self.dataset else None,
        )
        return data.to_yaml().strip()

    def _weights(self, flow: Flow) -> str:
        # Of a model that is not learned by gradients, all that is saved.
        weights = [*flow.parameters()] or [*flow.state_dict().values()]
        count = f"{sum(weight.numel() for weight in weights):,} weights"
        if self.dtype is not None:
            dtype = str(self.dtype).removeprefix("torch.")
            count += f", the kernels of its networks stored as {dtype}; it computes as any other"
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
            sizes = ", ".join(str(size or 10) for size in flow.context.event_shape)
            double = flow._reference().dtype == torch.float64
            dtype = ", dtype=torch.float64" if double else ""
            lines.append(f"    context = torch.zeros(16, {sizes}{dtype})")
            lines += [
                f"    context[:, {columns.start}] = 1  # {_one_line(variable.columns[0])}"
                for variable, columns in flow.context.parts()
                if isinstance(variable, Category)
            ]
            given = ", context"
        lines += [
            f"    x = flow.sample(16{given})",
            f"    z = flow.encode(x{given})",
            f"    log_prob = flow.log_prob(x{given})  # nats",
        ]
        blocks = [_fenced("console", "\n".join(commands)), _fenced("python", "\n".join(lines))]
        return blocks if flow.embedding is None else blocks[1:]  # whose context no command takes


def _data(flow: Flow) -> str:
    return str(flow.metadata.get("data") or "unnamed data")


def _facts(flow: Flow) -> list[str]:
    """The name and shape of the data, their columns and context."""
    lines = [f"Data: {_code(_data(flow))}."]
    if flow.takes_pixels:
        channels, height, width = flow.shape
        plural = "s" if channels > 1 else ""
        lines.append(f"Events: images of {width} x {height} pixels in {channels} channel{plural}.")
    else:
        columns = flow.metadata.get("columns") or [f"x{i}" for i in range(flow.dims)]
        lines.append(f"Events: rows of {len(columns)} columns, {_listed(columns)}.")
    if flow.embedding is not None:
        lines.append(f"Given: a context of shape {flow.context.shape_text('batch')}.")
    for variable in flow.context.variables:
        if isinstance(variable, Category):
            lines.append(f"Given: {_code(variable.name)}, one of {_listed(variable.values)}.")
        else:
            lines.append(f"Given: the number {_code(variable.name)}.")
    return lines


def _example(flow: Flow) -> str:
    """An argument of `--context`: the first value of each category, and the mean of a number."""
    encoder = flow.context_encoder
    means = getattr(encoder, "mean", torch.zeros(flow.context_features))
    return ",".join(
        variable.columns[0]
        if isinstance(variable, Category)
        else f"{variable.name}={float(means[columns.start]):.6g}"
        for variable, columns in flow.context.parts()
    )


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
