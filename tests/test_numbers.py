"""Numbers that are not finite: found, named by their layer, and never kept."""

import copy
import functools
import math

import pytest
import torch
from commands import refused
from constructors import ENTRIES, MODELS
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from diffeo import Glow, ImageRealNVP, RealNVP
from diffeo.bases import Logistic
from diffeo.bijections import Bijection, Chain
from diffeo.bijections.chain import FactorOut
from diffeo.bijections.convolution import InvertibleConv1x1, NormalizedConv1x1
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.elementwise import Scale
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.reshape import Flatten
from diffeo.bijections.splits import FeatureSplit
from diffeo.bijections.univariate import Affine
from diffeo.cli.parser import parse
from diffeo.data import DataOptions, Split
from diffeo.flow import Flow
from diffeo.networks.mlp import MLP
from diffeo.networks.resnet import ConvNet
from diffeo.run import Run, train
from diffeo.training.anomaly import Search, find_fault
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.modules import NotFiniteError

QUIET = Console(quiet=True)
QUICK = ["--trainer.max_epochs=2", "--trainer.batch_size=100", "--trainer.figure_every=100"]


def options(**changes):
    settings = {"max_epochs": 2, "batch_size": 100, "figure_every": 100}
    return TrainerOptions(**(settings | changes))


# Layers broken on purpose -------------------------------------------------------------------------


class Broken(Bijection):
    """The identity, but for what is broken in it."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, context=None):
        log_det = self.weight * x.new_zeros(len(x))
        if self.what == "y":
            x = x.log() if len(x) > 1 else x
        if self.what == "log_det":
            log_det = log_det + math.inf
        if self.what == "gradient":
            # Finite going forward; going back, 0 * inf.
            x = x + (x - x.detach()).abs().sqrt()
        if self.what == "weight":
            x = x + (self.weight - 1).abs().sqrt()
        return x * self.weight, log_det

    def inverse(self, y, context=None):
        log_det = y.new_zeros(len(y))
        return (y * math.nan if self.what == "inverse" else y), log_det


class BrokenAffine(Affine):
    """Finite going forward, and not going back."""

    def forward(self, x, parameters):
        return super().forward(x + (x - x.detach()).abs().sqrt(), parameters)


class BrokenNet(MLP):
    """Likewise, in the gradient of one weight."""

    def forward(self, x, context=None):
        weight = self.layers[2].weight
        return super().forward(x, context) + (weight - weight.detach()).abs().sqrt().sum()


class LoudNet(MLP):
    """Gives infinity."""

    def forward(self, x, context=None):
        return super().forward(x, context) + math.inf


def coupling(univariate=None, net=MLP):
    torch.manual_seed(1)
    made = net(2, 4, (8, 8))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return Coupling(FeatureSplit(4), univariate or Affine(), made)


LAYERS = {
    "y": (lambda: Broken("y"), "{} (Broken) gave numbers that are not finite"),
    "log_det": (lambda: Broken("log_det"), "{} (Broken) gave numbers that are not finite"),
    "gradient": (lambda: Broken("gradient"), "gradient is not finite behind {} (Broken)"),
    "weight": (lambda: Broken("weight"), "gradient of {}.weight (Broken) is not finite"),
    "univariate": (
        lambda: coupling(BrokenAffine()),
        "gradient is not finite behind {} (Coupling)",
    ),
    "net": (
        lambda: coupling(net=BrokenNet),
        "gradient of {}.conditioner.layers.2.weight (Linear) is not finite",
    ),
    "loud net": (lambda: coupling(net=LoudNet), "{}.conditioner (LoudNet) gave numbers"),
}


@pytest.mark.parametrize("memory", ["stored", "constant"])
@pytest.mark.parametrize("place", [0, 3, 20, 21])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_first_broken_layer_is_named(kind, place, memory):
    make, message = LAYERS[kind]
    links = [coupling() for _ in range(22)]
    links[place] = make()
    flow = Flow(Chain(*links, memory=memory), 4).train()
    x = torch.randn(20, 4)
    if place == 0 and kind in {"gradient", "univariate"}:
        pytest.skip("nothing goes back through the first link, whose input is data")
    fault = find_fault(flow, x)
    assert message.format(f"bijection.links.{place}") in fault.what
    assert "--optimizer.lr" in fault.remedy


@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_a_sound_flow_has_no_fault_and_the_same_gradients(memory):
    flow = Flow(Chain(*[coupling() for _ in range(6)], memory=memory), 4).double().train()
    followed, x = copy.deepcopy(flow), torch.randn(20, 4, dtype=torch.float64)
    assert Search(followed).run(x, None, None, 1.0) is None
    flow.log_prob(x).mean().neg().backward()
    for a, b in zip(flow.parameters(), followed.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_what_constant_memory_alone_spoils_is_named():
    links = [coupling() for _ in range(6)]
    links[2] = Broken("inverse")
    flow = Flow(Chain(*links, memory="constant"), 4).train()
    flow.log_prob(torch.randn(20, 4)).mean().backward()
    assert not all(weight.grad.isfinite().all() for weight in flow.parameters())
    fault = find_fault(flow, torch.randn(20, 4))
    assert "constant memory" in fault.what
    assert "--trainer.memory stored" in fault.remedy


def test_of_two_broken_layers_the_second_spoils_the_gradient_first():
    links = [coupling() for _ in range(6)]
    links[1], links[4] = coupling(BrokenAffine()), coupling(net=BrokenNet)
    flow = Flow(Chain(*links), 4).train()
    assert "links.4.conditioner.layers.2.weight" in find_fault(flow, torch.randn(20, 4)).what


def test_layers_inside_of_layers_are_named():
    torch.manual_seed(0)
    net = ConvNet(1, 2, 4)
    inner = Chain(Coupling(FeatureSplit(2), Affine(), net), Broken("y"), Flatten(2, 2, 2))
    first = Coupling(FeatureSplit(4), Affine(), ConvNet(2, 4, 4))
    flow = Flow(Chain(first, FactorOut((4, 2, 2), inner)), (4, 2, 2)).train()
    fault = find_fault(flow, torch.randn(5, 4, 2, 2))
    assert "bijection.links.1.inner.links.1 (Broken)" in fault.what


def test_a_weight_that_is_not_finite_is_named():
    flow = RealNVP(2, layers=3, hidden=(8,)).initialize(torch.randn(50, 2)).train()
    with torch.no_grad():
        flow.bijection[2].conditioner.layers[0].weight[0, 0] = math.nan
    assert find_fault(flow, torch.randn(50, 2)).what == (
        "bijection.links.2.conditioner (MLP) gave numbers that are not finite, as its "
        "layers.0.weight"
    )


def test_a_likelihood_that_overflows_names_the_link_that_grew():
    flow = Flow(Chain(Scale(2), Scale(2), Scale(2)), 2).train()
    with torch.no_grad():
        flow.bijection[1].log_scale += 48  # e^48 is 7e20, whose square is no float32
    fault = find_fault(flow, torch.ones(4, 2))
    assert "likelihood is not, after bijection.links.1 (Scale) gave numbers up to 7.0" in fault.what


def test_a_gradient_whose_length_overflows_is_named():
    flow = Flow(Chain(Scale(2), Scale(2)), 2, base=Logistic()).train()
    with torch.no_grad():
        flow.bijection[0].log_scale += 60
    fault = find_fault(flow, torch.ones(4, 2))
    assert "length of the gradient is not finite" in fault.what
    assert "log_scale (Scale)" in fault.what


def test_data_that_are_not_finite_are_named_first():
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(torch.randn(50, 2)).train()
    fault = find_fault(flow, torch.tensor([[1.0, math.inf], [0.0, 0.0]]))
    assert fault.what.startswith("the data") and "rows out" in fault.remedy


class HalfLoud(ConvNet):
    """Finite but in bfloat16."""

    def forward(self, x, context=None):
        parameters = super().forward(x, context)
        return parameters + math.inf if torch.is_autocast_enabled("cpu") else parameters


@pytest.mark.parametrize("loud", [HalfLoud, ConvNet])
def test_networks_that_overflow_in_bfloat16_alone_are_named(loud):
    link = Coupling(FeatureSplit(4), Affine(), loud(2, 4, 4))
    flow = Flow(Chain(link, Flatten(4, 2, 2)), (4, 2, 2)).set_precision(torch.bfloat16).train()
    fault = find_fault(flow, torch.randn(5, 4, 2, 2))
    if loud is HalfLoud:
        assert "links.0.conditioner (HalfLoud)" in fault.what and "bfloat16" in fault.what
        assert fault.remedy == "take --precision float32"
    else:
        assert "finite everywhere" in fault.what


def test_to_look_for_a_fault_leaves_no_trace():
    flow = ImageRealNVP((1, 4, 4), hidden_channels=4, blocks=1).train()
    flow.set_precision(torch.bfloat16)
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    flow.log_prob(x)
    before, state = copy.deepcopy(flow.state_dict()), torch.get_rng_state()
    find_fault(flow, x, None, torch.Generator().manual_seed(0))
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())
    assert all(weight.grad is None for weight in flow.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# One by one in whole runs -------------------------------------------------------------------------


class Poisoned(RealNVP):
    """A RealNVP whose sixth link is broken at some calls of training, counted from 1."""

    def __init__(self, features, when=(), how="y"):
        super().__init__(features, layers=6, hidden=(8,))
        self.bijection.links[5] = Poison(when, how)


class Poison(Broken):
    def __init__(self, when, how):
        super().__init__(how)
        self.when, self.how, self.calls, self.copied = when, how, 0, False

    def __deepcopy__(self, memo):
        # A copy answers as the original did at its last call.
        made = Poison(self.when, self.how)
        made.calls, made.copied = self.calls, True
        return made

    def forward(self, x, context=None):
        if self.training and not self.copied and torch.is_grad_enabled():
            self.calls += 1
        self.what = self.how if self.calls in self.when else "nothing"
        return super().forward(x, context)


def poisoned(when, how):
    return functools.partial(Poisoned, when=when, how=how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("y", r"bijection.links.5 \(Poison\) gave numbers"),
        ("gradient", r"the gradient is not finite behind bijection.links.5 \(Poison\)"),
    ],
)
def test_a_lost_step_names_its_layer_and_three_stop_the_run(tmp_path, how, message):
    data = DataOptions(rows=500)
    with pytest.warns(UserWarning, match=r"step 2 of epoch 0 .* skipped: .*" + message):
        train(poisoned([3], how), data, tmp_path / "one", trainer=options(), console=QUIET)
    assert all(p.isfinite().all() for p in Run(tmp_path / "one").flow.parameters())
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(
            NotFiniteError, match=r"three steps .* step 6 of epoch 1: .*" + message
        ) as error,
    ):
        train(poisoned([5, 6, 7], how), data, tmp_path / "three", trainer=options(), console=QUIET)
    last = tmp_path / "three" / "checkpoints" / "last.ckpt"
    assert f"the last good checkpoint is {last}: take a smaller --optimizer.lr." in str(error.value)
    stored = torch.load(last, weights_only=True)["flow"]
    assert all(weight.isfinite().all() for weight in stored.values())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("y", r"step 2 of epoch 0: bijection.links.5 \(Poison\) gave numbers"),
        ("gradient", r"step 2 of epoch 0: the gradient is not finite behind bijection.links.5"),
    ],
)
@pytest.mark.parametrize("memory", ["stored", "constant"])
def test_detect_anomaly_stops_at_once(tmp_path, how, message, memory):
    trainer = options(detect_anomaly=True, memory=memory)
    with pytest.raises(NotFiniteError, match=message):
        train(
            poisoned([3], how),
            DataOptions(rows=500),
            tmp_path / "run",
            trainer=trainer,
            console=QUIET,
        )


@pytest.mark.slow
def test_detect_anomaly_changes_no_digit(tmp_path):
    metrics = []
    for memory in ("stored", "constant"):
        for look in (False, True):
            folder = train(
                functools.partial(RealNVP, layers=4, hidden=(8,)),
                DataOptions(rows=300),
                tmp_path / f"{memory}-{look}",
                trainer=options(detect_anomaly=look, memory=memory),
                console=QUIET,
            )
            metrics.append((folder / "metrics.csv").read_text())
    assert metrics[0] == metrics[1]
    assert metrics[2] == metrics[3]


def test_its_short_form_is_known(tmp_path, capsys):
    assert parse("train", ["--detect_anomaly"]).trainer.detect_anomaly
    assert not parse("train", ["--detect_anomaly=false"]).trainer.detect_anomaly
    words = ["train", "--data.rows=300", "--optimizer.lr=1e30", "--out=run", *QUICK]
    refused([*words, "--detect_anomaly"], capsys, "step 1 of epoch 0: bijection.links.")
    assert not (tmp_path / "run" / "model").exists()


class Fading(RealNVP):
    """A flow whose likelihood in eval mode is infinite from some call on."""

    calls, last = 0, 1

    def log_prob(self, x, context=None, *, generator=None):
        log_prob = super().log_prob(x, context, generator=generator)
        if not self.training and len(x) == 50:
            type(self).calls += 1
        return log_prob + math.inf if not self.training and self.calls > self.last else log_prob


@pytest.mark.parametrize("last", [0, 1])
def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, last):
    monkeypatch.setattr(Fading, "calls", 0)
    monkeypatch.setattr(Fading, "last", last)
    make = functools.partial(Fading, layers=2, hidden=(8,))
    out = tmp_path / "run"
    with pytest.raises(NotFiniteError, match=f"validation loss of epoch {last} .*leave out rows"):
        train(make, DataOptions(rows=500), out, trainer=options(), console=QUIET)
    assert (out / "model").exists() == (out / "checkpoints" / "last.ckpt").exists() == bool(last)
    if last:
        assert all(w.isfinite().all() for w in load_file(out / "model/model.safetensors").values())


class Rotten(RealNVP):
    """A flow with a weight that nothing depends on, and that ceases to be finite."""

    def __init__(self, features, when=9):
        super().__init__(features, layers=2, hidden=(8,))
        self.idle, self.when, self.calls = nn.Parameter(torch.zeros(3)), when, 0

    def log_prob(self, x, context=None, *, generator=None):
        self.calls += self.training
        if self.training and self.calls >= self.when:
            self.idle.data.fill_(math.nan)
        return super().log_prob(x, context, generator=generator)


def test_a_model_that_is_not_finite_replaces_none_that_is(tmp_path):
    make, out = functools.partial(Rotten, when=6), tmp_path / "run"
    with pytest.raises(ValueError, match=r"not saved, since its idle \(Rotten\)"):
        train(make, DataOptions(rows=500), out, trainer=options(), console=QUIET)
    stored = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["epochs"] == 1
    assert all(weight.isfinite().all() for weight in stored["flow"].values())
    assert load_file(out / "model/model.safetensors")["idle"].isfinite().all()


def test_no_checkpoint_is_made_of_weights_that_are_not_finite(tmp_path):
    x = Split(torch.randn(64, 2))
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(x.x)
    arguments = {"optimizer": OptimizerOptions(), "options": options(), "seed": 0}
    training = Training(flow, x, x, **arguments).run()
    assert training.state_dict()["epochs"] == 2
    with torch.no_grad():
        flow.bijection[1].conditioner.layers[0].bias[2] = math.inf
    name = "bijection.links.1.conditioner.layers.0.bias"
    with pytest.raises(NotFiniteError, match=f"step 2 of epoch 2 {name} is not finite"):
        training.state_dict()


def test_a_model_is_saved_finite_or_not_at_all(tmp_path):
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(torch.randn(50, 2))
    flow.save_pretrained(tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    for spoil in (math.nan, math.inf):
        with torch.no_grad():
            flow.bijection[1].conditioner.layers[0].bias[2] = spoil
        with pytest.raises(ValueError, match=r"links.1.conditioner.layers.0.bias \(Linear\)"):
            flow.save_pretrained(tmp_path / "model")
        assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_a_singular_mixing_of_channels_loses_steps_and_is_named():
    for lu in (True, False):
        conv = InvertibleConv1x1(4, lu=lu)
        with torch.no_grad():
            if lu:
                # A row of zeros: e^-200 is 0 in float32.
                conv.lower.zero_()
                conv.log_s[-1] = -200.0
            else:
                conv.weight[1] = conv.weight[0]
        link = NormalizedConv1x1(ActNorm(4), conv)
        flow = Flow(Chain(link, *[_mixing() for _ in range(3)], Flatten(4, 2, 2)), (4, 2, 2))
        x = torch.randn(6, 4, 2, 2)
        flow.set_memory("constant").initialize(x).train()
        fault = find_fault(flow, x)
        assert "bijection.links.0" in fault.what, lu
        with pytest.raises(ValueError, match=r"bijection.links.0.conv has a weight that cannot"):
            flow.eval().sample(2)


class Singular(Glow):
    """A Glow whose first 1x1 convolution cannot be inverted."""

    def __init__(self, image_shape, lu=True, **options):
        super().__init__(image_shape, levels=1, steps=3, hidden_channels=4, lu=lu, **options)
        conv = self.bijection[1][1].conv
        if lu:
            conv.lower.data.zero_()
            conv.log_s.data[-1] = -200.0
        else:
            conv.weight.data[:2] = torch.eye(4)[0] + torch.tensor([[0.0], [1e-9]])


@pytest.mark.filterwarnings("ignore:step")
@pytest.mark.parametrize("memory", ["stored", "constant"])
@pytest.mark.parametrize("lu", [True, False])
def test_a_run_that_cannot_be_inverted_names_its_layer(tmp_path, lu, memory):
    with pytest.raises((ValueError, NotFiniteError)) as error:
        train(
            functools.partial(Singular, lu=lu),
            DataOptions("digits", rows=200),
            tmp_path / "run",
            trainer=options(memory=memory),
            console=QUIET,
        )
    assert "bijection.links.1.links.1" in str(error.value)
    assert "there is no checkpoint yet" in str(error.value)
    assert not (tmp_path / "run" / "model").exists()


def _mixing():
    return NormalizedConv1x1(ActNorm(4), InvertibleConv1x1(4))


# Far out ------------------------------------------------------------------------------------------


def far_latents(dims, radius):
    """Points with all coordinates, with one, and with random ones that far from 0."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (50, dims), generator=generator) * 2.0 - 1
    drawn = torch.randn(50, dims, generator=generator)
    drawn = drawn / drawn.abs().amax(1, keepdim=True)
    eye = torch.eye(dims)
    return radius * torch.cat((torch.ones(1, dims), -torch.ones(1, dims), eye, -eye, signs, drawn))


@pytest.mark.parametrize("name", ENTRIES)
def test_eight_standard_deviations_decode_to_something_finite(name):
    entry = ENTRIES[name]
    module = entry.ready(torch.float32)
    given = entry.context(4, torch.float32)
    with torch.no_grad():
        first = module(entry.x(4, torch.float32), given) if name not in MODELS else None
        shape = (math.prod(entry.shape),) if first is None else first[0].shape[1:]
        z = far_latents(math.prod(shape), 8.0).view(-1, *shape)
        context = entry.context(len(z), torch.float32)
        x = module.decode(z, context) if first is None else module.inverse(z, context)[0]
    assert x.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_rows_far_from_all_data_have_a_density_and_it_is_no_nan(name):
    entry = MODELS[name]
    flow = entry.ready(torch.float32)
    for far in (1e6, 1e20, 1e37):
        x = entry.x(50, torch.float32) * far
        with torch.no_grad():
            log_prob = flow.log_prob(x, entry.context(50, torch.float32))
        assert not log_prob.isnan().any()
        if name.startswith("CircularNSF"):
            assert (log_prob > -100).all()  # no angle is far
            continue
        # Heavy tails reach so far.
        assert (log_prob < (-30 if name.startswith("TailFlow") else -100)).all()


def test_only_a_nan_has_a_nan_for_its_density():
    flow = RealNVP(3, layers=8, hidden=(8,), context=1)
    flow.initialize(torch.randn(50, 3), torch.randn(50, 1)).eval()
    for link in flow.bijection[1:]:
        for weight in link.parameters():
            nn.init.normal_(weight, std=3.0)
    x = torch.tensor([[1e30, -1e30, 1e30], [math.nan, 0, 0], [math.inf, 0, 0], [0.0, 0, 0]])
    context = torch.zeros(4, 1)
    found = flow.log_prob(x, context)
    assert found.isnan().tolist() == [False, True, False, False]
    assert found[0] == found[2] == -math.inf
    assert flow.log_prob(x, context + math.nan).isnan().all()
    # Whoever trains is to notice.
    assert not flow.train().log_prob(x, context)[0].isfinite()


def test_samples_that_leave_float_range_are_refused(tmp_path):
    flow = RealNVP(2, layers=2, hidden=(8,)).initialize(torch.randn(50, 2) * 1e20)
    flow.save_pretrained(tmp_path / "model")
    run = Run(tmp_path / "model")
    assert run.sample(5, temperature=1e3, seed=0).isfinite().all()
    with pytest.raises(ValueError, match=r"temperature 1e\+30 leave the range of float32"):
        run.sample(5, temperature=1e30, seed=0)
