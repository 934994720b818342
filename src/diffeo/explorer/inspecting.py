"""The likelihood of given images or rows, compared with that of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffeo import figures
from diffeo.evaluation import scores
from diffeo.explorer import charts, images
from diffeo.explorer.subject import Subject, first, generator, table_of
from diffeo.figures.style import base_density, latent_reach
from diffeo.latent.arithmetic import encode
from diffeo.utils.modules import on_device

DRAWN, SHOWN = 2_000, 1_000  # rows of a corner plot, and of the data to look at
LISTED = 20  # rows of a table, the least likely first
NAMED = 8  # events that are marked one by one in the histogram
MEANING = {
    "typicality": "Typicality is minus the distance of the log-likelihood from the mean of "
    "held-out {unit}: 0 is the most usual.",
    "complexity": "Complexity is the log-likelihood plus the length of a plain code that has "
    "learned nothing, {code}: the higher it is, the more the model knows about it.",
}
PLAIN = {"images": "a lossless image file", "rows": "one column at a time"}


@dataclass(frozen=True, eq=False)
class Findings:
    """Events with their scores.

    Args:
        x: the events `(n, *shape)`.
        names: of the events.
        context: theirs, given or guessed, or None.
        nats: log-likelihoods `(n,)`.
        shares: of the reference that is less likely, for each `(n,)`, 0 to 1.
        scores: by kind, the other scores `(n,)`, in nats.
        guessed: whether the context is the most likely one.
    """

    x: Tensor
    names: list[str]
    context: Tensor | None
    nats: Tensor
    shares: list[float]
    scores: dict[str, Tensor]
    guessed: bool


def find(
    subject: Subject, x: Tensor, names: Sequence[str], context: Tensor | None = None
) -> Findings:
    """Score events `(n, *shape)`; without their context, as `Subject.score` does."""
    guessed = bool(subject.conditions) and context is None
    nats, context = subject.score(x, context)
    reference = subject.reference
    shares = [reference.share_below(float(value)) for value in nats]
    kinds: list[scores.Kind] = ["typicality"]
    if subject.kind == "images" or reference.usual.columns:
        kinds.append("complexity")
    others: dict[str, Tensor] = {
        kind: scores.score(subject.flow, x, nats, kind, reference.usual) for kind in kinds
    }
    return Findings(x, list(names), context, nats, shares, others, guessed)


def numbers(subject: Subject, found: Findings) -> str:
    """A table with a line for each event; of a long one, the least likely."""
    of_images = subject.kind == "images"
    order = list(range(len(found.x)))
    if not of_images:
        order = found.nats.argsort()[:LISTED].tolist()
    head = ["", "", "image", "bits/dim", "nats"] if of_images else ["row", "nats"]
    head += ["more likely than", *found.scores]
    if found.guessed:
        head.append("taken for")
    body = []
    for i in order:
        line = [found.names[i]]
        if of_images:
            bits = f"{-float(found.nats[i]) / subject.flow.nats_per_bpd:.3f}"
            line = [str(i + 1), f'<img src="{images.png(found.x[i])}" alt="">', *line, bits]
        digits = 1 if of_images else 3
        line += [signed(found.nats[i], digits), percent(found.shares[i])]
        line += [signed(values[i], digits) for values in found.scores.values()]
        if found.guessed and found.context is not None:
            line.append(subject.conditions.describe(found.context[i : i + 1]))
        body.append(line)
    count = len(found.x)
    caption = "" if count == len(order) else f"the {len(order)} least likely of {count:,} rows"
    return images.rows(head, body, caption)


def comparison(subject: Subject, found: Findings) -> str:
    """How likely one of them is, in words: the only one, or the first of the table."""
    i, name = 0, "It" if len(found.x) == 1 else "The first"
    if subject.kind != "images" and len(found.x) > 1:
        i = int(found.nats.argmin())
        name = f"The least likely, {found.names[i]},"
    than = f"{percent(found.shares[i])} of the {subject.reference.source}"
    return f"{name} is more likely than {than}."


def meaning(subject: Subject, found: Findings) -> str:
    """What the columns of `numbers` say."""
    unit = subject.unit
    lines = [MEANING[kind].format(unit=unit, code=PLAIN[unit]) for kind in found.scores]
    return " ".join(lines) + " Scores are in nats."


def signed(value: Tensor, digits: int) -> str:
    """A number with a minus that is one."""
    return f"{float(value):,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share in few digits: "37 %"; the ends say that nothing lies beyond."""
    if math.isnan(share):
        return "an unknown share"
    if share in (0.0, 1.0):
        return "none" if share == 0 else "all"
    return f"{100 * share:.1f} %" if min(share, 1 - share) < 0.02 else f"{100 * share:.0f} %"


def place(subject: Subject, found: Findings) -> str:
    """The histogram of the reference, with what was brought marked in it."""
    reference = subject.reference
    unit, factor = ("bits/dim", -1 / subject.flow.nats_per_bpd)
    if subject.kind != "images":
        unit, factor = "log-likelihood, nats", 1.0
    drawn = np.array([float(value) for value in found.nats]) * factor
    marks, others = [], None
    if len(drawn) <= NAMED:
        words = [str(i + 1) for i in range(len(drawn))] if len(drawn) > 1 else ["here"]
        pairs = zip(drawn.tolist(), words, strict=True)
        marks = [(value, word) for value, word in pairs if not math.isnan(value)]
    else:
        others = drawn[np.isfinite(drawn)]
    shares = ", ".join(
        f"{name} is more likely than {percent(share)}"
        for name, share in list(zip(found.names, found.shares, strict=True))[:NAMED]
    )
    return charts.histogram(
        np.sort(reference.nats * factor),
        unit,
        f"Histogram of {reference.source} in {unit}; {shares}.",
        title=reference.source,
        marks=marks,
        others=others,
    )


def levels(subject: Subject, found: Findings) -> str:
    """A histogram of each level of the latents, against the standard base density."""
    flow, base = subject.flow, subject.flow.base
    name = type(base).__name__.lower()
    # The middles of a dequantizer's cells would lie closer together than the base's noise.
    with torch.no_grad():
        if flow.dequantizer is None:
            z = encode(flow, found.x, found.context)
        else:
            events = on_device(found.x, found.context, flow.device)
            z = flow.encode(*events, generator=generator(0)).cpu()
    parts = []
    for i, level in enumerate(flow.split_latents(z), start=1):
        values = level.flatten().double().numpy()
        values = values[np.isfinite(values)]
        size = " x ".join(map(str, level.shape[1:]))
        if not len(values):
            parts.append(images.trouble(f"level {i} has no finite value."))
            continue
        spread = f"mean {values.mean():.2f}, standard deviation {values.std():.2f}"
        title = f"level {i} ({size}): {spread}".replace("-", "−")
        reach = latent_reach(base) + 0.5
        usual = float(np.quantile(np.abs(values), 0.99))
        reach = max(reach, min(1.1 * usual, 1e6)) if math.isfinite(usual) else reach
        parts.append(
            charts.histogram(
                values,
                "z",
                f"Histogram of level {i}, {spread}, against the standard {name}.",
                title=title,
                curve=lambda z: base_density(base, z),
                reach=(-reach, reach),
                look="chart latent",
            )
        )
    line = f"The line is the standard {name}, which the latents of the data follow."
    return images.note(line) + f'<div class="charts">{"".join(parts)}</div>'


def summary(subject: Subject, found: Findings, what: str) -> str:
    """One line: how many, their mean, and how it was found where contexts are unknown."""
    finite = found.nats[found.nats.isfinite()]
    count, mean = len(found.x), finite.mean()
    unit = subject.unit if count != 1 else subject.unit.removesuffix("s")
    line = f"{what}, {count:,} {unit}: "
    if len(finite) < count:
        line += f"{count - len(finite):,} with a density of zero or none; "
    if not len(finite):
        line = line.removesuffix("; ")
    elif subject.kind == "images":
        bits = -float(mean) / subject.flow.nats_per_bpd
        line += f"mean {bits:.3f} bits/dim ({signed(mean, 1)} nats)"
    else:
        line += f"mean {signed(mean, 3)} nats"
    if found.guessed:
        count = len(subject.conditions.candidates())
        line += (
            f"; their context being unknown, the density is the mean of those under {count} "
            "contexts, and the latents are those under the most likely one"
        )
    return line + "."


def joined(
    chosen: Sequence[tuple[Tensor, Tensor | None, str]],
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Images of `Subject.image` as one batch, without their contexts.

    One's own images come without a context, so these are scored as those are.
    """
    return torch.cat([x for x, _, _ in chosen]), None, [name for _, _, name in chosen]


def some_rows(subject: Subject) -> tuple[Tensor, Tensor | None, list[str]]:
    """Test rows of a table and their context, or samples of the model."""
    table = table_of(subject)
    if table is not None:
        x, context = first(table.test, SHOWN)
    else:
        context = subject.conditions.draw(SHOWN, 3)
        x = subject.run.sample(SHOWN, context=context, seed=3)
    return x, context, [f"row {i + 1}" for i in range(len(x))]


def corner(data: Tensor, samples: Tensor, columns: list[str], alt: str) -> str:
    """Rows in blue against samples in orange, column by column and pair by pair."""
    if min(len(data), len(samples)) < 2 or data.shape[1] < 2:
        return ""
    return images.drawn(figures.corner(data, samples, columns), alt)


def own_corner(subject: Subject, found: Findings) -> str:
    """Somebody's rows against as many samples of the model, under the same contexts."""
    x = found.x[:DRAWN]
    context = None if found.context is None else found.context[:DRAWN]
    samples = subject.run.sample(len(x), context=context, seed=4)
    alt = "These rows in blue, and as many samples of the model in orange, pair by pair."
    return corner(x, samples, subject.run.columns, alt)
