"""Every family of flows on the same four densities in two dimensions: the images of a docs page.

Each flow learns for the same seconds of processor time, from the same rows, with the same plan of
Adam, and is drawn on a grid with its held-out negative log-likelihood in nats and how far that is
above the truth, which is known. A new family is one line of FAMILIES. Figures are added to those of
other groups in families.csv; each group has an image.

    python -m benchmarks families [--groups mixtures ...] [--seconds 10]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Generator, Tensor

import diffeo
from diffeo import Chain, Flow, FlowMixture
from diffeo.bijections import GaussianMixtureMap, MixtureCDF, Standardize
from diffeo.data import generate, moons_log_density
from diffeo.figures import GREY, INK, LINE, save
from diffeo.figures.style import DENSITY, house_style, panel, tick, write
from diffeo.losses import flow_matching

ROOT = Path(__file__).parents[1]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
BATCH, LR = 256, 4e-3
DEGREES = 2.0  # of the heavy tails
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Density:
    """One density: draws `(n, 2)` by a seed, log p, and the square that is drawn."""

    draw: Callable[[int, int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    middle: tuple[float, float]
    half: float


def negative_log_likelihood(flow: Flow, x: Tensor, *, generator: Generator) -> Tensor:
    """What most learn by."""
    return -flow(x, generator=generator).mean()


@dataclass(frozen=True)
class Family:
    """One row of an image: a label, a note below it, how to make the flow, and its loss."""

    name: str
    note: str
    make: Callable[[], Flow | FlowMixture]
    loss: Loss = negative_log_likelihood


def moons(n: int, seed: int) -> Tensor:
    """Scikit-learn's, with some noise."""
    return torch.from_numpy(generate("moons", n, seed, 0.1)[0])


def log_moons(x: Tensor) -> Tensor:
    """By integration over the arcs."""
    return torch.from_numpy(moons_log_density(x.numpy(), 0.1))


def checkerboard(n: int, seed: int) -> Tensor:
    """Uniform on eight of sixteen squares of side 1."""
    noise = Generator().manual_seed(seed)
    x = 4 * torch.rand(n, 2, dtype=torch.float64, generator=noise) - 2
    row = 2 * torch.randint(2, (n,), generator=noise) - 2 + x[:, 0].floor() % 2
    return torch.stack((x[:, 0], row + x[:, 1] % 1), 1)


def log_checkerboard(x: Tensor) -> Tensor:
    """Minus infinity off the squares."""
    there = (x.floor().sum(1) % 2 == 0) & (x.abs() < 2).all(1)
    return torch.where(there, -math.log(8), -math.inf).double()


def rings(n: int, seed: int) -> Tensor:
    """Two rings of radii 1 and 2."""
    noise = Generator().manual_seed(seed)
    radius = 1.0 + torch.randint(2, (n,), generator=noise)
    radius = radius + 0.1 * torch.randn(n, dtype=torch.float64, generator=noise)
    angle = 2 * math.pi * torch.rand(n, dtype=torch.float64, generator=noise)
    return radius[:, None] * torch.stack((angle.cos(), angle.sin()), 1)


def log_rings(x: Tensor) -> Tensor:
    """A mixture over the radius, around the circle."""
    radius = x.norm(dim=1)
    terms = -0.5 * ((radius[:, None] - torch.tensor([1.0, 2.0])) / 0.1).square()
    return (
        terms.logsumexp(1)
        - math.log(2 * 0.1 * math.sqrt(2 * math.pi))
        - (2 * math.pi * radius).log()
    )


def heavy(n: int, seed: int) -> Tensor:
    """A V whose arms and whose width have tails of Student's t with two degrees of freedom."""
    t = torch.from_numpy(np.random.default_rng(seed).standard_t(DEGREES, (n, 2)))
    return torch.stack((t[:, 0], 0.8 * t[:, 0].abs() + 0.3 * t[:, 1]), 1)


def log_heavy(x: Tensor) -> Tensor:
    """Of the arm and of the distance to it."""
    student = torch.distributions.StudentT(torch.tensor(DEGREES, dtype=torch.float64))
    width = (x[:, 1] - 0.8 * x[:, 0].abs()) / 0.3
    return student.log_prob(x[:, 0]) + student.log_prob(width) - math.log(0.3)


DENSITIES = {
    "moons": Density(moons, log_moons, (0.5, 0.25), 1.75),
    "checkerboard": Density(checkerboard, log_checkerboard, (0, 0), 2.4),
    "rings": Density(rings, log_rings, (0, 0), 2.5),
    "heavy tails": Density(heavy, log_heavy, (0, 2), 4.0),
}

FAMILIES = {
    "couplings": [
        Family("NICE", "additive couplings", lambda: diffeo.NICE(2, 8, (64, 64))),
        Family("RealNVP", "affine couplings", lambda: diffeo.RealNVP(2)),
        Family("TableFlow", "from a Gaussian", lambda: diffeo.TableFlow(2)),
        Family("CouplingNSF", "spline couplings", lambda: diffeo.CouplingNSF(2, 4)),
    ],
    "autoregressive": [
        Family("MAF", "affine maps", lambda: diffeo.MAF(2)),
        Family("IAF", "inverse affine maps", lambda: diffeo.IAF(2)),
        Family("NSF", "splines", lambda: diffeo.NSF(2, 3, (64, 64))),
        Family(
            "MAF, MixtureCDF",
            "mixtures as maps",
            lambda: diffeo.MAF(2, 2, (64, 64), univariate=MixtureCDF(8)),
        ),
        Family("NAF", "networks as maps", lambda: diffeo.NAF(2, 2, (64, 64))),
        Family("TailFlow", "tails, then splines", lambda: diffeo.TailFlow(2)),
    ],
    "unrestricted": [
        Family("PlanarFlow", "ridges", lambda: diffeo.PlanarFlow(2)),
        Family("SylvesterFlow", "many ridges at once", lambda: diffeo.SylvesterFlow(2, 8)),
        Family("ResidualFlow", "contractions", lambda: diffeo.ResidualFlow(2)),
        Family(
            "ContinuousFlow",
            "by flow matching",
            lambda: diffeo.ContinuousFlow(2),
            flow_matching,
        ),
    ],
    "mixtures": [
        Family(
            "GaussianMixtureMap",
            "24 Gaussians, by EM",
            lambda: Flow(Chain(Standardize(2), GaussianMixtureMap(2, 24)), 2),
        ),
        Family(
            "FlowMixture",
            "4 flows of 4 couplings",
            lambda: FlowMixture(*(diffeo.RealNVP(2, 4) for _ in range(4))),
        ),
    ],
}


def fit(family: Family, x: Tensor, seconds: float, seed: int = 0) -> tuple[Flow | FlowMixture, int]:
    """A flow that has learned rows for some seconds of the processor, and its steps."""
    start = time.process_time()
    torch.manual_seed(seed)
    flow = family.make()
    for member in flow.flows if isinstance(flow, FlowMixture) else [flow]:
        member.initialize(x[:5_000])
    adam = torch.optim.Adam(flow.parameters(), lr=LR)
    noise, steps = Generator().manual_seed(seed), 0
    while (share := (time.process_time() - start) / seconds) < 1 or not steps:
        adam.param_groups[0]["lr"] = LR * min(1.0, 20 * share) * math.cos(share * math.pi / 2) ** 2
        rows = torch.randint(len(x), (BATCH,), generator=noise)
        adam.zero_grad()
        family.loss(flow, x[rows], generator=noise).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        steps += 1
    return flow.double().eval(), steps


def grid(density: Density, cells: int) -> Tensor:
    """The middles of cells of the square that is drawn, row by row from below."""
    line = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * density.half
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1) + torch.tensor(density.middle)


@torch.no_grad()
def measure(
    family: Family, name: str, seconds: float, rows: int, cells: int
) -> tuple[dict[str, object], np.ndarray]:
    """A line of the results, and the density on the grid."""
    density = DENSITIES[name]
    train, test = density.draw(rows, 1).float(), density.draw(min(rows, 10_000), 2)
    with torch.enable_grad():
        flow, steps = fit(family, train, seconds)
    gap = density.log_prob(test) - flow(test)
    nats, floor = -flow(test).mean(), -density.log_prob(test).mean()
    line: dict[str, object] = {"family": family.name, "density": name}
    line |= {"nats": round(float(nats), 4), "floor": round(float(floor), 4)}
    line |= {
        "gap": round(float(gap.mean()), 4),
        "stderr": round(float(gap.std()) / len(test) ** 0.5, 4),
    }
    line |= {"steps": steps, "seconds": seconds}
    print(*line.values(), sep=", ", flush=True)
    return line, flow(grid(density, cells)).exp().reshape(cells, cells).numpy()


@house_style()
def plot(
    families: Sequence[Family],
    maps: Sequence[Sequence[np.ndarray]],
    lines: Sequence[Sequence[dict[str, object]]],
    cells: int,
) -> Figure:
    """The true densities, and below them a row for each family."""
    side, left, pitch_x, pitch_y, top = 1.4, 1.8, 1.5, 1.72, 0.3
    height = top + pitch_y * (1 + len(families)) + 0.05
    figure = Figure(figsize=(left + 4 * pitch_x, height))
    truth = [d.log_prob(grid(d, cells)).exp().reshape(cells, cells) for d in DENSITIES.values()]
    labels = [("truth", "known in closed form"), *((f.name, f.note) for f in families)]
    for i, (label, note) in enumerate(labels):
        bottom = height - top - pitch_y * i - side - 0.2
        write(figure, 0.1, bottom + side / 2 + 0.06, label, size=9.5, weight="bold")
        write(figure, 0.1, bottom + side / 2 - 0.12, note, size=8, color=GREY)
        for j, name in enumerate(DENSITIES):
            x = left + j * pitch_x
            axes = panel(figure, x, bottom, side, side)
            shown = np.asarray(truth[j] if i == 0 else maps[i - 1][j])
            shown = np.sqrt(shown / np.quantile(truth[j], 0.999)).clip(0, 1)
            axes.imshow(
                shown, origin="lower", cmap=DENSITY, vmin=0, vmax=1, interpolation="bilinear"
            )
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_color(LINE)
            if i == 0:
                write(figure, x, height - 0.22, name, size=9.5, weight="bold")
                text = f"{tick(float(lines[0][j]['floor']), digits=3)} nats"  # type: ignore[arg-type]
                write(figure, x, bottom + side + 0.06, text, size=8, color=GREY)
            else:
                nats, gap = (float(lines[i - 1][j][k]) for k in ("nats", "gap"))  # type: ignore[arg-type]
                write(figure, x, bottom + side + 0.06, f"{nats:.2f}", size=8.5)
                options = {"size": 8, "color": GREY, "ha": "right"}
                write(figure, x + side, bottom + side + 0.06, f"{gap:+.2f}", **options)
    return figure


def compress(file: Path) -> None:
    """The same image in the colours that it is made of, 96 of densities: a third of the file."""
    shades = np.linspace(0, 1, 48)[:, None]
    greys = [shades + (1 - shades) * np.array(to_rgb(ink)) for ink in (INK, GREY, LINE)]
    colours = np.concatenate([DENSITY(np.linspace(0, 1, 96))[:, :3], *greys])
    colours = (255 * colours).round().astype(np.int32)
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int32) @ [1 << 16, 1 << 8, 1]
    found, places = np.unique(pixels, return_inverse=True)
    apart = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)[:, None] - colours
    nearest = np.square(apart).sum(2).argmin(1).astype(np.uint8)
    small = Image.fromarray(nearest[places].reshape(pixels.shape)).convert("P")
    small.putpalette(colours.flatten().tolist())
    small.save(file, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, print, and write figures and images."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks families", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--groups", nargs="*", default=tuple(FAMILIES), choices=tuple(FAMILIES))
    parser.add_argument("--seconds", type=float, default=10.0, help="of the processor, for each")
    parser.add_argument("--rows", type=int, default=50_000, help="to learn from")
    parser.add_argument("--cells", type=int, default=120, help="of a side of a panel")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder for the figures")
    parser.add_argument("--images", type=Path, default=IMAGES, help="a folder for the images")
    options = parser.parse_args(arguments)
    sizes = options.seconds, options.rows, options.cells
    options.out.mkdir(parents=True, exist_ok=True)
    for group in options.groups:
        families = FAMILIES[group]
        found = [[measure(family, name, *sizes) for name in DENSITIES] for family in families]
        lines = [[line for line, _ in row] for row in found]
        maps = [[drawn for _, drawn in row] for row in found]
        image = options.images / f"families-{group}.png"
        save(plot(families, maps, lines, options.cells), image)
        compress(image)
        file = options.out / "families.csv"
        table = pd.DataFrame([line for row in lines for line in row])
        if file.is_file():
            known = pd.read_csv(file)
            table = pd.concat([known[~known["family"].isin(table["family"])], table])
        order = {f.name: i for i, f in enumerate(f for row in FAMILIES.values() for f in row)}
        table = table.sort_values("family", key=lambda names: names.map(order), kind="stable")
        table.to_csv(file, index=False, lineterminator="\n")
