"""Images on paths between two or four others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from diffeo import figures
from diffeo.explorer.subject import Subject
from diffeo.latent import PathKind
from diffeo.latent.arithmetic import decode, encode, path

STEPS = 100  # of a slider, from one image to the next
FRAMES = 9  # of the strip
FILM = 24  # frames from one image to the next
HELD = 5  # frames that the film rests on an image


@dataclass(frozen=True, eq=False)
class Slot:
    """An image at the end of a path.

    Args:
        x: itself `(1, C, H, W)`.
        z: its latents `(1, dims)`.
        context: `(1, width)`, or None.
        caption: what it is.
    """

    x: Tensor
    z: Tensor
    context: Tensor | None
    caption: str


def slot(subject: Subject, x: Tensor, context: Tensor | None, caption: str) -> Slot:
    """An image encoded; one of unknown context under the most likely one."""
    if subject.conditions and context is None:
        _, context = subject.score(x)
        assert context is not None
        caption += f", taken for {subject.conditions.describe(context)}"
    return Slot(x, encode(subject.flow, x, context), context, caption)


def between_two(subject: Subject, slots: Sequence[Slot], step: int, kind: PathKind) -> Tensor:
    """The image at `step` of STEPS from the first to the second, `(1, C, H, W)`."""
    return _decode(subject, *(_at(parts, step, 0, kind) for parts in _parts(slots[:2])))


def between_four(
    subject: Subject, slots: Sequence[Slot], across: int, down: int, kind: PathKind
) -> Tensor:
    """An image between four corners, as `latent.between_four` computes it, `(1, C, H, W)`.

    Args:
        subject: the model.
        slots: upper left, upper right, lower left, lower right.
        across: steps of STEPS to the right.
        down: steps of STEPS downwards.
        kind: of the paths.
    """
    return _decode(subject, *(_at(parts, across, down, kind) for parts in _parts(slots[:4])))


def strip(subject: Subject, slots: Sequence[Slot], kind: PathKind, frames: int = FRAMES) -> Tensor:
    """The path from the first to the second, `(frames, C, H, W)`, both included."""
    (z,), context = _path(slots[0], slots[1], frames, kind)
    return decode(subject.flow, z, context)


def film(subject: Subject, slots: Sequence[Slot], kind: PathKind) -> bytes:
    """A GIF of the path there and back, or for four around the corners: a, b, d, c, a."""
    order = [0, 1, 0] if len(slots) == 2 else [0, 1, 3, 2, 0]
    pieces = []
    for start, end in pairwise(order):
        frames = strip(subject, [slots[start], slots[end]], kind, FILM)
        pieces += [frames[:1].expand(HELD, -1, -1, -1), frames[1:-1]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "film.gif"
        files = []
        for i, frame in enumerate(torch.cat(pieces)):
            files.append(Path(folder) / f"{i:04d}.png")
            figures.save_images(frame[None], files[-1])
        figures.animate(files, out, milliseconds=70, rest=70)
        return out.read_bytes()


def _parts(slots: Sequence[Slot]) -> list[tuple[Tensor | None, PathKind | None]]:
    """Latents, and contexts, which change along straight lines."""
    contexts = [slot.context for slot in slots]
    known = [context for context in contexts if context is not None]
    return [
        (torch.cat([slot.z for slot in slots]), None),
        (torch.cat(known) if len(known) == len(slots) else None, "linear"),
    ]


def _at(
    part: tuple[Tensor | None, PathKind | None], across: int, down: int, kind: PathKind
) -> Tensor | None:
    """One point `(1, d)` between two or four vectors."""
    ends, own = part
    if ends is None:
        return None
    kind = own or kind
    if len(ends) == 2:
        return path(ends[:1], ends[1:], STEPS + 1, kind)[:, across]
    rows = path(ends[[0, 2]], ends[[1, 3]], STEPS + 1, kind)[:, across]
    return path(rows[:1], rows[1:], STEPS + 1, kind)[:, down]


def _path(a: Slot, b: Slot, frames: int, kind: PathKind) -> tuple[Tensor, Tensor | None]:
    z = path(a.z, b.z, frames, kind)
    if a.context is None or b.context is None:
        return z, None
    return z, path(a.context, b.context, frames, "linear")[0]


def _decode(subject: Subject, z: Tensor | None, context: Tensor | None) -> Tensor:
    assert z is not None
    return decode(subject.flow, z, context)
