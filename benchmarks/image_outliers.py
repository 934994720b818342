"""Which score tells unusual images from test data: AUROC, and that of scikit-learn's detectors.

MNIST, by a run of images of it (such as of the preset glow-mnist-cpu, with `--data.context label`
or without): test images against other test images rotated, inverted, against images of one
grey, uniform noise, and scikit-learn's digits (8 x 8, scaled to 28 x 28 by linear interpolation).
Labels are not given: a run that is conditional on labels scores under all. scikit-learn's detectors
see the first 50 principal components of training images.

    python -m benchmarks image-outliers RUN --data ../shared/data [--images 2000] [--write NAME]

The detectors are fitted on training data (--fit rows at most), LocalOutlierFactor and
IsolationForest with their defaults, the bandwidth of KernelDensity by the likelihood of validation
data, the components of GaussianMixture by BIC. Standard errors are of 200 bootstraps of both sides.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from torch import Tensor

from benchmarks.outliers import auroc
from diffeo.data import ImageOptions, load_images
from diffeo.evaluation.likelihood import log_probs
from diffeo.evaluation.scores import KINDS, Reference, score
from diffeo.flow import Flow
from diffeo.run import Run

DATA = Path(__file__).parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
COMPONENTS = 50

Rows = NDArray[np.float64]
Scorer = Callable[[Tensor], dict[str, Rows]]  # events -> of each score, higher being more usual


@dataclass(frozen=True)
class Result:
    """How well one score tells one kind of outliers."""

    data: str
    outliers: str
    inside: int
    outside: int
    score: str
    auroc: float
    stderr: float


# Scores -----------------------------------------------------------------------------------------


def of_flow(flow: Flow, reference: Reference) -> Scorer:
    """The kinds of score of a flow that gets no context."""

    def scores(x: Tensor) -> dict[str, Rows]:
        log_prob = torch.cat([*log_probs(flow, ((part, None) for part in x.split(256)))])
        return {kind: score(flow, x, log_prob, kind, reference).double().numpy() for kind in KINDS}

    return scores


def of_detectors(train: Rows, val: Rows, prepare: Callable[[Tensor], Rows]) -> Scorer:
    """scikit-learn's, fitted to rows `(n, features)` of what `prepare` makes of events."""
    widths = np.geomspace(0.02, 2, 12) * val.std()
    some, few = train[:5_000], val[:1_000]
    likelihoods = [KernelDensity(bandwidth=h).fit(some).score(few) for h in widths]
    mixtures = [
        GaussianMixture(k, random_state=0, reg_covar=1e-4 * val.var()).fit(train)
        for k in (1, 2, 4, 8, 16, 32)
        if k * 10 <= len(train)
    ]
    detectors = {
        "IsolationForest": IsolationForest(random_state=0),
        "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
        "KernelDensity": KernelDensity(bandwidth=widths[int(np.argmax(likelihoods))]),
        "GaussianMixture": min(mixtures, key=lambda mixture: mixture.bic(train)),
    }
    for detector in detectors.values():
        if detector not in mixtures:
            detector.fit(train)

    def scores(x: Tensor) -> dict[str, Rows]:
        rows = prepare(x)
        return {name: detector.score_samples(rows) for name, detector in detectors.items()}

    return scores


def compare(
    data: str, inside: Tensor, outside: dict[str, Tensor], scorers: Sequence[Scorer]
) -> Iterator[Result]:
    """All scores on all kinds of outliers."""
    for scorer in scorers:
        usual = scorer(inside)
        for outliers, x in outside.items():
            for name, unusual in scorer(x).items():
                counts = len(inside), len(x)
                yield Result(data, outliers, *counts, name, *auroc(usual[name], unusual))


# Images ---------------------------------------------------------------------------------------


def strangers(x: Tensor) -> dict[str, Tensor]:
    """Images that are none of MNIST, some made of test images x `(n, 1, 28, 28)`."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (len(x), 1, 1, 1), generator=generator)
    return {
        "rotated by 90°": x.rot90(1, (2, 3)),
        "rotated by 180°": x.rot90(2, (2, 3)),
        "inverted": 255 - x,
        "one grey": levels.to(torch.uint8).expand_as(x).contiguous(),
        "uniform noise": torch.randint(256, x.shape, generator=generator).to(torch.uint8),
        "scikit-learn's digits": enlarged_digits(len(x)),
    }


def enlarged_digits(count: int) -> Tensor:
    """scikit-learn's 8 x 8 digits in 28 x 28 pixels, `(count, 1, 28, 28)`, 1,797 at most."""
    images = (load_digits().images[:count] * (255 / 16)).round().astype(np.uint8)
    large = [Image.fromarray(p).resize((28, 28), Image.Resampling.BILINEAR) for p in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in large]))[:, None]


def images(run: Run, source: Path, count: int, fit: int) -> Iterator[Result]:
    """MNIST."""
    images = load_images(ImageOptions(str(source)))
    test = images.test.all(2 * count)
    inside, outside = test[:count], strangers(test[count:])
    val = images.val.all(count)
    reference = Reference.measure(run.flow, ((part, None) for part in val.split(256)))
    flat = [x.flatten(1).double().numpy() for x in (images.train.all(fit), val)]
    pca = PCA(COMPONENTS, random_state=0).fit(flat[0])

    def prepare(x: Tensor) -> Rows:
        return pca.transform(x.flatten(1).double().numpy())

    detectors = of_detectors(*map(pca.transform, flat), prepare)
    yield from compare("MNIST", inside, outside, (of_flow(run.flow, reference), detectors))


# Report -----------------------------------------------------------------------------------------


def markdown(results: Sequence[Result]) -> str:
    """A table of a line for each kind of outliers, the best of each line in bold."""
    names = list(dict.fromkeys(result.score for result in results))
    lines = [
        f"| data | outliers | n | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for key in dict.fromkeys((r.data, r.outliers, r.inside, r.outside) for r in results):
        of = {r.score: r for r in results if (r.data, r.outliers, r.inside, r.outside) == key}
        best = max(r.auroc for r in of.values())
        cells = [f"{of[name].auroc:.3f} ± {of[name].stderr:.3f}" for name in names]
        marked = [
            f"**{cell}**" if round(of[name].auroc, 3) == round(best, 3) else cell
            for name, cell in zip(names, cells, strict=True)
        ]
        data, outliers, inside, outside = key
        lines.append(f"| {data} | {outliers} | {inside:,} / {outside:,} | {' | '.join(marked)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write results where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks image-outliers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", help="a run of MNIST")
    parser.add_argument("--data", type=Path, default=DATA, help="holds mnist")
    parser.add_argument("--images", type=int, default=2_000, help="of each set; 2000")
    parser.add_argument("--fit", type=int, default=10_000, help="rows for the detectors; 10000")
    parser.add_argument("--write", metavar="NAME", help="write benchmarks/results/NAME.csv")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    mnist = options.data / "mnist"
    results = [*images(Run(options.run), mnist, options.images, options.fit)]
    print(markdown(results), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    if options.write:
        with (RESULTS / f"{options.write}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Result.__dataclass_fields__)
            writer.writerows(vars(result).values() for result in results)
