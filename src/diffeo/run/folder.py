"""A run folder, opened to use its model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.data import (
    Data,
    DataOptions,
    Gallery,
    ImageOptions,
    TableOptions,
    load_data,
    load_gallery,
    load_mixed,
    load_table,
    size_of,
    stream,
    stream_mixed,
)
from diffeo.data.images.dataset import Side
from diffeo.data.tables.opening import FORM, open_table
from diffeo.evaluation.likelihood import Score
from diffeo.flow import Flow
from diffeo.models.guided import check_guidance
from diffeo.models.mixed import MixedFlow
from diffeo.pretrained import zoo
from diffeo.pretrained.storage import is_shipped
from diffeo.run.showing import as_html, read_results
from diffeo.utils.config import find_class, to_config
from diffeo.utils.files import SETTINGS_BYTES, read_text
from diffeo.utils.modules import all_finite
from diffeo.utils.ranges import NonNegative, Seed, Whole, checked, fits
from diffeo.utils.yaml import parse_yaml


class Run:
    """A run folder, opened to use its model.

    Args:
        name: the run folder. For all that needs no training data a bare model folder serves too,
            and, where there is no folder of that name, a model that ships with diffeo or one on
            the hub.
        trust: whether a class that is none of diffeo's may be imported (see
            `Flow.from_pretrained`).

    Raises:
        ValueError: if it holds no model.
    """

    def __init__(self, name: str | os.PathLike[str], *, trust: bool = False) -> None:
        self.folder: Path = Path(name)
        own, inner = self.folder / "config.yaml", self.folder / "model"
        if own.is_file() and not inner.is_dir():
            raise ValueError(f"{name} holds no model yet: go on with --resume {name}.")
        self.flow: Flow = Flow.from_pretrained(name, trust=trust)
        if self.flow.embedding is not None:
            shape = self.flow.context.shape_text("batch")
            raise ValueError(
                f"{name} is conditional on contexts of shape {shape}, which no command takes: use "
                "it in Python, by diffeo.load."
            )
        dims, metadata = self.flow.dims, self.flow.metadata
        self.columns: list[str] = metadata.get("columns") or [f"x{i}" for i in range(dims)]
        self.context_columns: list[str] = self.flow.context.columns
        size = metadata.get("size")
        self.form: dict[str, Any] = metadata.get("form") or {}  # of the numbers in its CSV files
        self.weights: str | None = metadata.get("weights")
        known = fits(self.form, Mapping[str, str]) and {*self.form} <= {*FORM}
        named = known and fits(self.columns, list[str]) and len(self.columns) == dims
        if not named or not fits(size, Side | None) or not fits(self.weights, str | None):
            raise ValueError(
                f"{name} says of its data what does not fit the model: save it anew from flow, "
                "with metadata of columns and size that do."
            )

    @property
    def config_file(self) -> Path:
        """Where its settings are; those of a model that ships are among its files."""
        folder = zoo.FOLDER / self.folder if is_shipped(self.folder) else self.folder
        return folder / "config.yaml"

    def scores(self) -> dict[str, Score]:
        """The last figures of each split, as `results.json` has them; none of a bare model.

        Raises:
            ValueError: if the file is damaged.
        """
        return read_results(self.folder)[0]

    def _repr_html_(self) -> str:
        """Its figures of merit, its columns and its model, for notebooks."""
        return as_html(self.folder, self.flow, self.columns)

    def data(self) -> Data:
        """What it was trained on, split as then.

        Raises:
            ValueError: if the folder does not say what that was, or it is gone.
        """
        if not self.config_file.is_file():
            raise ValueError(
                f"{self.folder} does not say where its data are: name some by --data, or a run "
                "folder that has a config.yaml."
            )
        load: Any = load_table
        if isinstance(self.flow, MixedFlow):
            flow = self.flow
            load = partial(load_mixed, schema=flow.schema, conditions=flow.conditions)
        return load_data(data_options(self.config_file), load_table=load)

    def rows(
        self, source: str, *, unlabelled: bool = False
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All rows of another table, in batches with their context.

        Args:
            source: where they are.
            unlabelled: see `gallery`.

        Raises:
            ValueError: if it cannot be read or lacks a column (at once), or holds what is no finite
                number (when its batch is reached).
        """
        if isinstance(self.flow, MixedFlow):
            return ((x, context) for x, context, _ in self._mixed(source, weighted=False))
        lacking = unlabelled and self.lacks_class(source)
        context = [] if lacking else self.context_columns
        return stream(TableOptions(source, **self.form), self.columns, context)

    def _mixed(
        self, source: str, *, weighted: bool
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """The rows of another table for a model of a mixed one, their contexts and weights."""
        flow = self.flow
        assert isinstance(flow, MixedFlow)
        options, weights = TableOptions(source, **self.form), self.weights if weighted else None
        conditions = None if self.lacks_class(source) else flow.conditions
        return stream_mixed(options, flow.schema, conditions, weights)

    def weighted_rows(self, source: str) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """As `rows`, with the weights `[rows]` of the column that the model learned by.

        They are None where it has learned without, or the table lacks the column; where the rows
        may come without context, see `gallery`, they may come without weights too.

        Raises:
            ValueError: as `rows`, and if a weight is below 0.
        """
        if isinstance(self.flow, MixedFlow):
            known = self.weights is not None and self.has_weights(source)
            yield from self._mixed(source, weighted=known)
            return
        if self.weights is None or not self.has_weights(source):
            for x, context in self.rows(source, unlabelled=True):
                yield x, context, None
            return
        lacking = self.lacks_class(source)
        names = [*([] if lacking else self.context_columns), self.weights]
        for x, context in stream(TableOptions(source, **self.form), self.columns, names):
            assert context is not None
            weights = context[:, -1]
            if (weights < 0).any():
                raise ValueError(
                    f"{source}: column '{self.weights}' has a weight below 0: correct it, or leave "
                    "the column out."
                )
            yield x, context[:, :-1] if len(names) > 1 else None, weights

    def has_weights(self, source: str) -> bool:
        """Whether a table has the column of weights that the model learned by."""
        found = open_table(TableOptions(source, **self.form))
        return found.named and self.weights in found.columns

    def lacks_class(self, source: str) -> bool:
        """Whether the model is conditional on classes alone, and a table says nothing of them."""
        if self.flow.context.category is None:
            return False
        found = open_table(TableOptions(source, **self.form))
        if isinstance(self.flow, MixedFlow):
            return self.flow.context.category.name not in found.columns
        if found.named:
            return {*self.context_columns}.isdisjoint(found.columns)
        # Columns without names are known by how many they are.
        return len(found.columns) == len(self.columns)

    def unlabelled(self, source: str) -> str:
        """The sentence that says how events of no known class are scored."""
        category = self.flow.context.category
        assert category is not None
        count = len(category.values)
        return f"{source} has no {category.name}: scored under all {count}, equally likely."

    def gallery(
        self, source: str, *, unlabelled: bool = False, cache: str | None = None
    ) -> Gallery:
        """All images of another source, scaled and cropped to the size of the model.

        Args:
            source: where they are.
            unlabelled: whether they may come without context where the model is conditional on
                classes alone, and nothing is said of these.
            cache: the folder for decoded images; by default the usual one.

        Raises:
            ValueError: if they cannot be read, do not fit the model, or lack its context.
        """
        channels, height, width = self.flow.shape
        size, grey = height if height == width else None, channels == 1
        gallery = load_gallery(ImageOptions(source, size=size, grey=grey, cache=cache))
        labelled = not {*self.context_columns}.isdisjoint(gallery.attribute_names)
        if self.flow.context and not labelled and not (unlabelled and self.flow.context.category):
            names = ", ".join(variable.name for variable in self.flow.context.variables)
            raise ValueError(
                f"{source} lacks {names}, which the model is conditional on: name the folders of "
                f"images by their label, or write {names} into their metadata.csv."
            )
        if labelled:
            gallery = gallery.conditional_on(source, self.context_columns)
        pixels = gallery.images.pixels
        if pixels.shape[1] == 1 and channels == 3:  # grey images for a model of colours
            wide = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))
            gallery = replace(gallery, images=replace(gallery.images, pixels=wide))
        shape = gallery.images.pixels.shape[1:]
        if shape != self.flow.shape:
            raise ValueError(
                f"{source} holds images of {size_of(shape)} and the model takes "
                f"{size_of(self.flow.shape)}: give it such ones."
            )
        return gallery

    @checked
    def sample(
        self,
        n: Whole,
        *,
        context: Tensor | None = None,
        temperature: NonNegative = 1.0,
        seed: Seed | None = None,
        guidance: NonNegative = 0.0,
    ) -> Tensor:
        """Draw n events `(n, *shape)`, in parts that bound the memory that it takes.

        Args:
            n: how many.
            context: `(n, context_features)` or one row of it.
            temperature: see `Flow.sample`.
            seed: the same seed draws the same; None for others each time.
            guidance: see `GuidedFlow.sample`.

        Raises:
            ValueError: if they leave the range of the model's dtype, as at a temperature of 1e20,
                or the model cannot be guided.
        """
        return torch.cat(list(self.stream_samples(n, context, temperature, seed, guidance)))

    @checked
    def stream_samples(
        self,
        n: Whole,
        context: Tensor | None,
        temperature: NonNegative,
        seed: Seed | None,
        guidance: NonNegative = 0.0,
    ) -> Iterator[Tensor]:
        """The events of `sample`, part by part."""
        options: dict[str, Any] = {"temperature": temperature}
        if guidance:
            check_guidance(self.flow, guidance)
            options["guidance"] = guidance
        generator = Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        for start in range(0, max(n, 1), self.flow.chunk):
            count = min(self.flow.chunk, n - start)
            rows = context
            if context is not None and len(context) > 1:
                rows = context[start : start + count]
            rows = None if rows is None else rows.to(self.flow.device)
            if rows is not None and isinstance(self.flow, MixedFlow):
                rows = rows.double()
            with torch.no_grad():
                part = self.flow.sample(count, rows, generator=generator, **options)
            part = part.cpu()
            # An empty cell is NaN.
            known = part.nan_to_num(nan=0.0) if isinstance(self.flow, MixedFlow) else part
            if part.is_floating_point() and not all_finite([known]):
                dtype = str(part.dtype).removeprefix("torch.")
                raise ValueError(
                    f"samples at temperature {temperature:g} leave the range of {dtype}: take one "
                    "nearer to 1."
                )
            yield part


def data_options(path: Path) -> DataOptions:
    """The section 'data' of a `config.yaml`.

    Raises:
        ValueError: if it is damaged.
    """
    text = read_text(path, SETTINGS_BYTES)
    try:
        section = parse_yaml(text)["data"]
        section.pop("delimiter", None)  # of 0.1.0
        options = DataOptions(**section | {"splits": tuple(section["splits"])})
        for name, kind in get_type_hints(DataOptions, include_extras=True).items():
            if not fits(getattr(options, name), kind):
                raise ValueError(f"{name} is not of type {kind}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its section 'data' cannot be read.") from error
    return options


def as_setting(value: Any) -> Any:
    """An argument of a model as settings have it: a class by its full name, with its arguments."""
    return _setting(to_config(value))


def _setting(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_setting(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    cls = find_class(tree.get("class") or tree["partial"])
    arguments = {key: _setting(value) for key, value in tree["arguments"].items()}
    # In full, since other packages that are imported may have a class of that name.
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}
