"""The quality of samples: figures that get worse with damage, and copies that are found."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import refused
from PIL import Image
from scipy import linalg
from test_latent import image_flow, table_flow

from diffeo.cli import main
from diffeo.data import DataOptions, load_data
from diffeo.evaluation.copies import find_nearest
from diffeo.evaluation.features import RandomFeatures
from diffeo.evaluation.quality import Quality, frechet_distance

N = 600  # images of a set
pytestmark = pytest.mark.usefixtures("one_thread")


def blurred(x, sigma):
    steps = torch.arange(-3.0, 4)
    line = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 7, 7) / line.sum() ** 2
    padded = F.pad(x.float(), (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, kernel, groups=x.shape[1]).round().to(torch.uint8)


def noisy(x, std):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + std * noise).round().clamp(0, 255).to(torch.uint8)


class Judge:
    """Compares images with the first N of a source, as the command does."""

    def __init__(self, source):
        split = load_data(DataOptions(source, rows=None if source == "digits" else 2_000)).train
        self.features = RandomFeatures(tuple(split.pixels.shape[1:]))
        self.reference = self.features.learn(split.all(N).split(256))
        self.others = split.batch(torch.arange(N, 2 * N))
        self.labels = None if split.labels is None else split.labels[N : 2 * N]

    def __call__(self, x):
        return Quality.measure(self.features(x.split(256)), self.reference)


@pytest.fixture(scope="module", params=["digits", "shapes"])
def judge(request):
    return Judge(request.param)


# The Fréchet distance -----------------------------------------------------------------------------


def test_the_distance_of_normal_samples_is_that_of_their_moments():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)), 2 * rng.normal(size=(400, 6)) + 1
    first, second = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(*map(torch.from_numpy, (a, b))) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_fewer_events_than_features_is_finite():
    a = torch.randn(5, 40, dtype=torch.float64)
    assert 0 < frechet_distance(a, a + 1) == pytest.approx(40)


def test_halves_of_the_same_images_are_near(judge):
    """A tenth of what the mildest visible damage costs."""
    floor = judge(judge.others)
    assert floor.frechet < judge(blurred(judge.others, 0.7)).frechet / 5
    assert floor.frechet < judge(noisy(judge.others, 40)).frechet / 3
    assert min(floor.precision, floor.recall, floor.coverage) > 0.85
    assert floor.density == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("damage", "amounts"), [(noisy, (10, 20, 40, 80)), (blurred, (0.4, 0.5, 0.7, 1, 2))]
)
def test_damage_is_the_worse_the_more_there_is_of_it(judge, damage, amounts):
    scores = [judge(judge.others), *(judge(damage(judge.others, amount)) for amount in amounts)]
    distances = [score.frechet for score in scores]
    assert distances == sorted(distances)
    assert scores[-1].precision < scores[0].precision - 0.3
    assert scores[-1].coverage < scores[0].coverage - 0.3


def test_classes_that_are_missing_cost_recall_and_no_precision():
    judge = Judge("digits")
    scores = []
    for first in (0, 1, 3, 6, 9):
        rows = torch.nonzero(judge.labels >= first)[:, 0]
        scores.append(judge(judge.others[rows.repeat(N)[:N]]))
    for name in ("recall", "coverage"):
        shares = [getattr(score, name) for score in scores]
        assert shares == sorted(shares, reverse=True) and shares[-1] < 0.2
    assert [score.frechet for score in scores] == sorted(score.frechet for score in scores)
    assert min(score.precision for score in scores) > scores[0].precision - 0.05


def test_features_are_the_same_for_the_same_seed_and_whatever_the_batches():
    x = torch.randint(256, (40, 3, 9, 6), dtype=torch.uint8)
    before = torch.random.get_rng_state()
    first, second, other = (RandomFeatures((3, 9, 6), seed=seed) for seed in (0, 0, 1))
    reference = first.learn([x])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.allclose(second.learn(x.split(7)), reference)
    assert torch.allclose(first(x.split(3)), reference)
    assert not torch.allclose(other.learn([x]), reference)
    assert torch.allclose(reference.mean(0), torch.zeros(()).double(), atol=1e-6)
    assert torch.allclose(reference.std(0), torch.ones(()).double(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (4, 28, 28), (3, 64, 64)])
def test_features_of_images_of_any_size(shape):
    x = torch.randint(256, (10, *shape), dtype=torch.uint8)
    assert RandomFeatures(shape).learn([x]).isfinite().all()


# Precision, recall, density and coverage ----------------------------------------------------------


def test_shares_by_their_definitions():
    """One by one, as the papers write them."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 3, generator=generator).double()
    b = 1.5 * torch.randn(60, 3, generator=generator).double() + 0.5
    k = 3

    def radius(x, i):
        return sorted(math.dist(x[i], y) for j, y in enumerate(x) if j != i)[k - 1]

    own, other = ([radius(x.tolist(), i) for i in range(60)] for x in (a, b))
    inside = [[math.dist(x, y) <= r for y, r in zip(b, other, strict=True)] for x in a]
    around = [[math.dist(x, y) <= r for x, r in zip(a, own, strict=True)] for y in b]
    score = Quality.measure(a, b, k)
    assert score.precision == pytest.approx(np.mean(np.any(inside, axis=1)))
    assert score.recall == pytest.approx(np.mean(np.any(around, axis=1)))
    assert score.density == pytest.approx(np.sum(inside) / (k * 60))
    assert score.coverage == pytest.approx(np.mean(np.any(inside, axis=0)))


def test_sets_that_cannot_be_compared_are_refused():
    a = torch.randn(20, 3)
    for other in (a[:10], a[:, :2]):
        with pytest.raises(ValueError, match="as many of both"):
            Quality.measure(a, other)
    with pytest.raises(ValueError, match="more than 5"):
        Quality.measure(a[:5], a[:5])
    with pytest.raises(ValueError, match="k is 0"):
        Quality.measure(a, a, 0)
    with pytest.raises(ValueError, match="the same features"):
        frechet_distance(a, a[:, :2])


# Copies -------------------------------------------------------------------------------------------


def test_copies_are_found_and_the_nearest_are_those_of_a_search():
    training = torch.randint(256, (300, 3, 6, 4), dtype=torch.uint8)
    images = torch.randint(256, (40, 3, 6, 4), dtype=torch.uint8)
    images[7], images[9] = training[250], training[3]
    near = find_nearest(images, training.split(64), 3)
    apart = images.double().flatten(1)[:, None] - training.double().flatten(1)
    distances, places = apart.square().mean(2).sqrt().topk(3, largest=False)
    assert torch.equal(near.places, places)
    assert torch.allclose(near.distances, distances)
    assert near.copies == 2
    assert set(near.closest(2).tolist()) == {7, 9}
    assert near.places[7, 0] == 250


def test_copies_are_nearer_than_others_and_others_alike():
    digits = load_data(DataOptions("digits")).train
    training, held_out = digits.all(600).split(100), digits.batch(torch.arange(600, 1000))
    usual = find_nearest(held_out, training)
    others = find_nearest(digits.batch(torch.arange(1000, 1400)), training)
    assert others.nearer_than(usual) == pytest.approx(0.5, abs=0.07)
    assert usual.nearer_than(others) == pytest.approx(1 - others.nearer_than(usual))
    copies = find_nearest(noisy(digits.all(400), 1), training)
    assert copies.nearer_than(usual) == pytest.approx(1, abs=0.01)
    # An exact copy is nearest of all, and equal distances count half.
    exact = find_nearest(digits.all(10), training)
    assert exact.copies == 10 and exact.nearer_than(exact) == 0.5


def test_nearest_images_need_images_of_one_size_and_enough_of_them():
    x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="one size"):
        find_nearest(x, [x[..., :4]])
    with pytest.raises(ValueError, match="no more than 4"):
        find_nearest(x, [x], 5)


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path):
    """A run of digits that is not trained, and models without one."""
    settings = "data:\n  source: digits\n  rows: 400\n  splits: [0.6, 0.1, 0.3]\n"
    image_flow().save_pretrained("digits/model")
    (tmp_path / "digits/config.yaml").write_text(settings)
    image_flow().save_pretrained("bare")
    table_flow().save_pretrained("table")
    return tmp_path


def test_eval_judges_samples_and_held_out_images(digits, capsys):
    assert main(["eval", "digits", "--quality=80", "--temperature=0.7"]) == 0
    out = capsys.readouterr().out
    for words in ("80 samples", "Fréchet", "not comparable with published FID", "precision"):
        assert words in out
    results = json.loads((digits / "quality.json").read_text())
    assert results["images"] == 80 and results["temperature"] == 0.7
    samples, held_out = results["samples"], results["held_out"]
    assert held_out["frechet"] < samples["frechet"]
    assert samples["precision"] < held_out["precision"] <= 1
    assert samples["copies"] == held_out["copies"] == 0
    assert Image.open("quality.png").width > 300
    # The same figures again.
    first = (digits / "quality.json").read_bytes()
    assert main(["eval", "digits", "--quality=80", "--temperature=0.7"]) == 0
    assert (digits / "quality.json").read_bytes() == first


def test_eval_names_copies_and_what_stands_for_training_images(digits, capsys, monkeypatch):
    from diffeo.run import Run

    def copied(run, n, **options):
        return run.data().train.all(n)

    assert main(["eval", "bare", "--data=digits", "--quality=9", "--out=a/b.json"]) == 0
    out = capsys.readouterr().out
    assert "every second image of digits stands for them" in out
    assert (digits / "a/b.png").is_file() and (digits / "a/b.json").is_file()
    monkeypatch.setattr(Run, "sample", copied)
    assert main(["eval", "digits", "--quality=1000"]) == 0
    out = capsys.readouterr().out
    assert "There are 120 images" in out
    assert "120 of 120 samples are exact copies of training images" in out


def test_eval_refuses_what_it_cannot_judge(digits, capsys):
    refused(["eval", "table", "--quality=100"], capsys, "table", "--quality is for images")
    refused(["eval", "digits", "--quality=0"], capsys, "--quality", "from 1 on")
    refused(["eval", "digits", "--quality=5"], capsys, "more than 5")
    refused(["eval", "digits", "--quality=50", "--out=q.csv"], capsys, "q.csv", ".json")
