"""A flow is a density: it integrates to 1, agrees with closed forms, and its samples follow it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch
from constructors import perturb
from hypothesis import given
from hypothesis import strategies as st
from test_conformance import autodiff_log_det, refusal
from torch import Tensor, nn

from diffeo import NICE, Flow, RealNVP
from diffeo.bases import Logistic, Normal
from diffeo.bijections import (
    Additive,
    Affine,
    Chain,
    Coupling,
    Dequantizer,
    FeatureSplit,
    Inverse,
    Permutation,
    Scale,
    Standardize,
)
from diffeo.bijections.dequantization import UniformDequantize
from diffeo.context import Category, ContextSpec, Number
from diffeo.networks import MLP
from diffeo.pretrained import storage


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, features: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, features, generator=source(seed))


def model(kind=RealNVP, features: int = 2, by: float = 0.3, **options) -> Flow:
    """Fitted to data off the origin, and moved away from the identity."""
    made = kind(features, **{"layers": 4, "hidden": (16,)} | options)
    width = made.context_features
    made.initialize(normal(200, features) * 2 + 3, normal(200, width, 1) if width else None)
    return perturb(made, by).double().eval()


def conditional(**options) -> Flow:
    return model(context=2, **options)


class ByHand(nn.Module):
    """A conditioner whose function is known."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.cat((x.tanh(), x.square()), dim=1)


class Halve(Dequantizer):
    """Changes the volume, so that its part of the density can be seen."""

    def forward(self, x):
        return x / 2, x.new_full((len(x),), -x.shape[1] * math.log(2))

    def noisy(self, x, generator=None):
        return self(x)

    def inverse(self, y):
        return y * 2


# Density


@pytest.mark.parametrize("base", [Normal(), Logistic()])
def test_log_prob_of_an_affine_flow_is_scipys(base):
    link = Scale(3)
    standardize = Standardize(3)
    standardize.initialize(normal(50, 3) * 3 - 1)
    flow = Flow(Chain(standardize, perturb(link)), 3, base=base).double()
    x = normal(20, 3).double() * 4 - 1
    scale = (standardize.std / link.log_scale.exp()).detach()
    if isinstance(base, Normal):
        law = scipy.stats.multivariate_normal(standardize.mean, scale.square().diag())
        truth = law.logpdf(x)
    else:
        truth = scipy.stats.logistic(standardize.mean, scale).logpdf(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x).detach(), torch.as_tensor(truth))


def test_fitted_standardization_is_that_of_the_data():
    link, x = Standardize(2), normal(7) * torch.tensor([2.0, 0.1]) + 1e3
    y = link.initialize(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-2, rtol=0)
    torch.testing.assert_close(link.std, torch.from_numpy(x.double().numpy().std(0)).float())
    torch.testing.assert_close(link.mean, x.double().mean(0).float())


def test_standardization_is_fitted_once_and_only_when_asked():
    link, x = Standardize(2), normal(9) * 3
    link.eval()(x)
    link.train()(x)
    link.inverse(x)
    assert not link.initialized
    flow = NICE(2, hidden=(4,), context=1).eval()
    assert flow.initialize(x, x[:, :1]) is flow
    assert not flow.training
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    assert state["bijection.links.0.initialized"]
    assert state["context_encoder.initialized"]
    flow.initialize(x * 5, x[:, :1] * 5)
    assert all(torch.equal(state[name], value) for name, value in flow.state_dict().items())


def test_nice_without_networks_is_a_product_density():
    flow = NICE(3, hidden=(4,)).initialize(normal(100, 3) + 5)
    with torch.no_grad():
        flow.bijection[-1].log_scale.copy_(torch.tensor([0.5, -0.5, 1.0]))
    x, link = normal(10, 3) + 5, flow.bijection[0]
    scale = link.std / torch.tensor([0.5, -0.5, 1.0]).exp()
    truth = scipy.stats.logistic(link.mean, scale).logpdf(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x).detach().double(), torch.as_tensor(truth))


@pytest.mark.parametrize("context", [None, 0.0, 1.5])
@pytest.mark.parametrize(
    ("kind", "base"), [(RealNVP, Normal()), (NICE, Normal()), (NICE, Logistic())]
)
@torch.no_grad()
def test_density_integrates_to_one(kind, base, context):
    flow = model(kind, base=base, by=0.05, context=0 if context is None else 1)
    row = None if context is None else torch.tensor([[context]]).double()
    x = flow.sample(20_000, row, generator=source())
    low, high = x.min(0).values, x.max(0).values
    low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
    sides = [torch.linspace(low[i], high[i], 600, dtype=torch.float64) for i in (0, 1)]
    grid = torch.cartesian_prod(*sides)
    density = flow.log_prob(grid, None if row is None else row.expand(len(grid), -1)).exp()
    mass = density.sum() * (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])
    assert mass == pytest.approx(1, abs=2e-3)


def test_the_dequantizer_has_its_part_in_the_density():
    plain, x = Flow(Scale(2), 2), normal(5)
    dequantize = Flow(Scale(2), 2, dequantizer=Halve())
    torch.testing.assert_close(dequantize.log_prob(x), plain.log_prob(x / 2) - 2 * math.log(2))
    torch.testing.assert_close(dequantize.encode(x), x / 2)
    torch.testing.assert_close(dequantize.decode(x), x * 2)


# Samples


@torch.no_grad()
def test_samples_follow_a_known_law():
    """z2 = x2 * exp(s(x1)) + x1^2, so x1 is normal and x2 normal given x1."""
    flow = Flow(Coupling(FeatureSplit(2), Affine(1.0), ByHand()), 2)
    flow.register_buffer("like", torch.zeros(()))
    x = flow.sample(20_000, generator=source()).double().numpy()
    rng = torch.Generator().manual_seed(99)
    x1, z2 = torch.randn(2, 20_000, generator=rng, dtype=torch.float64)
    deviation = (-x1.tanh().tanh()).exp()
    truth = torch.stack((x1, (z2 - x1**2) * deviation), 1).numpy()
    for direction in ((1, 0), (0, 1), (1, 1), (1, -0.5)):
        assert scipy.stats.ks_2samp(x @ direction, truth @ direction).pvalue > 1e-3
    assert scipy.stats.kstest(x[:, 0], "norm").pvalue > 1e-3
    # And the density is that law's.
    point = torch.from_numpy(truth[:50])
    x1, x2 = point.T
    deviation = (-x1.tanh().tanh()).exp()
    truth = scipy.stats.norm.logpdf(x1) + scipy.stats.norm.logpdf(
        x2, -(x1**2) * deviation, deviation
    )
    torch.testing.assert_close(
        flow.double().log_prob(point), torch.as_tensor(truth), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("base", [Normal(), Logistic()])
@torch.no_grad()
def test_encoded_samples_follow_the_base(base):
    for flow in (model(base=base), model(NICE, base=base)):
        z = flow.encode(flow.sample(5_000, generator=source())).numpy()
        law = "norm" if isinstance(base, Normal) else "logistic"
        assert all(scipy.stats.kstest(column, law).pvalue > 1e-3 for column in z.T)
        assert abs(scipy.stats.spearmanr(z[:, 0], z[:, 1]).statistic) < 0.05


@pytest.mark.parametrize("base", [Normal(), Logistic()])
@torch.no_grad()
def test_temperature(base):
    flow = model(base=base)
    cold = flow.sample(3, temperature=0.0)
    torch.testing.assert_close(cold, flow.decode(torch.zeros(3, 2).double()))
    one = flow.encode(flow.sample(50, generator=source()))
    half = flow.encode(flow.sample(50, temperature=0.5, generator=source()))
    torch.testing.assert_close(half, one / 2)


@torch.no_grad()
def test_samples_repeat_and_leave_the_global_state_alone():
    flow = model()
    state = torch.get_rng_state()
    assert torch.equal(flow.sample(5, generator=source()), flow.sample(5, generator=source()))
    assert not torch.equal(flow.sample(5, generator=source()), flow.sample(5, generator=source(1)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    one, two = flow.sample(5), flow.sample(5)
    assert not torch.equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(flow.sample(5), one)


@torch.no_grad()
def test_number_and_context_of_samples():
    assert model().sample(0).shape == (0, 2)
    assert model().float().sample(1).dtype == torch.float32
    flow, row = conditional(), normal(1).double()
    assert flow.sample(0, row).shape == (0, 2)
    one = flow.sample(4, row, generator=source())
    assert torch.equal(one, flow.sample(4, row.expand(4, -1), generator=source()))
    assert not torch.isclose(one, flow.sample(4, row + 1, generator=source())).any()
    mixed = flow.sample(4, normal(4).double(), generator=source())
    assert not torch.isclose(one[1:], mixed[1:]).any()


def test_odd_samples_are_refused():
    for options in ({"n": -1}, {"n": 2, "temperature": -0.1}, {"n": 2, "temperature": math.nan}):
        assert "from 0 on" in refusal(model().sample, **options)


def test_a_context_of_three_axes_is_refused_by_sample():
    assert "context" in refusal(lambda: conditional().sample(3, torch.zeros(1, 1, 2).double()))


@torch.no_grad()
def test_latents_split_into_levels():
    flow, z = model(), normal(3).double()
    assert flow.latent_shapes == [(2,)]
    assert len(flow.split_latents(z)) == 1
    assert torch.equal(flow.split_latents(z)[0], z)


# Grids


def test_decimal_grids_come_back_to_the_digit():
    """A step of 0.1 is no binary fraction, yet 182.6 must not come back as 182.59999."""
    x = torch.tensor([[i / 10, i / 100] for i in range(1500, 2000)])
    for offset in (0, 7, 333):
        dequantize = UniformDequantize([0.1, 0.01]).train()
        dequantize(x[offset:])
        y, _ = dequantize.noisy(x, torch.Generator().manual_seed(0))
        assert torch.equal(dequantize.inverse(y), x)


GRID = [0.5, 0.0]


def on_grid(n: int = 200) -> Tensor:
    x = normal(n).double() * 2
    x[:, 0] = (x[:, 0] / 0.5).round() * 0.5 + 0.25
    return x


def gridded(steps=GRID, by: float = 0.15) -> Flow:
    flow = RealNVP(2, layers=3, hidden=(16,), steps=steps).double()
    return perturb(flow.initialize(on_grid()), by).eval()


@torch.no_grad()
def test_grid_values_come_back_exactly():
    flow, x = gridded(), on_grid()
    assert torch.equal(flow.decode(flow.encode(x))[:, 0], x[:, 0])
    torch.testing.assert_close(flow.decode(flow.encode(x)), x)
    cells = (flow.sample(500)[:, 0] - 0.25) / 0.5
    assert torch.equal(cells, cells.round())
    assert len(flow.sample(500)[:, 1].unique()) == 500


@torch.no_grad()
def test_noise_fills_its_cell():
    flow, x = gridded(), on_grid(5_000)
    noisy, log_det = flow.dequantizer.noisy(x, source())
    noise = (noisy - x)[:, 0]
    assert scipy.stats.kstest(noise, "uniform", args=(-0.25, 0.5)).pvalue > 1e-3
    assert torch.equal(noisy[:, 1], x[:, 1])
    assert not log_det.any()
    assert torch.equal(flow.dequantizer.inverse(noisy), x)
    state = torch.get_rng_state()
    one, two = (flow.log_prob(x, generator=source()) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(flow.log_prob(x, generator=source(1)), one)
    # It is the density at the noisy point: that of the same flow without its door.
    dequantize, flow.dequantizer = flow.dequantizer, None
    torch.testing.assert_close(flow.log_prob(noisy), one)
    flow.dequantizer = dequantize


@torch.no_grad()
def test_probabilities_of_the_grid_sum_to_one():
    flow = gridded([0.5, 0.5], by=0.05)
    sides = [flow.dequantizer.offset[i] + 0.5 * torch.arange(-40, 41).double() for i in (0, 1)]
    grid = torch.cartesian_prod(*sides)
    draws = [flow.log_prob(grid, generator=source(seed)).exp() * 0.25 for seed in range(50)]
    assert torch.stack(draws).mean(0).sum() == pytest.approx(1, abs=0.01)


def test_the_grid_is_saved_with_the_model():
    flow = gridded()
    flow.save_pretrained("model")
    loaded = Flow.from_pretrained("model").train()
    loaded.encode(on_grid() + 0.1)
    assert torch.equal(loaded.dequantizer.offset, flow.dequantizer.offset)
    assert refusal(lambda: RealNVP(2, steps=[-1.0, 0.0]))


# Extremes


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=4),
    st.floats(0.125, 10, width=32),
)
def test_the_scale_of_an_affine_map_is_bounded(raw, bound):
    parameters = torch.tensor([raw + [0.0] * len(raw)])
    x = torch.ones(1, len(raw))
    for call in (Affine(bound).forward, Affine(bound).inverse):
        y, log_det = call(x, parameters)
        assert log_det.abs().item() <= len(raw) * bound * (1 + 1e-6)
        assert (y.log().abs() <= bound * (1 + 1e-5)).all()


@torch.no_grad()
def test_samples_of_wild_weights_are_finite():
    flow = RealNVP(2, layers=8).initialize(normal(100))
    for link in list(flow.bijection)[1:]:
        perturb(link.conditioner.layers[-1], 10.0)
    x = flow.sample(100_000, generator=source())
    assert x.isfinite().all()


@given(
    st.integers(2, 7),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([NICE, RealNVP]),
    st.sampled_from([0, 2]),
)
def test_shapes_of_all_sizes(features, batch, layers, kind, width):
    flow = model(kind, features, layers=layers, context=width)
    x, context = normal(batch, features).double(), normal(batch, width).double() if width else None
    torch.testing.assert_close(flow.decode(flow.encode(x, context), context), x)
    _, log_det = flow.bijection(x, None if context is None else flow.context_encoder(context)[0])
    truth = autodiff_log_det(lambda x: flow.encode(x, context), x)
    torch.testing.assert_close(log_det, truth, rtol=1e-10, atol=1e-10)


# Storage


def saved(**options) -> tuple[Flow, Path]:
    flow = model(**options).float()
    flow.save_pretrained("model")
    return flow, Path("model")


def same(one: Flow, other: Flow) -> bool:
    return torch.equal(one.log_prob(normal(5)), other.log_prob(normal(5)))


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "weights cut short": (truncate, "damaged or incomplete"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
    "weights missing": (
        lambda f: (f / "model.safetensors").unlink(),
        "model.safetensors is missing",
    ),
    "config missing": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config cut short": (lambda f: (f / "config.json").write_text('{"class": '), "damaged"),
    "config no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "config of other kind": (lambda f: (f / "config.json").write_text("[1]"), "damaged"),
    "no class": (lambda f: (f / "config.json").write_text('{"arguments": {}}'), "damaged"),
    "foreign class": (lambda f: edit(f, **{"class": "os.path.Theirs"}), "none of diffeo's"),
    "other shape": (lambda f: edit(f, arguments={"features": 3}), "does not fit"),
    "other depth": (lambda f: edit(f, arguments={"features": 2, "layers": 2}), "does not fit"),
    "unknown argument": (lambda f: edit(f, arguments={"features": 2, "colour": 1}), "does not fit"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_models_are_refused_and_left_as_they_were(damage, words):
    _, folder = saved()
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=words) as caught:
        Flow.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_of_another_class_is_refused():
    _, folder = saved()
    assert type(RealNVP.from_pretrained(folder)) is RealNVP
    assert "which is no NICE" in refusal(lambda: NICE.from_pretrained(folder))
    assert "neither a folder nor a hub name" in refusal(lambda: NICE.from_pretrained("no/such/x"))


def test_a_foreign_class_needs_an_import_or_trust(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from diffeo import RealNVP\nclass Theirs(RealNVP):\n    pass\n"
    for name in ("foreign_one", "foreign_two"):
        (tmp_path / f"{name}.py").write_text(text)
    flow, folder = saved()
    edit(folder, **{"class": "foreign_one.Theirs"})
    assert "trust=True" in refusal(lambda: Flow.from_pretrained(folder))
    assert "foreign_one" not in sys.modules
    loaded = Flow.from_pretrained(folder, trust=True)
    assert type(loaded).__name__ == "Theirs"
    assert same(loaded, flow)
    assert same(Flow.from_pretrained(folder), flow)
    loaded.save_pretrained("again")
    assert json.loads(Path("again/config.json").read_text())["class"] == "foreign_one.Theirs"
    edit(folder, **{"class": "foreign_three.Theirs"})
    with pytest.raises(ValueError, match="cannot be imported"):
        Flow.from_pretrained(folder, trust=True)


def test_what_cannot_be_rebuilt_is_not_saved():
    flow = RealNVP(2)
    flow.bijection[1].conditioner.layers[1] = nn.Tanh()
    assert "layers.1 was changed" in refusal(lambda: flow.save_pretrained("model"))
    flow = RealNVP(2, network=lambda inputs, outputs, hidden, context: nn.Linear(inputs, outputs))
    with pytest.raises(ValueError, match="has no form in a model's configuration"):
        flow.save_pretrained("model")
    flow = RealNVP(2)
    flow.metadata = {"scale": torch.ones(1)}
    with pytest.raises(ValueError, match="use numbers, strings, lists of them"):
        flow.save_pretrained("model")
    assert not list(Path("model").glob("*"))


def test_a_saved_model_holds_no_pickle():
    _, folder = saved()
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "diffeo.RealNVP"
    assert config["arguments"] == {
        "features": 2, "layers": 4, "hidden": [16],
        "univariate": {"class": "diffeo.Affine", "arguments": {"bound": 3.0}},
        "network": {"partial": "diffeo.MLP", "arguments": {}},
        "base": None, "context": None, "steps": None,
    }  # fmt: skip
    # 8 bytes with the length of a JSON header, and then that header: safetensors' own form.
    assert (folder / "model.safetensors").read_bytes()[8:9] == b"{"


def failing(*_: object, **__: object) -> None:
    raise OSError("No space left on device")


def test_a_failed_save_leaves_the_old_model(monkeypatch):
    def halfway(_, path):
        Path(path).write_bytes(b"half")
        failing()

    flow, folder = saved()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", halfway)
        with pytest.raises(OSError, match="No space"):
            model(layers=2).save_pretrained(folder)
    assert same(Flow.from_pretrained(folder), flow)
    model(layers=2).save_pretrained(folder)
    assert len(Flow.from_pretrained(folder).bijection) == 3
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_save_that_fails_at_its_config_leaves_the_old_model(monkeypatch):
    flow, folder = saved()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", failing)
        with pytest.raises(OSError, match="No space"):
            model(layers=2).save_pretrained(folder)
    assert same(Flow.from_pretrained(folder), flow)


def test_a_bare_flow_is_saved_with_all_its_parts():
    link = Coupling(FeatureSplit(3, "second"), Additive(), MLP(2, 1, (4,)))
    flow = Flow(Chain(Standardize(3), Inverse(link), memory="constant"), 3, base=Logistic())
    flow = perturb(flow.initialize(normal(50, 3) * 2)).eval()
    flow.save_pretrained("model")
    loaded = Flow.from_pretrained("model")
    assert isinstance(loaded.base, Logistic)
    assert loaded.bijection.memory == "constant"
    x = normal(5, 3)
    assert torch.equal(loaded.log_prob(x), flow.log_prob(x))


OLD = {
    "class": "diffeo.RealNVP",
    "arguments": {
        "features": 2, "layers": 4, "hidden": [16], "bound": 2.0, "base": "logistic",
        "context_features": 3, "steps": None,
    },
    "metadata": {"columns": ["a", "b"], "context_columns": ["age", "kind=x", "kind=y"]},
}  # fmt: skip


def test_a_model_of_the_first_release_loads():
    new = RealNVP(2, layers=4, hidden=(16,), univariate=Affine(2.0), base=Logistic(), context=3)
    perturb(new).save_pretrained("model")
    Path("model/config.json").write_text(json.dumps(OLD))
    old = Flow.from_pretrained("model")
    assert old.context == ContextSpec((Number("age"), Category("kind", ("x", "y"))))
    assert old.metadata == {"columns": ["a", "b"]}
    x, context = normal(4), normal(4, 3)
    assert torch.equal(old.log_prob(x, context), new.eval().log_prob(x, context))


@pytest.mark.parametrize("column", ["temp=C", "a=b=c", "plain"])
def test_one_column_is_a_number_whatever_its_name(column):
    """In 0.1.0 a column called temp=C made a density of one class, which answered without it."""
    old = OLD["arguments"] | {"context_features": 1}
    RealNVP(2, layers=4, hidden=(16,), base=Logistic(), context=1).save_pretrained("model")
    metadata = {"context_columns": [column]}
    config = {"class": "diffeo.RealNVP", "arguments": old, "metadata": metadata}
    Path("model/config.json").write_text(json.dumps(config))
    flow = Flow.from_pretrained("model")
    assert flow.context == ContextSpec((Number(column),))
    assert flow.context.category is None
    assert "needs a context" in refusal(lambda: flow.log_prob(normal(3)))


def test_before_any_data_a_flow_is_its_base_in_both_directions():
    for flow in (RealNVP(2), NICE(2, base=Normal()), RealNVP(3).train()):
        x = flow.sample(50, generator=source())
        truth = flow.base.log_prob(x)
        torch.testing.assert_close(flow.log_prob(x), truth)
        # Reverse KL: gradients through samples and their density.
        x = flow.decode(flow.noise(8))
        flow.log_prob(x).sum().backward()


def test_a_flow_without_a_single_weight_is_its_base_density():
    flow = Flow(Permutation([1, 0]), 2)
    x = flow.sample(5)
    torch.testing.assert_close(
        flow.log_prob(x), torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    )
