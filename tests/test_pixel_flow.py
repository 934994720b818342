"""PixelFlow: probabilities that sum to 1, an order that holds, and images that come back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from constructors import perturb

from diffeo import Flow, PixelFlow
from diffeo.bijections import LogisticsCDF, PixelAutoregressive, SoftmaxCDF
from diffeo.bijections.dequantization import PixelDequantize
from diffeo.cli import main
from diffeo.context import Category, ContextSpec, Number
from diffeo.evaluation.likelihood import evaluate_batches, log_probs
from diffeo.latent import interpolate
from diffeo.networks import GatedPixelNet

SMALL = {"layers": 2, "hidden_channels": 6}


def made(shape, dtype=torch.float64, by=0.3, **options) -> PixelFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = PixelFlow(shape, **(SMALL | options))
    return perturb(flow, by).to(dtype).eval()


def pixels(*shape: int, bits: int = 8, seed: int = 1) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    levels = torch.randint(2**bits, shape, generator=source)
    return (levels * 2 ** (8 - bits)).to(torch.uint8)


def all_images(shape: tuple[int, ...], bits: int) -> torch.Tensor:
    values = itertools.product(range(2**bits), repeat=math.prod(shape))
    return (torch.tensor(list(values)) * 2 ** (8 - bits)).to(torch.uint8).reshape(-1, *shape)


# Exact probabilities


@pytest.mark.parametrize("head", ["softmax", "logistics"])
@pytest.mark.parametrize(("shape", "bits"), [((1, 2, 2), 2), ((3, 1, 2), 1), ((2, 2, 2), 1)])
def test_the_probabilities_of_all_images_sum_to_one(shape, bits, head):
    flow = made(shape, bits=bits, head=head, by=0.5)
    images = all_images(shape, bits)
    with torch.no_grad():
        probabilities = flow.log_prob(images).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    assert probabilities.std() > 1e-4  # not the uniform start
    single = made(shape, torch.float32, bits=bits, head=head, by=0.5)
    with torch.no_grad():
        assert float(single.log_prob(images).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_the_probability_is_the_product_of_the_softmaxes():
    """By torch's own cross-entropy of the network's outputs, and by hand from pixel to pixel."""
    flow, x = made((1, 4, 5), head="softmax"), pixels(3, 1, 4, 5)
    seen = x.double() * (2 / 255) - 1
    logits = flow.bijection[0].conditioner(seen)
    truth = -F.cross_entropy(logits, x[:, 0].long(), reduction="none").flatten(1).sum(1)
    # Up to the least probability that each number has: at most log(1 - 256 m) a pixel above.
    torch.testing.assert_close(flow.log_prob(x), truth, rtol=0, atol=20 * 256 * 5e-7 * 30)


@pytest.mark.parametrize("univariate", [SoftmaxCDF(0, 15), LogisticsCDF(3, 0, 15)])
def test_the_position_in_a_cell_does_not_matter(univariate):
    parameters = torch.randn(64, univariate.parameters_each, generator=torch.Generator()).double()
    k = torch.arange(16).repeat(4)[:, None].double()
    scores = []
    for u in (0.01, 0.3, 0.5, 0.99):
        y, log_det = univariate(k + u, parameters)
        scores.append(log_det + torch.distributions.Normal(0.0, 1.0).log_prob(y)[:, 0])
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=0, atol=1e-10)
    # Uniform positions in cells drawn by their probabilities are standard normal.
    each = parameters[:1].expand(16, -1)
    _, log_p = univariate(torch.arange(16.0).double()[:, None] + 0.5, each)
    assert log_p.isfinite().all()


def test_a_softmax_is_torchs_own():
    univariate, k = SoftmaxCDF(-2, 5), torch.arange(-2, 6).double()[:, None]
    parameters = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).double()
    y, log_det = univariate(k + 0.5, parameters.expand(8, -1))
    log_p = log_det + torch.distributions.Normal(0.0, 1.0).log_prob(y)[:, 0]
    torch.testing.assert_close(log_p.exp(), parameters[0].softmax(0), rtol=0, atol=1e-5)
    cdf = torch.distributions.Normal(0.0, 1.0).cdf(y)[:, 0]
    middle = parameters[0].softmax(0).cumsum(0) - parameters[0].softmax(0) / 2
    torch.testing.assert_close(cdf, middle, rtol=0, atol=1e-5)


def test_logistics_have_the_probabilities_of_their_distribution_function():
    univariate = LogisticsCDF(1, 0, 7)
    shift, change = 0.3, -0.7
    parameters = torch.tensor([[0.5, 0.0, shift, change]]).double().expand(8, -1)
    k = torch.arange(8).double()[:, None]
    y, log_det = univariate(k + 0.5, parameters)
    log_p = log_det + torch.distributions.Normal(0.0, 1.0).log_prob(y)[:, 0]
    place, scale = 4 + (shift + 0.5) / 4, math.exp(5 * math.tanh(change / 5)) / 4
    ends = ((torch.arange(1, 8).double() - place) / scale).sigmoid()
    truth = torch.cat((ends, torch.ones(1))) - torch.cat((torch.zeros(1), ends))
    torch.testing.assert_close(log_p.exp(), truth.double(), rtol=0, atol=1e-5)


def test_log_prob_draws_nothing():
    flow, x = made((1, 3, 3), torch.float32), pixels(4, 1, 3, 3)
    state = torch.get_rng_state()
    one = flow.log_prob(x, generator=torch.Generator().manual_seed(1))
    other = flow.log_prob(x, generator=torch.Generator().manual_seed(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    score = evaluate_batches(flow, [(x, None)])
    assert score.exact
    assert "exact bits/dim" in str(score)
    with pytest.raises(ValueError, match="draws no noise"):
        next(log_probs(flow, [(x, None)], samples=2))
    assert not PixelDequantize().exact


# The order


@pytest.mark.parametrize(("channels", "layers", "wide"), [(1, 4, 0), (3, 4, 0), (1, 1, 2)])
def test_the_network_sees_all_that_comes_before_and_nothing_else(channels, layers, wide):
    """By the gradient of each parameter with respect to each pixel."""
    height, width, each = 5, 6, 2
    net = GatedPixelNet(channels, channels * each, 8, layers=layers, wide=wide)
    net = perturb(net.double(), 0.2)
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1)).double()

    def in_order(x):
        return x.unflatten(1, (-1, channels)).movedim(2, 4).flatten(2).sum(1)

    jacobian = torch.autograd.functional.jacobian(lambda x: in_order(net(x))[0], x)[:, 0]
    jacobian = jacobian.movedim(1, 3).flatten(1)
    for i, row in enumerate(jacobian):
        assert not row[i:].any(), i
        first = max(0, i // (width * channels) - 4) * width * channels
        assert (row[first:i] != 0).all(), i


def test_wide_layers_see_the_whole_image_above():
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    rows = {}
    for wide in (0, 3):
        net = perturb(GatedPixelNet(1, 1, 8, layers=8, wide=wide).double(), 0.2)
        (grad,) = torch.autograd.grad(net(x.requires_grad_())[0, 0, 26, 14], x)
        assert not grad[0, 0, 27].any()
        rows[wide] = int((grad[0, 0] != 0).any(1).long().argmax())
    assert rows == {0: 26 - 4 - 8, 3: 0}


def test_a_network_of_no_layers_to_spare_has_no_blind_spot_to_the_right():
    net = perturb(GatedPixelNet(1, 1, 8, layers=3).double(), 0.2)
    x = torch.randn(1, 1, 6, 13, generator=torch.Generator().manual_seed(1)).double()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(net(x)[0, 0, 5, 6], x)
    assert (grad[0, 0, 4, 1:12] != 0).all()  # the row above: 3 columns, and 1 more with each layer


# Sampling


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 7, 6), {}),
        ((1, 7, 6), {"head": "softmax"}),
        ((3, 4, 5), {"components": 3}),
        ((3, 3, 3), {"head": "softmax", "bits": 5}),
        ((1, 5, 5), {"context": 2}),
        ((1, 9, 7), {"layers": 1, "wide": 2}),
        ((1, 1, 1), {}),
        ((1, 1, 9), {"layers": 1}),
        ((2, 8, 1), {}),
    ],
)
def test_images_come_back_bit_for_bit(shape, options, precision):
    flow, context = made(shape, precision, **options), None
    if "context" in options:
        context = torch.randn(9, 2, generator=torch.Generator().manual_seed(1)).to(precision)
    x = pixels(9, *shape, bits=options.get("bits", 8))
    with torch.no_grad():
        z = flow.encode(x, context)
        assert z.dtype == precision
        assert torch.equal(flow.decode(z, context), x)
        # In float32 12 of 150 random batches of three channels took three, by rounding.
        assert flow.bijection[0].passes <= (2 if precision == torch.float64 else 3)
        noisy = flow.encode(x, context, generator=torch.Generator().manual_seed(2))
        assert torch.equal(flow.decode(noisy, context), x)


def test_pixel_by_pixel_is_the_plain_inverse():
    """The fixed point of passes of the whole network, which remembers no rows."""
    flow = made((2, 4, 3), bits=4, context=2)
    z = torch.randn(5, flow.dims, generator=torch.Generator().manual_seed(3)).double()
    context = torch.randn(5, 2, generator=torch.Generator().manual_seed(4)).double()
    with torch.no_grad():
        x, log_det = flow.invert(z, context)
        link = flow.bijection[0]
        plain = z.view(5, 2, 4, 3)
        rows = flow.context_encoder(context)[0]
        for _ in range(flow.dims):
            plain, plain_log_det = link._pass(plain, z.view(5, 2, 4, 3), rows)
    torch.testing.assert_close(x, plain, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, plain_log_det, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wide", [0, 2])
def test_raster_gives_the_parameters_of_one_pass(wide):
    net = perturb(GatedPixelNet(3, 6, 8, 2, layers=3, wide=wide), 0.2)
    source = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 3, 7, 6, generator=source), torch.randn(2, 2, generator=source)
    found = torch.zeros(2, 6, 7, 6)

    def choose(parameters, c, i, j):
        found[:, c::3, i, j] = parameters
        return x[:, c, i, j]

    net.raster(x, context, choose)
    torch.testing.assert_close(found, net(x, context), rtol=1e-5, atol=1e-5)


def test_what_rounds_otherwise_is_repeated(monkeypatch):
    """An evaluation pixel by pixel that errs is put right by passes of the whole network."""
    flow, x = made((1, 5, 4), torch.float32), pixels(6, 1, 5, 4)
    link, raster = flow.bijection[0], GatedPixelNet.raster
    calls = []

    def wrong(net, x, context, choose):
        calls.append(1)

        def other(parameters, c, i, j):
            errs = (i, j) in ((1, 2), (3, 3))
            return choose(parameters.roll(7, 1) if errs else parameters, c, i, j)

        raster(net, x, context, other)

    monkeypatch.setattr(GatedPixelNet, "raster", wrong)
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(x)), x)
    assert len(calls) == link.passes == 3


def test_a_network_without_raster_is_inverted_by_passes():
    class Plain(torch.nn.Module):
        def forward(self, x, context=None):
            before = F.pad(x.flatten(1).cumsum(1), (1, 0))[:, :-1].view_as(x)
            return torch.cat([before * w for w in (0.3, -0.2, 0.1, 0.4)], dim=1)

    link = PixelAutoregressive(SoftmaxCDF(0, 3), Plain(), 4)
    x = torch.rand(5, 1, 3, 2, generator=torch.Generator().manual_seed(1)).double() * 4
    y, _ = link(x)
    torch.testing.assert_close(link.inverse(y)[0], x, rtol=0, atol=1e-9)


def test_samples_have_the_probabilities_of_the_model():
    flow = made((1, 1, 2), torch.float32, bits=1, by=0.6)
    images = all_images((1, 1, 2), 1)
    n = 4_000
    with torch.no_grad():
        drawn = flow.sample(n, generator=torch.Generator().manual_seed(1))
        p = flow.log_prob(images).exp()
    for image, probability in zip(images, p.tolist(), strict=True):
        share = (drawn == image).flatten(1).all(1).float().mean()
        assert float(share) == pytest.approx(probability, abs=4 * (0.25 / n) ** 0.5)
    cold = flow.sample(5, temperature=0.0)
    assert (cold == cold[0]).all()


def test_latents_of_samples_are_their_noise_up_to_the_cell():
    flow = made((1, 3, 3), torch.float64, bits=3)
    z = torch.randn(64, 9, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        again = flow.encode(flow.decode(z))
        assert torch.equal(flow.decode(again), flow.decode(z))
        # The noise of noisy copies is standard normal where the model is right about them.
        x = flow.decode(torch.randn(4_000, 9, generator=torch.Generator().manual_seed(2)).double())
        noise = flow.encode(x, generator=torch.Generator().manual_seed(3))
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1.0, abs=0.02)


# Context, saving, refusals


def test_class_and_attributes_condition_it():
    spec = ContextSpec((Category("label", ("a", "b")), Number("size")))
    flow = made((1, 3, 3), context=spec)
    x = pixels(2, 1, 3, 3)
    one = flow.log_prob(x, torch.tensor([[1.0, 0.0, 0.5]] * 2).double())
    other = flow.log_prob(x, torch.tensor([[0.0, 1.0, 0.5]] * 2).double())
    third = flow.log_prob(x, torch.tensor([[1.0, 0.0, -0.5]] * 2).double())
    assert (one != other).all()
    assert (one != third).all()
    classes = made((1, 3, 3), torch.float32, context=ContextSpec.classes(3))
    assert classes.sample(4, 2, generator=torch.Generator().manual_seed(0)).shape == (4, 1, 3, 3)


@pytest.mark.parametrize("options", [{}, {"head": "softmax"}, {"components": 2, "bits": 4}])
def test_it_is_saved_and_loaded(options):
    flow, x = made((1, 4, 4), torch.float32, **options), pixels(3, 1, 4, 4)
    flow.save_pretrained("model")
    loaded = Flow.from_pretrained("model")
    assert isinstance(loaded, PixelFlow)
    assert loaded.arguments["head"] == options.get("head", "logistics")
    assert torch.equal(loaded.log_prob(x), flow.log_prob(x))


def test_the_least_probability_costs_next_to_nothing():
    """A number that is ruled out keeps 5e-7, and one that is sure loses 255 times that."""
    parameters = torch.zeros(2, 256)
    parameters[:, 3] = 100.0
    univariate = SoftmaxCDF()
    y, log_det = univariate(torch.tensor([[3.5], [200.5]]), parameters)
    log_p = log_det + torch.distributions.Normal(0.0, 1.0).log_prob(y)[:, 0]
    torch.testing.assert_close(log_p.exp(), torch.tensor([1 - 255 * 5e-7, 5e-7]))
    assert univariate.inverse(y, parameters)[0].floor().flatten().tolist() == [3, 200]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="choose a high"):
        SoftmaxCDF(3, 2)
    with pytest.raises(ValueError, match="100,000"):
        LogisticsCDF(2, 0, 100_000)
    with pytest.raises(ValueError, match="choose a multiple"):
        GatedPixelNet(3, 4)
    with pytest.raises(ValueError, match="head"):
        PixelFlow((1, 4, 4), head="atoms")
    beyond = torch.tensor([[-0.5], [16.0], [15.99]])
    _, log_det = SoftmaxCDF(0, 15)(beyond, torch.zeros(3, 16))
    assert log_det.isinf().tolist() == [True, True, False]


# In runs


def test_runs_say_that_their_bits_are_exact(tmp_path, capsys):
    folder = str(tmp_path / "run")
    words = ["train", "--model", "PixelFlow", "--model.layers", "1", "--model.hidden_channels", "4"]
    words += ["--data", "digits", "--data.rows", "60", "--data.context", "label", "--out", folder]
    assert main([*words, "--trainer.max_epochs", "1"]) == 0
    assert "exact bits/dim" in capsys.readouterr().out
    assert main(["eval", folder]) == 0
    assert "exact" in capsys.readouterr().out
    assert main(["eval", folder, "--samples", "2"]) != 0
    assert "draws no noise" in capsys.readouterr().err
    assert main(["export", folder, "--to", "torch", "--what", "sample", "--out", folder]) != 0
    assert "what='score'" in capsys.readouterr().err


def test_arithmetic_on_latents():
    flow, x = made((1, 4, 4), torch.float32, bits=4), pixels(2, 1, 4, 4, bits=4)
    between = interpolate(flow, x[:1], x[1:], 5)[0]
    assert torch.equal(between[0].flatten(), x[0].flatten())
    assert torch.equal(between[-1].flatten(), x[1].flatten())
