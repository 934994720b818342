"""Where tables come from: generators, bundled tables, files and the Hugging Face hub."""

from __future__ import annotations

import dataclasses

from diffeo.data.arrow import open_hub
from diffeo.data.datasets import check_options
from diffeo.data.files import check_file, plain_path
from diffeo.data.images.dataset import IMAGE_SETS
from diffeo.data.tables.files import ENDINGS, from_arrow, read_file
from diffeo.data.tables.options import TableOptions
from diffeo.data.tables.source import Source
from diffeo.data.tables.synthetic import DEFAULT_ROWS, GENERATORS, generate

BUNDLED = ("iris", "wine", "breast_cancer", "diabetes")


def open_table(options: TableOptions) -> Source:
    """Opens a generator, a bundled table, a file or a dataset of the Hugging Face hub.

    Raises:
        ValueError: an unknown name or ending, a missing, empty or damaged file, or a file without
            a usable line of column names.
    """
    name = options.source
    check_options(options)
    if name in GENERATORS:
        return _generated(options)
    if options.noise is not None:
        raise ValueError(f"{name} draws no noise: --data.noise is for {', '.join(GENERATORS)}")
    if name in BUNDLED:
        return _bundled(name)
    if name.startswith("hf://"):
        splits = open_hub(name)
        table = splits["train" if "train" in splits else next(iter(splits))]
        return from_arrow(dataclasses.replace(table, name=name))
    path = plain_path(name)
    if path.is_dir():
        raise ValueError(f"{name} is a folder: give one file, ending in {', '.join(ENDINGS)}")
    known = [*GENERATORS, *BUNDLED]
    # Images are no table, but may be what was meant.
    near = known if name in IMAGE_SETS else [*known, *IMAGE_SETS]
    check_file(name, path, ENDINGS, f"one of {', '.join(known)}", near)
    return read_file(path, options)


def _generated(options: TableOptions) -> Source:
    rows = DEFAULT_ROWS if options.rows is None else options.rows
    points, names, labels = generate(options.source, rows, options.seed, options.noise)
    columns = dict(zip(names, points.T, strict=True))
    more = {} if labels is None else {"label": labels}
    return Source.in_memory(options.source, columns | more, labels=tuple(more), drawn=True)


def _bundled(name: str) -> Source:
    from sklearn import datasets

    # Scikit-learn ships diabetes scaled to a common norm, which hides the units.
    keywords = {"scaled": False} if name == "diabetes" else {}
    table = getattr(datasets, f"load_{name}")(**keywords)
    columns = dict(zip(map(str, table.feature_names), table.data.T, strict=True))
    return Source.in_memory(name, columns | {"target": table.target}, labels=("target",))
