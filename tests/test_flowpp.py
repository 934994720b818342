"""Flow++: its couplings and network in their formulas, and learned noise against integrals."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constructors import perturb
from torch import Generator, Tensor

import diffeo
from diffeo import Flow, FlowPlusPlus, Glow, ImageRealNVP, Jet, TarFlow
from diffeo.bijections import (
    Affine,
    Chain,
    CompactCheckerboard,
    Coupling,
    FeatureSplit,
    Flatten,
    Logit,
    MixtureAffine,
    MixtureCDF,
    VariationalDequantize,
)
from diffeo.bijections.mixture_fused import Fused
from diffeo.cli import main
from diffeo.evaluation.likelihood import log_probs
from diffeo.models.flowpp import usual_settings
from diffeo.networks import GatedResNet

MODELS = (Glow, ImageRealNVP, Jet, TarFlow, FlowPlusPlus)
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


def normal(*shape: int, seed: int = 0, by: float = 1.0) -> Tensor:
    source = Generator().manual_seed(seed)
    return by * torch.randn(shape, generator=source, dtype=torch.float64)


def uint8(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=generator(seed), dtype=torch.uint8)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# The coupling's map


def test_the_map_is_the_formula_of_the_paper():
    univariate, x = MixtureAffine(3, bound=2.0), normal(5, 2)
    raw = normal(5, univariate.parameters_each * 2, seed=1)
    y, log_det = univariate(x, raw)
    # Parameter by parameter, each of both features.
    parts = raw.view(5, -1, 2)
    logits, shift, change = parts[:, :9].unflatten(1, (3, 3)).unbind(1)
    places = torch.tensor(univariate.mixture.places, dtype=torch.float64)[:, None]
    scale = univariate.mixture.scale * (5 * (change / 5).tanh()).exp()
    x = x.requires_grad_()
    cdf = (logits.softmax(1) * ((x[:, None] - shift - places) / scale).sigmoid()).sum(1)
    s, t = 2 * (parts[:, 9] / 2).tanh(), parts[:, 10]
    truth = s.exp() * (cdf.log() - (1 - cdf).log()) + t
    close(y, truth)
    (slope,) = torch.autograd.grad(truth.sum(), x)
    close(log_det, slope.log().sum(1))


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
def test_the_fused_map_is_the_plain_one(spread: float):
    """Far out too, where either tail underflows; float32 against float64."""
    mixture = MixtureCDF(5, "logistic")
    x, raw = normal(6, 2, 3, by=spread), normal(3, 5, 6, 2, 3, seed=1, by=2.0)
    results = {}
    for name, function, dtype in (
        ("plain", mixture.plain, torch.float64),
        ("fused", partial(Fused.apply, mixture), torch.float64),
        ("float32", partial(Fused.apply, mixture), torch.float32),
    ):
        given = [t.to(dtype).requires_grad_() for t in (x, raw)]
        y, log_slope = function(*given)
        weights = normal(*y.shape, seed=2).to(dtype)
        loss = (weights * y).sum() + (weights.flip(0) * log_slope).sum()
        results[name] = [y, log_slope, *torch.autograd.grad(loss, given)]
    for plain, fused, single in zip(*results.values(), strict=True):
        close(fused, plain, 1e-10)
        size = 1 + float(plain.abs().max())
        assert ((single - plain).abs() / size).max() < 1e-6 * max(100, spread)


def test_gradients_of_gradients_of_the_fused_map():
    mixture = MixtureCDF(2, "logistic")
    given = normal(3), normal(3, 2, 3, seed=1)
    function = partial(Fused.apply, mixture)
    assert torch.autograd.gradgradcheck(function, [t.requires_grad_() for t in given])


def test_a_copy_of_the_map_is_fused_too(monkeypatch):
    calls: list[int] = []
    apply = Fused.apply
    monkeypatch.setattr(Fused, "apply", lambda *given: calls.append(1) or apply(*given))
    univariate = copy.deepcopy(MixtureAffine(2))
    univariate(torch.zeros(3, 1), torch.zeros(3, 8))
    assert calls


def test_couplings_with_a_solver_are_no_cheap_inverse():
    """Training in constant memory then computes them again, instead of solving for their input."""
    for univariate, cheap in ((Affine(), True), (MixtureAffine(2), False), (MixtureCDF(), False)):
        link = Coupling(FeatureSplit(2), univariate, torch.nn.Identity())
        assert link.cheap_inverse is cheap


# The network


def test_the_network_is_its_formula():
    net = perturb(GatedResNet(2, 3, 8, blocks=2, heads=2).double(), 0.2)
    w = dict(net.named_parameters())
    x = normal(2, 2, 3, 4)

    def norm(h: Tensor, name: str) -> Tensor:
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return h * w[f"{name}.weight"] + w[f"{name}.bias"]

    def conv(h: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        pad = weight.shape[2] // 2
        padded = F.pad(h, (0, 0, pad, pad, pad, pad))
        rows, columns = range(weight.shape[2]), range(weight.shape[3])
        return w[f"{name}.bias"] + sum(
            padded[:, i : i + 3, j : j + 4] @ weight[:, :, i, j].T
            for i, j in itertools.product(rows, columns)
        )

    def gate(h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        return a * b.sigmoid()

    waves = [math.pi / 2 / 2**k for k in range(5)]
    places = torch.tensor(
        [
            [
                [f(r * v) for f in (math.sin, math.cos) for v in waves]
                + [f(c * v) for f in (math.sin, math.cos) for v in waves]
                for c in range(4)
            ]
            for r in range(3)
        ],
        dtype=torch.float64,
    )
    h = conv(x.permute(0, 2, 3, 1), "entry") + places @ w["places.weight"].T
    for i in range(2):
        name = f"blocks.{i}"
        inner = F.elu(conv(F.elu(norm(h, f"{name}.norm")), f"{name}.first"))
        h = h + gate(conv(inner, f"{name}.second"))
        name = f"{name}.attention"
        tokens = norm(h, f"{name}.norm").flatten(1, 2)
        q, k, v = (tokens @ w[f"{name}.qkv.weight"].T + w[f"{name}.qkv.bias"]).chunk(3, -1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = q[..., part] @ k[..., part].mT / 2
            heads.append(scores.softmax(-1) @ v[..., part])
        out = torch.cat(heads, -1) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]
        h = h + gate(out).view(h.shape)
    truth = F.elu(norm(h, "norm")) @ w["exit.weight"].T + w["exit.bias"]
    close(net(x), truth.permute(0, 3, 1, 2))


def test_the_network_fits_all_sizes_and_takes_context_as_numbers_or_channels():
    net = perturb(GatedResNet(1, 2, 4, context_features=3, blocks=1, heads=0))
    numbers = torch.randn(2, 3)
    for size in ((2, 2), (5, 3)):
        x = torch.randn(2, 1, *size)
        channels = numbers[:, :, None, None].expand(-1, -1, *size)
        assert net(x, numbers).shape == (2, 2, *size)
        assert torch.equal(net(x, numbers), net(x, channels))


def test_attention_sees_the_whole_image():
    x = normal(1, 1, 1, 16).requires_grad_()
    for heads in (0, 2):
        net = perturb(GatedResNet(1, 1, 4, blocks=1, heads=heads).double())
        (grad,) = torch.autograd.grad(net(x)[0, 0, 0, 0], x)
        assert bool(grad[..., -1].any()) is bool(heads)


# The model


def test_the_model_is_the_figure_of_the_paper():
    flow = FlowPlusPlus((3, 8, 8), couplings=(4, 2, 3), hidden_channels=4)
    kinds = [type(link).__name__ for link in flow.bijection]
    step = ["NormalizedConv1x1", "Coupling"]
    assert kinds == ["Center", *step * 4, "Squeeze", *step * 5, "Flatten"]
    splits = [link.split for link in flow.bijection if isinstance(link, Coupling)]
    assert [type(split) for split in splits] == [
        *[CompactCheckerboard] * 4,
        *[FeatureSplit] * 2,
        *[CompactCheckerboard] * 3,
    ]
    assert [split.keep for split in splits] == [
        *("main", "anti") * 2,
        *("first", "second"),
        *("main", "anti", "main"),
    ]
    assert flow.latent_shapes == [(12, 4, 4)]


def test_sizes_and_their_refusals():
    assert usual_settings(28, 28)[0][2] == 3
    assert usual_settings(6, 6)[0][2] == 0
    FlowPlusPlus((1, 6, 6))
    with pytest.raises(ValueError, match="multiples of 4"):
        FlowPlusPlus((1, 6, 6), couplings=(1, 1, 1))
    with pytest.raises(ValueError, match="couplings"):
        FlowPlusPlus((1, 8, 8), couplings=(1, 1))


def small(model: type[Flow], **options: Any) -> Any:
    """A model of 1 x 8 x 8 pixels of few bits, away from its start."""
    sizes: dict[Any, dict[str, Any]] = {
        Glow: {"levels": 1, "steps": 2, "hidden_channels": 4},
        ImageRealNVP: {"scales": 1, "hidden_channels": 4, "blocks": 1},
        Jet: {"patch": 2, "couplings": 3, "hidden_channels": 8},
        TarFlow: {"patch": 2, "blocks": 2, "layers": 1, "hidden_channels": 8},
        FlowPlusPlus: {"couplings": (1, 1, 1), "hidden_channels": 4},
    }
    torch.manual_seed(0)
    flow = model((1, 8, 8), **(sizes[model] | options))  # type: ignore[call-arg]
    flow.initialize(uint8(32, 1, 8, 8))
    return perturb(flow, 0.05).eval()


def test_float32_is_right_to_five_digits():
    flow, x = small(FlowPlusPlus), uint8(16, 1, 8, 8, seed=4)
    x[:, :, :4] = 0  # black, as in digits
    single = flow.log_prob(x, generator=generator())
    truth = flow.double()
    u = torch.rand(x.shape, generator=generator()).double()
    z, log_det = truth.bijection(x + u)
    assert ((single - truth.base.log_prob(z) - log_det).abs() / single.abs()).max() < 1e-5


def test_a_long_training_in_float32_stays_finite():
    """Of images that are black but for a few pixels, whose cells mixtures fit closely."""
    torch.manual_seed(0)
    flow = FlowPlusPlus((1, 8, 8), couplings=(2, 2, 0), hidden_channels=8)
    x = uint8(256, 1, 8, 8) * (torch.rand(256, 1, 8, 8, generator=generator()) < 0.2)
    flow.initialize(x)
    adam = torch.optim.Adam(flow.parameters(), 2e-2)
    for _ in range(25):
        loss = flow.bits_per_dim(x, generator=generator(1)).mean()
        adam.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
        adam.step()
    assert loss < 6
    z = flow.eval().encode(x[:16])
    assert z.isfinite().all()
    assert torch.equal(flow.decode(z), x[:16])


# Learned noise


def tiny(by: float = 0.2) -> Flow:
    """A flow of 2 x 2 pixels of one bit, on (0, 2)^4 alone, with learned noise."""
    torch.manual_seed(0)
    net = GatedResNet(2, 2 * 2, 4, blocks=1, heads=0)
    bijection = Chain(
        Logit(2.0, 0.0), Coupling(CompactCheckerboard(), Affine(), net), Flatten(1, 2, 2)
    )
    noise = VariationalDequantize(2, 4, bits=1)
    return perturb(Flow(bijection, (1, 2, 2), dequantizer=noise), by).double().eval()


def all_images() -> Tensor:
    """Those of 2 x 2 pixels of one bit."""
    bits = torch.tensor([*itertools.product((0, 128), repeat=4)], dtype=torch.uint8)
    return bits.view(-1, 1, 2, 2)


def grid(count: int) -> tuple[Tensor, Tensor]:
    """Points of (0, 1)^4 and their weights, by Gauss and Legendre.

    They are dense at the edges, where weights 1 / q may have poles.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    s, weights = (nodes + 1) / 2, weights / 2
    nodes, weights = s**3 * (10 - 15 * s + 6 * s * s), weights * 30 * (s * (1 - s)) ** 2
    points = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), -1).reshape(-1, 4)
    each = np.prod(np.meshgrid(*[weights] * 4, indexing="ij"), axis=0).ravel()
    return torch.from_numpy(points), torch.from_numpy(each)


def test_minus_log_q_is_that_of_autodiff():
    flow, x = small(FlowPlusPlus, dequantizer=VariationalDequantize(2, 4)), uint8(1, 1, 8, 8)
    noise = perturb(flow.dequantizer.double(), 0.3)
    middle, e = noise(x)[0], normal(1, 64)
    y, log_det = noise.moved(middle, e)
    jacobian = torch.autograd.functional.jacobian(lambda e: noise.moved(middle, e)[0], e)
    log_density = -(F.softplus(e) + F.softplus(-e)).sum()
    close(log_det[0], torch.linalg.slogdet(jacobian.view(64, 64))[1] - log_density, 1e-9)
    assert torch.equal(noise.inverse(y), x)


@torch.no_grad()
def test_weights_average_to_the_integral_and_sum_to_one():
    """E_q[p(v + u) / q(u)] is the integral of p over the cell of v, whatever q is."""
    flow, total = tiny(), 0.0
    t, weights = grid(18)
    noise = flow.dequantizer
    assert isinstance(noise, VariationalDequantize)
    for x in all_images()[:, None]:
        middle = noise(x)[0].expand(len(t), -1, -1, -1)
        z, log_det = flow.bijection(middle - 0.5 + t.view(-1, 1, 2, 2))
        integral = weights @ (flow.base.log_prob(z) + log_det).exp()
        y, entry = noise.moved(middle, t.logit())
        z, log_det = flow.bijection(y)
        learned = weights @ (flow.base.log_prob(z) + log_det + entry).exp()
        assert float(learned / integral) == pytest.approx(1, abs=1e-3)
        assert float(weights @ entry.exp()) == pytest.approx(1, abs=1e-3)
        total += float(integral)
    assert total == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_the_bound_is_below_the_truth_and_approaches_it():
    flow, t_and_weights = tiny(0.3), grid(16)
    x = all_images()[5:6]
    t, weights = t_and_weights
    middle = flow.dequantizer(x)[0]
    z, log_det = flow.bijection(middle - 0.5 + t.view(-1, 1, 2, 2))
    truth = float((weights @ (flow.base.log_prob(z) + log_det).exp()).log())
    batch = x.expand(4_000, -1, -1, -1)
    bounds = [
        float(next(log_probs(flow, [(batch, None)], samples=k, seed=3)).mean()) for k in (1, 4, 32)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < truth - 0.1
    assert truth - 0.1 * (truth - bounds[0]) < bounds[-1] < truth + 0.02, (truth, bounds)


def test_learning_the_noise_closes_the_gap():
    """Of a density that is not flat in the cells, which stays as it is."""
    torch.manual_seed(0)
    flow = tiny()
    noise = flow.dequantizer
    assert noise is not None
    x = all_images()

    def bound() -> float:
        with torch.no_grad():
            many = x.repeat(400, 1, 1, 1)
            return float(flow.log_prob(many, generator=generator(5)).mean())

    flow.bijection.requires_grad_(False)
    t, weights = grid(12)
    with torch.no_grad():
        cells = [
            (weights @ (flow.base.log_prob(z) + d).exp()).log()
            for v in x[:, None]
            for z, d in [flow.bijection(noise(v)[0] - 0.5 + t.view(-1, 1, 2, 2))]
        ]
    truth, before = float(torch.stack(cells).mean()), bound()
    adam = torch.optim.Adam(noise.parameters(), 1e-2)
    for step in range(150):
        loss = -flow.log_prob(x.repeat(8, 1, 1, 1), generator=generator(step)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    after = bound()
    assert before < after < truth
    assert truth - after < 0.3 * (truth - before)


def test_it_starts_as_uniform_noise():
    torch.manual_seed(0)
    noise = VariationalDequantize(2, 4)
    noise.prepare((1, 4, 4))
    x = uint8(500, 1, 4, 4)
    y, entry = noise.noisy(x, generator())
    u = y - x
    assert entry.abs().max() < 1e-4
    for moment in (1, 2, 3):
        assert float((u**moment).mean()) == pytest.approx(1 / (moment + 1), abs=0.01)


@every_model
def test_every_model_of_images_takes_it(model: type[Flow]):
    flow = small(model, dequantizer=VariationalDequantize(2, 4), bits=5)
    x = uint8(6, 1, 8, 8, seed=3)
    noise = flow.dequantizer
    assert isinstance(noise, VariationalDequantize)
    assert noise.bits == 5
    assert flow.takes_pixels
    # What is encoded is the middle of each cell, and what is decoded is x.
    assert torch.equal(flow.encode(x), flow.encode(x))
    assert torch.equal(flow.decode(flow.encode(x)), x & 0xF8)
    assert torch.equal(flow.decode(flow.encode(x, generator=generator())), x & 0xF8)
    scores = flow.log_prob(x, generator=generator())
    assert not torch.equal(scores, flow.log_prob(x, generator=generator(1)))
    flow.save_pretrained("model")
    loaded = diffeo.load("model")
    assert torch.equal(scores, loaded.log_prob(x, generator=generator()))
    flow.train().log_prob(x, generator=generator()).sum().backward()
    for name, p in flow.dequantizer.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
    assert {p.name for p in Path("model").iterdir()} == {"config.json", "model.safetensors"}


def test_the_meta_device_and_no_global_noise():
    with torch.device("meta"):
        flow = FlowPlusPlus((1, 8, 8), dequantizer=VariationalDequantize())
    assert all(t.is_meta for t in flow.parameters())
    flow = small(FlowPlusPlus, dequantizer=VariationalDequantize(1, 4))
    state = torch.get_rng_state()
    flow.log_prob(uint8(2, 1, 8, 8), generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    moved = flow.to("meta")
    assert moved.log_prob(uint8(2, 1, 8, 8).to("meta")).is_meta


def test_constant_memory_has_the_same_gradients():
    flow, x = (
        small(FlowPlusPlus, dequantizer=VariationalDequantize(2, 4)).double(),
        uint8(4, 1, 8, 8),
    )
    found = []
    for memory in ("stored", "constant"):
        flow.zero_grad()
        flow.set_memory(memory).train().log_prob(x, generator=generator()).sum().backward()
        found.append([p.grad.clone() for p in flow.parameters()])
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-8)


def test_what_noise_cannot_be_learned_for_is_refused():
    with pytest.raises(ValueError, match="even height and width"):
        TarFlow((1, 5, 5), patch=1, dequantizer=VariationalDequantize())
    with pytest.raises(ValueError, match="events of 3"):
        Flow(Flatten(3), 3, dequantizer=VariationalDequantize())
    with pytest.raises(ValueError, match="noise_std or dequantizer"):
        TarFlow((1, 8, 8), noise_std=0.1, margin=0.0, dequantizer=VariationalDequantize())


def test_it_is_an_option_of_the_command_line(tmp_path, capsys):
    options = "--model.couplings=[1,1,1] --model.hidden_channels=4 --trainer.max_epochs=1"
    noise = "--model.dequantizer=VariationalDequantize --model.dequantizer.hidden_channels=4"
    out = str(tmp_path / "run")
    words = [*options.split(), *noise.split(), f"--out={out}"]
    assert main(["train", "--model=FlowPlusPlus", "--data=digits", *words]) == 0
    assert main(["eval", out, "--samples=2"]) == 0
    assert "importance-weighted" in capsys.readouterr().out
    assert isinstance(diffeo.load(out).dequantizer, VariationalDequantize)
    wrong = ["train", "--model=FlowPlusPlus", "--data=digits", "--model.dequantizer=Nothing"]
    assert main([*wrong, f"--out={out}2"]) == 2
    assert "--model.dequantizer" in capsys.readouterr().err
