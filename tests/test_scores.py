"""Scores against closed forms: coders are lossless, densities of columns integrate to 1."""

import io
import itertools
import json
import lzma
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks import image_outliers, outliers
from commands import refused
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

import diffeo
from diffeo.bijections.base import Bijection
from diffeo.cli import main
from diffeo.context import Category, ContextSpec, Number
from diffeo.evaluation import code_length
from diffeo.evaluation.code_length import image_bits
from diffeo.evaluation.likelihood import log_probs, mixture_log_prob
from diffeo.evaluation.scores import (
    KINDS,
    MAX_BINS,
    ColumnDensity,
    Reference,
    row_nats,
    score,
    scores,
)
from diffeo.flow import Flow


class Shifted(Bijection):
    """y = x - context @ means: of each class a normal density about its mean."""

    def __init__(self, means):
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, x, context=None):
        return x - (0 if context is None else context @ self.means), x.new_zeros(len(x))

    def inverse(self, y, context=None):
        return y + (0 if context is None else context @ self.means), y.new_zeros(len(y))


MEANS = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, -5.0]], dtype=torch.float64)


def normal(features):
    """Standard normal, without context."""
    return Flow(Shifted(torch.zeros(0, features, dtype=torch.float64)), features)


def classes():
    """Three normal densities, one for each class."""
    return Flow(Shifted(MEANS), 2, context=ContextSpec.classes(3))


def images(channels=1, size=8, n=40):
    return torch.randint(256, (n, channels, size, size), dtype=torch.uint8)


# Images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 1), (28, 28, 1), (9, 17, 3), (8, 6, 4)])
def test_coders_are_lossless(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    *files, bare = (code(noise) for code in code_length.CODERS)
    for file in files:
        decoded = np.asarray(Image.open(io.BytesIO(file)))
        if shape[2] != 3:  # one channel below the other, which come back as grey or as three
            decoded = decoded.reshape(shape[0] * shape[2], shape[1], -1)[..., :1]
        expected = noise if shape[2] == 3 else noise.transpose(2, 0, 1).reshape(-1, shape[1], 1)
        assert np.array_equal(decoded, expected)
    assert lzma.decompress(bare, lzma.FORMAT_RAW, filters=code_length.LZMA) == noise.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_noise_costs_its_bits_and_a_plain_image_none(channels):
    x = images(channels, 32, 4)
    raw = 8 * x[0].numel()
    assert torch.all((image_bits(x) - raw).abs() < 0.03 * raw + 100)
    assert torch.equal(image_bits(torch.full_like(x, 128)), torch.zeros(4, dtype=torch.float64))
    assert torch.all(image_bits(torch.full_like(x, 7)) < 100)


def test_simpler_images_are_shorter():
    noise = images(1, 32, 4)
    tiled = noise[..., :8, :8].repeat(1, 1, 4, 4)
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(4, 1, 32, 32)
    assert torch.all(image_bits(ramp) < image_bits(tiled))
    assert torch.all(image_bits(tiled) < image_bits(noise) / 4)


def test_each_coder_is_the_shortest_of_something():
    digits = torch.from_numpy((load_digits().images * 15).astype(np.uint8))[:100, None]
    large = torch.nn.functional.interpolate(digits.float(), size=32, mode="bicubic").clamp(0, 255)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    waves = 128 + 50 * torch.sin(x / 5) * torch.cos(y / 7) + 3 * torch.randn(20, 3, 32, 32)
    edges = (x > y) * 255 * torch.ones(1, 1, 1, 1)
    best = set()
    for batch in (large, waves, edges):
        for image in batch.to(torch.uint8).permute(0, 2, 3, 1).numpy():
            plain = np.full_like(image, 128)
            best.add(
                np.argmin([len(code(image)) - len(code(plain)) for code in code_length.CODERS])
            )
    assert best == {0, 1, 2}


def test_images_have_to_be_pixels():
    with pytest.raises(ValueError, match="uint8"):
        image_bits(torch.rand(2, 1, 8, 8))


# Columns ----------------------------------------------------------------------------------------

COLUMNS = {
    "normal": lambda random: random.normal(3, 0.01, 2_000),
    "heavy": lambda random: random.standard_cauchy(2_000),
    "whole": lambda random: random.poisson(40, 5_000).astype(float),
    "two values": lambda random: random.choice([0.0, 1.0], 500, p=[0.9, 0.1]),
    "few": lambda random: random.normal(size=3),
    "constant": lambda random: np.full(10, 7.0),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_density_of_a_column_integrates_to_1(name):
    values = COLUMNS[name](np.random.default_rng(0))
    density = ColumnDensity.learn(values)
    assert sum(density.counts) == len(values)
    assert len(density.counts) <= MAX_BINS
    edges = np.array(density.edges)
    assert np.all(np.diff(edges) > 0)
    assert not np.isin(values, edges).any()
    # Inside by the height of each bin, outside by the distribution function of Cauchy's law.
    middle, half = (edges[0] + edges[-1]) / 2, (edges[-1] - edges[0]) / 2
    total = 0.0
    for left, right in itertools.pairwise(edges):
        v = np.linspace(left, right, 2_003)
        v = (v[1:] + v[:-1]) / 2
        total += np.exp(density.log_density(v)).mean() * (right - left)
    n = len(values)
    assert total == pytest.approx((n + 0.5) / (n + 1), rel=1e-6)
    far = middle + half * np.array([-1e30, -50.0, 2.0, 1e3])
    expected = stats.cauchy(middle, half).logpdf(far) - math.log(n + 1)
    assert np.allclose(density.log_density(far), expected)


def test_repeated_values_have_the_density_of_their_counts():
    values = np.repeat([0.0, 1.0, 2.0], [90, 9, 1])
    density = ColumnDensity.learn(values)
    assert density.edges == (-0.5, 0.5, 1.5, 2.5) and density.counts == (90, 9, 1)
    escape = stats.cauchy(1, 1.5).pdf([0.0, 1.0, 2.0])
    expected = (np.array([90, 9, 1]) + escape) / 101
    assert np.allclose(np.exp(density.log_density(np.array([0.0, 1.0, 2.0]))), expected)


def test_bins_hold_about_as_many_each():
    density = ColumnDensity.learn(np.random.default_rng(0).lognormal(size=10_000))
    assert len(density.counts) == math.ceil(2 * 10_000**0.4)
    assert max(density.counts) - min(density.counts) <= 2


def test_a_column_needs_values_and_rows_need_as_many_columns():
    density = ColumnDensity.learn(np.array([1.0, 2.0, np.nan, np.inf]))
    assert sum(density.counts) == 2
    with pytest.raises(ValueError, match="finite"):
        ColumnDensity.learn(np.array([np.nan]))
    with pytest.raises(ValueError, match="1 densities"):
        row_nats(torch.zeros(4, 2), (density,))


# Kinds of score ---------------------------------------------------------------------------------


def test_the_mode_of_a_normal_density_is_likely_and_not_typical():
    flow = normal(500)
    x = torch.randn(2_000, 500, dtype=torch.float64)
    reference = Reference.measure(flow, [(x[:1_000], None)])
    assert reference.mean == pytest.approx(-250 * (math.log(2 * math.pi) + 1), abs=3)
    mode = torch.zeros(1, 500, dtype=torch.float64)
    events = torch.cat((mode, x[1_000:]))
    (pair,) = scores(flow, [(events, None)], "typicality", reference)
    log_prob, typical = pair
    assert log_prob.argmax() == 0
    assert typical.argmin() == 0
    assert typical[0] == pytest.approx(-(-250 * math.log(2 * math.pi) - reference.mean))
    expected = stats.norm.logpdf(events.numpy()).sum(1)
    assert np.allclose(typical, -np.abs(expected - reference.mean))


def test_complexity_of_a_table_estimates_mutual_information():
    law = stats.multivariate_normal(cov=[[1, 0.9], [0.9, 1]], seed=0)
    train, test = law.rvs(50_000), law.rvs(5_000)
    flow = normal(2)  # only its kind counts where the likelihood is given
    reference = Reference.measure(flow, [(torch.from_numpy(train), None)])
    x, log_prob = torch.from_numpy(test), torch.from_numpy(law.logpdf(test))
    values = score(flow, x, log_prob, "complexity", reference)
    assert values.mean() == pytest.approx(-0.5 * math.log(1 - 0.9**2), abs=0.03)
    assert torch.equal(score(flow, x, log_prob, "log_prob"), log_prob)


def test_what_lies_far_outside_gains_nothing_by_being_far():
    flow = normal(1)
    x = torch.randn(1_000, 1, dtype=torch.float64)
    reference = Reference.measure(flow, [(x, None)])
    far = torch.tensor([[0.0], [8.0], [-20.0], [1e3]], dtype=torch.float64)
    ((_, values),) = scores(flow, [(far, None)], "complexity", reference)
    assert torch.all(values.diff() < -10) and torch.isfinite(values).all()


def test_columns_are_learned_from_training_rows_and_likelihoods_from_others():
    flow, train = normal(1), torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    held_out = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    reference = Reference.measure(
        flow, [(held_out[:1], None), (held_out[1:], None)], [(train, None)]
    )
    assert reference.events == 2
    assert reference.mean == pytest.approx(-1 - 0.5 * math.log(2 * math.pi))
    assert reference.columns == (ColumnDensity.learn(train[:, 0].numpy()),)


@pytest.mark.parametrize("bits", [8, 3])
def test_complexity_of_images_adds_their_bits(bits):
    x = images()
    flow = diffeo.Glow(image_shape=(1, 8, 8), levels=1, steps=2, hidden_channels=8, bits=bits)
    flow.initialize(x).eval()
    log_prob = torch.randn(len(x))
    seen = x >> (8 - bits) << (8 - bits)
    expected = log_prob + image_bits(seen) * math.log(2)
    assert torch.allclose(score(flow, x, log_prob, "complexity"), expected.float())
    if bits < 8:
        assert not torch.equal(image_bits(seen), image_bits(x))


def test_an_unknown_kind_and_a_missing_reference_are_refused():
    flow, x = normal(2), torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="typicality, complexity"):
        list(scores(flow, [(x, None)], "surprise"))
    for kind in KINDS[1:]:
        with pytest.raises(ValueError, match="--reference"):
            list(scores(flow, [(x, None)], kind))
    with pytest.raises(ValueError, match="finite"):
        Reference.measure(flow, [(x * math.nan, None)])
    with pytest.raises(ValueError, match="held-out"):
        Reference.measure(flow, [])
    x[0] = math.inf
    assert Reference.measure(flow, [(x, None)]).mean == pytest.approx(-math.log(2 * math.pi))


# Events without labels --------------------------------------------------------------------------


def test_a_mixture_is_the_sum_of_its_classes():
    flow, x = classes(), 3 * torch.randn(200, 2, dtype=torch.float64)
    density = sum(stats.multivariate_normal(mean).pdf(x) for mean in MEANS.numpy()) / 3
    assert np.allclose(mixture_log_prob(flow, x), np.log(density))
    (values,) = log_probs(flow, [(x, None)])
    assert np.allclose(values, np.log(density))
    (of_class,) = log_probs(flow, [(x, torch.full((200,), 2))])
    assert np.allclose(of_class, stats.multivariate_normal(MEANS[2].numpy()).logpdf(x))


def test_a_reference_is_measured_with_and_without_labels():
    flow, y = classes(), torch.randint(3, (3_000,))
    x = MEANS[y] + torch.randn(3_000, 2, dtype=torch.float64)
    reference = Reference.measure(flow, [(x, y)])
    labelled = flow.log_prob(x, y)
    unlabelled = mixture_log_prob(flow, x)
    assert reference.mean == pytest.approx(float(labelled.mean()))
    assert reference.unlabelled.mean == pytest.approx(float(unlabelled.mean()))
    for context, log_prob, against in (
        (y, labelled, reference),
        (None, unlabelled, reference.unlabelled),
    ):
        ((_, values),) = scores(flow, [(x, context)], "typicality", reference)
        assert torch.allclose(values, -(log_prob - against.mean).abs())
    assert reference.unlabelled.columns == reference.columns


def test_one_noisy_copy_of_an_image_serves_all_its_classes():
    x, y = images(), torch.randint(3, (40,))
    flow = diffeo.Glow(
        image_shape=(1, 8, 8), levels=1, steps=2, hidden_channels=8, context=ContextSpec.classes(3)
    )
    flow.initialize(x, y).eval()
    for parameter in flow.parameters():  # so that classes differ
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        first, second = (mixture_log_prob(flow, x, generator=generator) for _ in range(2))
        of_class = []
        for c in range(3):
            again = torch.Generator().manual_seed(5)
            of_class.append(flow.log_prob(x, torch.full((40,), c), generator=again))
    assert (of_class[0] - of_class[1]).abs().max() > 0.1
    expected = torch.stack(of_class).logsumexp(0) - math.log(3)
    assert torch.allclose(first, expected, atol=1e-3)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    "variables",
    [
        (Number("temp=C"),),
        (Number("temp=C"), Number("temp=F")),
        (Category("label", ("0", "1")), Category("shape", ("2", "3"))),
        (Category("label", ("0", "1")), Number("age")),
        (Number("a"), Number("b"), Number("c")),
    ],
)
def test_only_a_single_category_is_a_mixture(variables):
    """Columns whose names look like classes, such as temp=C, are no classes."""
    flow = diffeo.RealNVP(features=2, layers=2, context=ContextSpec(variables)).eval()
    x, context = torch.zeros(3, 2), torch.zeros(3, flow.context_features)
    for call in (
        lambda: flow.log_prob(x),
        lambda: mixture_log_prob(flow, x),
        lambda: list(log_probs(flow, [(x, None)])),
        lambda: list(scores(flow, [(x, None)])),
    ):
        with pytest.raises(ValueError, match="context"):
            call()
    assert Reference.measure(flow, [(x, context)]).unlabelled is None


# In files ---------------------------------------------------------------------------------------


def test_a_reference_travels_with_its_model():
    flow = diffeo.RealNVP(2, layers=2, context=ContextSpec.classes(["a", "b"], "kind")).eval()
    x, context = torch.randn(300, 2), torch.eye(2)[torch.randint(2, (300,))]
    reference = Reference.measure(flow, [(x, context)])
    reference.attach(flow)
    flow.save_pretrained("model")
    loaded = Reference.of(Flow.from_pretrained("model"))
    assert loaded == reference and loaded.unlabelled.columns
    numbers = json.loads(json.dumps(reference.to_json(), allow_nan=False))
    assert Reference.from_json(numbers) == reference
    numbers["codes"] = numbers.pop("columns")  # as in models of 0.1.0
    assert Reference.from_json(numbers) == reference
    with pytest.raises(ValueError, match="damaged"):
        Reference.from_json({"events": 3})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models of a table and of digits with labels, trained a little; of a table with classes."""
    folder = tmp_path_factory.mktemp("trained")
    quick = ["--trainer.max_epochs=1", "--trainer.batch_size=100", "--trainer.figure_every=100"]
    random = np.random.default_rng(0)
    kind = random.integers(2, size=600)
    frame = pd.DataFrame(random.normal(size=(600, 2)) + 4 * kind[:, None], columns=["a", "b"])
    frame["kind=x"], frame["kind=y"] = kind, 1 - kind
    frame.to_csv(folder / "kinds.csv", index=False)
    rows = torch.from_numpy(frame.to_numpy(np.float32))
    x, context = rows[:, :2], rows[:, 2:]
    flow = diffeo.RealNVP(2, layers=2, context=ContextSpec.classes(["x", "y"], "kind"))
    flow.metadata = {"data": "kinds", "columns": ["a", "b"]}
    flow.initialize(x, context).eval()
    Reference.measure(flow, [(x[480:], context[480:])], [(x[:480], None)]).attach(flow)
    flow.save_pretrained(folder / "kinds" / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DIFFEO_CACHE", str(folder / ".cache"))
        layers = ["--model.layers=2"]
        assert main(["train", "--data.rows=600", "--out=moons", *quick, *layers]) == 0
        glow = ["--model=Glow", "--model.levels=1", "--model.steps=2", "--model.hidden_channels=8"]
        digits = ["--data=digits", "--data.rows=300", "--data.context=label", "--out=digits"]
        assert main(["train", *digits, *quick, *glow]) == 0
    return folder


def test_training_saves_a_reference(run):
    for name in ("moons", "digits"):
        flow = Flow.from_pretrained(f"{name}/model")
        reference = Reference.of(flow)
        val = json.loads(Path(f"{name}/results.json").read_text())["val"]
        assert reference.events == val["rows"]
        # Images may have other noise.
        assert -reference.mean == pytest.approx(val["nll"], rel=0.02 if name == "digits" else 1e-5)
        assert (reference.unlabelled is None) == (name == "moons")
        assert len(reference.columns) == (0 if name == "digits" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_a_column_of_its_kind(run, kind):
    assert main(["sample", "moons", "-n=50", "--seed=0", "--out=s.csv"]) == 0
    assert main(["score", "moons", "--data=s.csv", "--kind", kind, "--out=o.csv"]) == 0
    table = pd.read_csv("o.csv")
    assert list(table) == list(dict.fromkeys(["log_prob", kind]))
    flow = Flow.from_pretrained("moons/model")
    x = torch.from_numpy(pd.read_csv("s.csv").to_numpy(np.float32))
    expected = score(flow, x, flow.log_prob(x), kind).detach()
    assert np.allclose(table[kind], expected, atol=1e-4)


@pytest.mark.parametrize("ending", ["csv", "npy"])
def test_rows_without_classes_are_scored_under_all(run, ending, capsys):
    rows = pd.read_csv("kinds.csv")[["a", "b"]]
    rows.to_csv("plain.csv", index=False) if ending == "csv" else np.save("plain.npy", rows)
    scored = ["score", "kinds", f"--data=plain.{ending}", "--kind=typicality", "--out=o.csv"]
    assert main(scored) == 0
    assert (
        f"plain.{ending} has no kind: scored under all 2, equally likely" in capsys.readouterr().out
    )
    flow = Flow.from_pretrained("kinds/model")
    x = torch.from_numpy(rows.to_numpy(np.float32))
    density = sum(
        flow.log_prob(x, row.expand(600, -1)).double().exp().detach() for row in torch.eye(2)
    )
    table = pd.read_csv("o.csv")
    assert np.allclose(table.log_prob, (density / 2).log(), atol=1e-3)
    mean = Reference.of(flow).unlabelled.mean
    assert np.allclose(table.typicality, -np.abs(table.log_prob - mean), atol=1e-3)
    assert main(["score", "kinds", "--data=kinds.csv", "--out=o.csv"]) == 0
    assert "equally likely" not in capsys.readouterr().out
    rows.assign(**{"kind=x": 1}).to_csv("half.csv", index=False)
    refused(["score", "kinds", "--data=half.csv"], capsys, "kind=y")


def test_images_without_labels_are_scored_under_all(run, capsys):
    Path("new").mkdir()
    for i, digit in enumerate(load_digits().images[:6]):
        Image.fromarray((digit * 15).astype(np.uint8)).save(f"new/{i}.png")
    assert main(["score", "digits", "--data=new", "--kind=complexity", "--out=o.csv"]) == 0
    assert "new has no label: scored under all 10, equally likely" in capsys.readouterr().out
    table = pd.read_csv("o.csv")
    assert list(table) == ["image", "log_prob", "bits_per_dim", "complexity"]
    flow = Flow.from_pretrained("digits/model")
    x = torch.from_numpy(np.stack([np.asarray(Image.open(f"new/{i}.png")) for i in range(6)]))[
        :, None
    ]
    with torch.no_grad():
        expected = mixture_log_prob(flow, x, generator=torch.Generator().manual_seed(0))
    assert np.allclose(table.log_prob, expected, rtol=1e-5)
    assert np.allclose(table.complexity - table.log_prob, image_bits(x) * math.log(2), atol=0.01)
    # What needs labels says so.
    refused(["reconstruct", "digits", "--data=new"], capsys, "label")


def test_a_model_without_a_reference_takes_other_data(run, capsys):
    for name in ("moons", "digits"):
        config = Path(name) / "model" / "config.json"
        settings = json.loads(config.read_text())
        del settings["metadata"]["scores"]
        config.write_text(json.dumps(settings))
    assert main(["sample", "moons", "-n=80", "--seed=0", "--out=s.csv"]) == 0
    refused(["score", "moons", "--data=s.csv", "--kind=typicality"], capsys, "--reference")
    refused(["score", "digits", "--data=digits", "--kind=typicality"], capsys, "--reference")
    refused(
        ["score", "moons", "--data=s.csv", "--reference=s.csv"], capsys, "leave --reference out"
    )
    for kind in KINDS[1:]:
        scored = ["score", "moons", "--data=s.csv", "--reference=s.csv", "--kind", kind]
        assert main([*scored, "--out=o.csv"]) == 0
    flow = Flow.from_pretrained("moons/model")
    x = torch.from_numpy(pd.read_csv("s.csv").to_numpy(np.float32))
    reference = Reference.measure(flow, [(x, None)])
    ((_, values),) = scores(flow, [(x, None)], "complexity", reference)
    assert np.allclose(pd.read_csv("o.csv").complexity, values, atol=1e-4)


# The benchmark ----------------------------------------------------------------------------------


def test_the_area_under_the_curve_of_two_normal_densities():
    random = np.random.default_rng(0)
    inside, outside = random.normal(1, 1, 4_000), random.normal(0, 1, 4_000)
    area, stderr = outliers.auroc(inside, outside)
    assert area == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=4 * stderr)
    # Hanley and McNeil's formula is near.
    assert 0.003 < stderr < 0.008
    assert outliers.auroc(inside, np.full(10, -np.inf))[0] == 1
    assert outliers.auroc(inside, np.full(10, np.nan))[0] == 1


def test_permuted_rows_keep_their_columns_and_lose_their_rows():
    x = np.arange(60.0).reshape(20, 3)
    y = outliers.permuted(x, np.random.default_rng(0), 1_000)
    assert len(y) == 1_000
    for part in np.split(y, 50):
        assert np.array_equal(np.sort(part, 0), x)
    assert not np.array_equal(y[:20], y[20:40])
    assert not np.array_equal(y[:20, 0] + 1, y[:20, 1])


def test_strangers_are_images():
    x = images(1, 28, 6)
    made = image_outliers.strangers(x)
    assert torch.equal(made["rotated by 180°"], x.flip(2, 3))
    assert torch.equal(
        made["inverted"].int() + x.int(), torch.full(x.shape, 255, dtype=torch.int32)
    )
    assert all(y.shape == x.shape and y.dtype == torch.uint8 for y in made.values())
    assert made["one grey"].flatten(1).float().std(1).max() == 0
