"""Datasets of the Hugging Face hub."""

from __future__ import annotations

from typing import Any


def hub_splits(name: str) -> dict[str, Any]:
    """The splits of `hf://owner/name` or `hf://owner/name/config`, by name.

    Raises:
        ValueError: if the datasets package is missing, or the hub has no such dataset.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            'reading hf:// needs the datasets package: pip install "diffeo[hub]"'
        ) from error
    parts = name.removeprefix("hf://").strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(
            f"{name} is not a dataset: write hf://owner/name or hf://owner/name/config"
        )
    try:
        splits: dict[str, Any] = datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be loaded from the hub: {reason}") from error
    return splits
