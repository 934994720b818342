"""Configurations of models that diffeo 0.1.0 saved, in the form of today."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from diffeo.context import Category, ContextSpec, Number, Variable
from diffeo.utils.config import to_config

BASES = {"normal": "diffeo.Normal", "logistic": "diffeo.Logistic"}
OURS = {"diffeo.NICE", "diffeo.RealNVP", "diffeo.TableFlow", "diffeo.Glow", "diffeo.ImageRealNVP"}


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model that 0.1.0 wrote; of one that is none of diffeo's, as it is.

    0.1.0 had `base` and `coupling` as texts, `bound` for the affine map, `context_features` and
    `num_classes`, and the names of context columns in the metadata.
    """
    if config["class"] not in OURS:
        return dict(config)
    arguments, metadata = dict(config["arguments"]), dict(config.get("metadata", {}))
    width, classes = arguments.pop("context_features", 0), arguments.pop("num_classes", None)
    names = metadata.pop("context_columns", None) or []
    spec = context_of(names) if names else ContextSpec.of(width)
    if classes and not names:
        labels = metadata.get("labels") or []
        spec = ContextSpec.classes(labels if len(labels) == classes else classes)
    arguments["context"] = to_config(spec)
    if "base" in arguments:
        arguments["base"] = {"class": BASES[arguments["base"]], "arguments": {}}
    bound = {"bound": arguments.pop("bound")} if "bound" in arguments else {}
    if arguments.pop("coupling", "affine") == "additive":
        arguments["univariate"] = {"class": "diffeo.Additive", "arguments": {}}
    elif bound:
        arguments["univariate"] = {"class": "diffeo.Affine", "arguments": bound}
    return {**config, "arguments": arguments, "metadata": metadata}


def context_of(columns: list[str]) -> ContextSpec:
    """The context of columns as 0.1.0 named them: NAME, or NAME=VALUE for each value of a text.

    A single column NAME=VALUE is a number of that name: 0.1.0 had it of a table's column, and of
    one value that was chosen from a text.
    """
    variables: list[Variable] = []
    for name, group in groupby(columns, _category):
        found = list(group)
        if name and len(found) > 1:
            values = (column.removeprefix(f"{name}=") for column in found)
            variables.append(Category(name, tuple(values)))
        else:
            variables += [Number(column) for column in found]
    return ContextSpec(tuple(variables))


def _category(column: str) -> str:
    return column.partition("=")[0] if "=" in column else ""
