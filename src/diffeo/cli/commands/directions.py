"""`diffeo directions`."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from diffeo.cli.images import directions_of
from diffeo.latent import DirectionKind
from diffeo.run import Run


def main(
    run: Run,
    *,
    data: str | None = None,
    kind: DirectionKind = "mean",
    out: str = "directions.safetensors",
) -> Iterator[str | Table]:
    """Find the direction of each attribute in latent space.

    Args:
        data: The images; by default the training split.
        kind: mean is the mean of images with the attribute minus that of the others; partial fits
            all attributes at once, so that correlated ones do not change too; discriminant is
            Fisher's.
        out: A .safetensors file.
    """
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"{out} must end in .safetensors.")
    found = directions_of(run, data, kind)
    yield from found.notes
    found.save(out)
    table = Table("attribute", "with", "without", "length of direction")
    for column in table.columns[1:]:
        column.justify = "right"
    lengths = found.vectors.norm(dim=1).tolist()
    for row in zip(found.names, found.present, found.absent, lengths, strict=True):
        name, present, absent, length = row
        counts = (f"{present:,}", f"{absent:,}") if absent else ("a number", "")
        table.add_row(name, *counts, f"{length:.3f}")
    yield table
    yield f"Written to {out}."
