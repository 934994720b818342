"""Glow's own maps: actnorm, the 1x1 convolution, the priors; and the model of them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constructors import perturb
from torch import nn
from torch.distributions import Normal

from diffeo import Chain, Flow, Glow
from diffeo.bijections import (
    ActNorm,
    Affine,
    Center,
    Coupling,
    FactorOut,
    FeatureSplit,
    Flatten,
    InvertibleConv1x1,
    LearnedPrior,
    Logit,
)
from diffeo.context import ContextSpec
from diffeo.models.glow import usual_settings
from diffeo.models.sizes import check_size
from diffeo.networks import GlowNet, ZeroConv


def uint8(*shape, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=source, dtype=torch.uint8)


def model(by=0.05, **options):
    """A small one, initialised and away from its start."""
    torch.manual_seed(0)
    settings = {"image_shape": (1, 8, 8), "levels": 2, "steps": 2, "hidden_channels": 8} | options
    flow = Glow(**settings)
    context = torch.randn(64, flow.context_features) if flow.context_features else None
    flow.initialize(uint8(64, *flow.shape), context)
    return perturb(flow, by).eval()


def close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# Actnorm


@pytest.mark.parametrize(("shape", "scale"), [((3, 4, 5), 1.0), ((4,), 1.0), ((2, 3, 3), 0.3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_first_batch_comes_out_with_mean_0_and_the_wanted_deviation(shape, scale, dtype):
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    link = ActNorm(shape[0], scale).to(dtype)
    # Far from 0, where the digits of a mean of squares are lost.
    x = (torch.randn(50, *shape, dtype=torch.float64) * 5 + 1000).to(dtype)
    before = link.eval()(x)
    assert torch.equal(before[0], x)
    assert not link.initialized
    assert torch.equal(link.train()(x)[0], x)
    y = link.initialize(x)
    axes = [0, *range(2, y.ndim)]
    std, mean = torch.std_mean(y.double(), dim=axes, correction=0)
    close(mean, torch.zeros_like(mean), tolerance)
    close(std, torch.full_like(std, scale), tolerance)
    again, _ = link(3 * x)
    close(again.std(0) / y.std(0), torch.full_like(y[0], 3.0), tolerance)


def test_actnorm_is_the_formula_of_the_paper():
    link = perturb(ActNorm(2)).double()
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    s, b = link.log_scale[:, None, None], link.shift[:, None, None]
    y, log_det = link(x) if link.initialized else link.eval()(x)
    close(y, (3 * s).exp() * (x + b))
    close(log_det, (3 * 4 * 5 * s.sum()).expand(3))


@pytest.mark.parametrize("train", [True, False])
def test_a_loaded_actnorm_is_not_initialised_again(train):
    link = ActNorm(3)
    link.initialize(torch.randn(20, 3, 2, 2) * 4 + 2)
    loaded = ActNorm(3)
    loaded.load_state_dict(link.state_dict())
    x = torch.randn(20, 3, 2, 2) * 9
    assert torch.equal(loaded.train(train).initialize(x), link.eval()(x)[0])


def test_a_channel_that_does_not_vary_is_shifted_only():
    x = torch.randn(9, 2, 3, 3)
    x[:, 1] = 7.0
    link = ActNorm(2)
    link.initialize(x)
    y, log_det = link(x)
    assert not y[:, 1].any()
    assert log_det.isfinite().all()
    assert ActNorm(2, scale=0.5).initialize(x).isfinite().all()


@pytest.mark.parametrize("train", [True, False])
def test_a_loaded_glow_is_not_initialised_again(train, tmp_path):
    flow = model()
    flow.save_pretrained(tmp_path / "model")
    loaded = Flow.from_pretrained(tmp_path / "model").train(train)
    loaded.initialize(uint8(64, 1, 8, 8, seed=3) // 9)
    loaded.train(train)
    z = loaded.encode(uint8(5, 1, 8, 8, seed=4) // 7)
    close(z, flow.encode(uint8(5, 1, 8, 8, seed=4) // 7), 0)


# The 1x1 convolution


def twins(channels=6, by=0.2, dtype=torch.float64):
    """The same map in both forms."""
    parts = perturb(InvertibleConv1x1(channels), by).to(dtype).eval()
    dense = InvertibleConv1x1(channels, lu=False).to(dtype).eval()
    dense.weight.data.copy_(parts.matrix())
    return parts, dense


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_both_forms_are_the_same_map(train, grad):
    parts, dense = twins()
    x = torch.randn(3, 6, 2, 5, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        for one, other in zip(parts.train(train)(x), dense.train(train)(x), strict=True):
            close(one, other)
        for one, other in zip(parts.inverse(x), dense.inverse(x), strict=True):
            close(one, other)
    weight = dense.weight.detach().numpy()
    y, log_det = (t.detach() for t in parts(x))
    close(y.numpy(), np.einsum("ij,njhw->nihw", weight, x.numpy()))
    close(log_det.numpy(), np.full(3, 10 * np.linalg.slogdet(weight)[1]))
    back = parts.inverse(x)[0].detach().numpy()
    close(back, np.einsum("ij,njhw->nihw", np.linalg.inv(weight), x.numpy()))


@pytest.mark.parametrize("lu", [True, False])
def test_it_starts_as_a_random_rotation(lu):
    for channels in (1, 2, 12):
        weights = [InvertibleConv1x1(channels, lu, seed).double().matrix() for seed in (1, 1, 2)]
        for weight in weights:
            close(weight @ weight.T, torch.eye(channels, dtype=torch.float64), 1e-6)
        assert torch.equal(weights[0], weights[1])
        assert channels == 1 or not torch.allclose(weights[0], weights[2], atol=0.1)


def test_the_rotation_follows_torchs_random_state():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(InvertibleConv1x1(4).matrix())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_permutation_and_signs_stay_and_only_triangles_are_learned():
    link = perturb(InvertibleConv1x1(5)).train()
    stored = {"permutation": link.permutation.clone(), "sign": link.sign.clone()}
    assert set(dict(link.named_buffers())) == set(stored) <= set(link.state_dict())
    optimizer = torch.optim.Adam(link.parameters(), 0.1)
    for _ in range(5):
        y, log_det = link(torch.randn(4, 5, 2, 2))
        (y.square().sum() - log_det.sum()).backward()
        optimizer.step()
    for name, value in stored.items():
        assert torch.equal(getattr(link, name), value)
    lower, upper = link.triangles()
    assert torch.equal(lower, lower.tril())
    assert torch.equal(upper, upper.triu())
    assert torch.equal(lower.diagonal(), torch.ones(5))
    assert torch.equal(upper.diagonal().sign(), stored["sign"])


@pytest.mark.parametrize("lu", [True, False])
@torch.no_grad()
def test_the_inverse_is_cached_and_dropped_with_any_change(lu, monkeypatch):
    counted = []
    original = InvertibleConv1x1._inverse
    monkeypatch.setattr(
        InvertibleConv1x1, "_inverse", lambda link: counted.append(1) or original(link)
    )
    link = InvertibleConv1x1(4, lu).eval()
    x = torch.randn(2, 4, 3, 3)

    def undoes():
        close(link.inverse(link(x)[0])[0], x, 1e-4)
        return len(counted)

    assert undoes() == undoes() == 1
    first = next(link.parameters())
    first.data.add_(torch.randn(4, 4) * 0.1)  # which no version counter notices
    assert undoes() == undoes() == 2
    first.mul_(1.1)
    assert undoes() == 3
    link.load_state_dict(perturb(InvertibleConv1x1(4, lu)).state_dict())
    assert undoes() == undoes() == 4
    link.load_state_dict(perturb(InvertibleConv1x1(4, lu)).state_dict(), assign=True)
    assert undoes() == 5
    if lu:
        link.sign.neg_()
        assert undoes() == 6
    doubled = copy.deepcopy(link).double()
    close(doubled.inverse(doubled(x.double())[0])[0], x.double(), 1e-10)


@pytest.mark.parametrize("lu", [True, False])
def test_the_inverse_keeps_the_digits_that_float32_would_lose(lu):
    link = InvertibleConv1x1(24, lu).eval()
    if lu:
        perturb(link, 0.6)
    else:
        u, _, v = torch.linalg.svd(torch.randn(24, 24))
        link.weight.data.copy_(u @ torch.diag(torch.logspace(-2, 2, 24)) @ v)
    exact = torch.linalg.inv(copy.deepcopy(link).double().matrix().detach())
    eye = torch.eye(24)
    with torch.no_grad():
        ours = link.inverse(eye[:, :, None, None])[0][:, :, 0, 0].T
    # Digit by digit, in the small entries too.
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
    if lu:
        lower, upper = (triangle.detach() for triangle in link.triangles())
        right = torch.linalg.solve_triangular(
            lower, eye[link.permutation.argsort()], upper=False, unitriangular=True
        )
        single = torch.linalg.solve_triangular(upper, right, upper=True)
    else:
        single = torch.linalg.inv(link.weight.detach())
    lost = ((single - exact) / exact).abs().max()
    assert lost > 1e-5, "nothing was to be lost"


@pytest.mark.parametrize("lu", [True, False])
@pytest.mark.parametrize("fault", ["singular", "not finite"])
def test_a_weight_without_inverse_is_named(lu, fault):
    flow = model(lu=lu)
    name, link = next(
        (n, m) for n, m in flow.named_modules() if isinstance(m, InvertibleConv1x1) and "inner" in n
    )
    weight = link.log_s if lu else link.weight
    if fault == "singular":
        weight.data[0] = -40.0 if lu else weight.data[1]
    else:
        weight.data[0] = float("nan")
    x = uint8(2, 1, 8, 8)
    for call in (
        lambda: flow.encode(x),
        lambda: flow.log_prob(x),
        lambda: flow.decode(torch.zeros(2, 64)),
        lambda: flow.sample(2),
        lambda: flow.train().sample(2),
    ):
        with pytest.raises(ValueError, match="smaller learning rate") as caught:
            call()
        assert f"layer {name} " in str(caught.value)


# Networks and priors


@pytest.mark.parametrize("context_features", [0, 2])
def test_the_network_is_three_convolutions_with_actnorm_between(context_features):
    net = GlowNet(2, 6, 5, context_features)
    x = torch.randn(7, 2, 4, 4) * 3
    context = torch.randn(7, context_features) if context_features else None
    net.initialize(x, context)
    for norm in (net.first_norm, net.second_norm):
        assert norm.initialized
    planes = [torch.ones(7, 1, 4, 4)]
    if context is not None:
        planes.append(context[:, :, None, None].expand(7, context_features, 4, 4))
    plain = torch.cat((x, *planes), dim=1)
    first = net.first_norm(convolve(plain, net.first))[0]
    close(first.mean((0, 2, 3)), torch.zeros(5), 1e-4)
    close(first.std((0, 2, 3), correction=0), torch.ones(5), 1e-4)
    assert not net(x, context).any(), "a coupling starts as the identity"
    perturb(net).double()
    x, plain = x.double(), plain.double()
    context = None if context is None else context.double()
    h = net.first_norm(convolve(plain, net.first))[0].relu()
    h = net.second_norm(convolve(h, net.second))[0].relu()
    factor = (3 * net.last.log_scale).exp()[:, None, None]
    close(net(x, context), (convolve(h, net.last.weight) + net.last.bias[:, None, None]) * factor)


def convolve(x, weight):
    return F.conv2d(x, weight.movedim(3, 1), padding=weight.shape[1] // 2)


def test_the_split_prior_standardizes_what_leaves():
    net = perturb(ZeroConv(2, 4))
    prior = Coupling(FeatureSplit(4), Affine(), net)
    link = Chain(prior, FactorOut((4, 3, 3), Flatten(2, 3, 3))).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    z, log_det = link(x)
    raw, shift = net(x[:, :2]).chunk(2, dim=1)
    log_scale = 3 * torch.tanh(raw / 3)
    spread, mean = (-log_scale).exp(), -shift * (-log_scale).exp()
    close(z[:, 18:], x[:, :2].flatten(1))
    log_prob = Normal(mean, spread).log_prob(x[:, 2:]).flatten(1).sum(1)
    close(Normal(0.0, 1.0).log_prob(z[:, :18]).sum(1) + log_det, log_prob)


@pytest.mark.parametrize("context_features", [0, 3])
def test_the_top_prior_is_a_normal_density(context_features):
    link = perturb(LearnedPrior(2, 3, 1, context_features=context_features)).double()
    x = torch.randn(5, 2, 3, 1, dtype=torch.float64)
    context = torch.randn(5, context_features, dtype=torch.float64)
    moments = link.bias.expand(5, 2, 2, 3, 1)
    if context_features:
        moments = moments + torch.einsum("nf,f...->n...", context, link.weight)
    y, log_det = link(x, context if context_features else None)
    log_prob = Normal(moments[:, 0], moments[:, 1].exp()).log_prob(x).flatten(1).sum(1)
    close(Normal(0.0, 1.0).log_prob(y).flatten(1).sum(1) + log_det, log_prob)


# The model


def test_it_is_made_as_the_paper_says():
    flow = Glow((3, 16, 16), levels=3, steps=4, hidden_channels=8)
    assert flow.latent_shapes == [(6, 8, 8), (12, 4, 4), (48, 2, 2)]
    kinds = [type(m).__name__ for m in flow.modules()]
    assert kinds.count("ActNorm") == 12 * 3  # also twice inside each coupling
    assert kinds.count("InvertibleConv1x1") == kinds.count("GlowNet") == 12
    assert kinds.count("FactorOut") == 2
    assert kinds.count("LearnedPrior") == 1
    widths = [m.weight.shape[3] for m in flow.modules() if isinstance(m, ZeroConv)]
    assert sorted(widths) == sorted([6, 12] + [8] * 12)  # two split priors, and each network's last
    own = Glow((1, 8, 8), 2, 2, 4, learned_top_prior=False)
    assert not any(isinstance(m, LearnedPrior) for m in own.modules())
    message = Glow((1, 8, 8), 2, 2, 4, learned_top_prior=False, context=2)
    assert any(isinstance(m, LearnedPrior) for m in message.modules()), "which takes the context"
    turned = Glow((1, 8, 8), 1, 1, 4, permutation="reverse")
    assert [m.order.tolist() for m in turned.modules() if hasattr(m, "order")] == [[3, 2, 1, 0]]
    shuffled = Glow((1, 8, 8), 2, 2, 4, permutation="shuffle")
    orders = [m.order.tolist() for m in shuffled.modules() if hasattr(m, "order")]
    assert len(orders) == 4
    assert orders[2] != orders[3]


def test_at_its_start_it_knows_as_much_as_its_actnorms():
    """Couplings and priors start as the identity, and rotations leave the volume alone."""
    flow = Glow((1, 8, 8), 2, 3, 8)
    x = uint8(256, 1, 8, 8)
    flow.initialize(x)
    z = flow.eval().encode(x)
    close(z.mean(), torch.zeros(()), 1e-2)
    close(z.std(), torch.ones(()), 1e-2)


@pytest.mark.slow
def test_48_steps_of_4_levels_come_back_bit_for_bit_in_float32():
    torch.manual_seed(0)
    flow = Glow((3, 16, 16), levels=4, steps=48, hidden_channels=8)
    x = nn.functional.interpolate(torch.rand(64, 3, 3, 3) * 200, (16, 16), mode="bilinear")
    x = (x + torch.rand(64, 3, 16, 16) * 55).byte()
    flow.initialize(x)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-4)
    losses = []
    for _ in range(6):
        loss = flow.bits_per_dim(x[:16]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, "it is still as it was initialised"
    with torch.no_grad():
        z = flow.eval().encode(x)
        assert z.dtype == torch.float32
        assert torch.equal(flow.decode(z), x)


@torch.no_grad()
def test_temperature_0_is_one_image_and_scales_each_level():
    flow = model(margin=0).double()
    one, two = (
        flow.sample(3, temperature=0, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    assert torch.equal(one, two)
    assert torch.equal(one, one[:1].expand_as(one))
    noise = flow.noise(500, torch.Generator().manual_seed(0))
    for temperature in (0.5, 0.9):
        # What `sample` decodes, before it is rounded to pixels.
        cold = flow.split_latents(flow.bijection(flow.bijection.inverse(noise * temperature)[0])[0])
        for level, whole in zip(cold, flow.split_latents(noise), strict=True):
            close(level.std() / whole.std(), torch.tensor(temperature).double(), 1e-6)


def two_kinds(n, seed):
    """Dark images are of class 0, bright ones of class 1."""
    source = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=source)
    shade = torch.randint(0, 120, (n, 1, 4, 4), generator=source)
    return (shade + 130 * y[:, None, None, None]).to(torch.uint8), y


def test_a_class_conditional_model_knows_and_draws_its_classes():
    torch.manual_seed(0)
    flow = Glow((1, 4, 4), levels=1, steps=2, hidden_channels=16, context=ContextSpec.classes(2))
    x, y = two_kinds(400, 0)
    flow.initialize(x, y)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(60):
        loss = flow.bits_per_dim(x, y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flow.eval()
    with torch.no_grad():
        x, y = two_kinds(200, 1)
        right, wrong = flow.log_prob(x, y), flow.log_prob(x, 1 - y)
        assert (right > wrong).float().mean() > 0.98
        rows = nn.functional.one_hot(y, 2).float()
        noise = torch.Generator()
        as_rows, as_numbers = (
            flow.log_prob(x, c, generator=noise.manual_seed(0)) for c in (rows, y)
        )
        assert torch.equal(as_rows, as_numbers)
        for label, most in ((0, 125), (1, 256)):
            drawn = flow.sample(200, torch.tensor([label]), generator=noise.manual_seed(0))
            mean = drawn.float().mean((1, 2, 3))
            assert ((mean < most) & (mean >= most - 131)).float().mean() > 0.95
        assert torch.equal(flow.decode(flow.encode(x, y), y), x)


def test_a_class_that_is_none_is_refused():
    flow = Glow((1, 4, 4), levels=1, steps=1, hidden_channels=4, context=ContextSpec.classes(3))
    x = uint8(2, 1, 4, 4)
    for wrong in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="from 0 to 2"):
            flow.log_prob(x, wrong)
    for wrong in (torch.tensor([[0], [1]]), None):
        with pytest.raises(ValueError, match="needs a context"):
            flow.log_prob(x, wrong)


@pytest.mark.parametrize(
    ("size", "usual"),
    [
        ((8, 8), (3, 8, 64)),
        ((24, 24), (3, 8, 64)),
        ((28, 28), (2, 32, 512)),
        ((32, 32), (3, 32, 512)),
        ((64, 64), (4, 48, 512)),
        ((10, 6), (1, 8, 64)),
    ],
)
def test_usual_settings_follow_the_size_and_fit_it(size, usual):
    assert usual_settings(*size) == usual
    check_size(*size, usual[0], "level")


def test_a_size_that_cannot_be_halved_is_refused_with_one_that_can():
    with pytest.raises(ValueError, match=r"3 levels need .* resize to 16x24, or take fewer levels"):
        Glow((1, 12, 20), levels=3)
    with pytest.raises(ValueError, match=r"1 level needs .* resize to 10x8"):
        Glow((1, 9, 8), levels=1)
    with pytest.raises(ValueError, match="levels is 0"):
        Glow((1, 8, 8), levels=0)
    with pytest.raises(ValueError, match=r"scale is 0\.0: choose a finite number above 0"):
        ActNorm(2, scale=0.0)


def test_pixels_are_centered_or_stretched():
    def entry(channels, **options):
        return Glow((channels, 4, 4), 1, 1, 4, **options).bijection[0]

    assert isinstance(entry(3), Center)
    assert isinstance(entry(1, margin=0), Center)
    for link, margin in ((entry(1), 1e-5), (entry(3, margin=0.05), 0.05)):
        assert isinstance(link, Logit)
        assert link.margin == margin
    assert (entry(3, bits=5).scale, entry(1, bits=5).scale) == (32, 32)
    assert Glow((1, 4, 4), 1, 1, 4).arguments["margin"] == 1e-5
    for wrong in (-0.1, 0.5):
        with pytest.raises(ValueError, match="margin is"):
            entry(1, margin=wrong)


def test_a_model_remembers_the_settings_that_it_was_made_with():
    flow = Glow((1, 8, 8), steps=2)
    assert [flow.arguments[name] for name in ("levels", "steps", "hidden_channels")] == [3, 2, 64]


@torch.no_grad()
def test_networks_in_bfloat16_leave_the_stream_in_float32():
    flow = model(by=0.02)
    x = uint8(16, 1, 8, 8)
    whole = flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    flow.set_precision(torch.bfloat16)
    half = flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    assert half.dtype == torch.float32
    assert not torch.equal(half, whole)
    close(half, whole, 0.01)
