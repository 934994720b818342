"""Autoregressive maps against autodiff, zuko and nflows; their inverse and its gradient."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from constructors import perturb

import diffeo
from diffeo.bijections import Affine, Autoregressive, RationalQuadraticSpline
from diffeo.bijections.autoregressive import autoregressive
from diffeo.cli import main
from diffeo.networks import MLP, MaskedMLP

D, CONTEXT, BINS, BOUND = 5, 2, 6, 3.0
UNIVARIATES = {"affine": Affine(), "spline": RationalQuadraticSpline(BINS, BOUND)}
by_univariate = pytest.mark.parametrize("univariate", UNIVARIATES.values(), ids=UNIVARIATES.keys())
ORDERS = (None, [4, 3, 2, 1, 0], [2, 0, 4, 1, 3])


def link_of(univariate, order=None, features=D, context=0, scale=0.3) -> Autoregressive:
    torch.manual_seed(0)
    link = autoregressive(univariate, MaskedMLP, features, (16, 12), context, order)
    return perturb(link, scale).double()


def rows(n, features=D, seed=1):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, features, generator=source, dtype=torch.float64)


# The network


@pytest.mark.parametrize("hidden", [(), (16,), (3, 40)])
@pytest.mark.parametrize("context", [0, CONTEXT])
@pytest.mark.parametrize("order", ORDERS)
def test_each_output_depends_on_the_features_before_it_and_on_all_of_the_context(
    order, context, hidden
):
    torch.manual_seed(0)
    net = perturb(MaskedMLP(D, 3 * D, hidden, context, order), 1.0).double()
    with torch.no_grad():
        for layer in list(net.layers)[::2]:
            layer.weight.abs_()  # so that no unit is off
            layer.bias.abs_()
    given = (rows(1).abs(), *([rows(1, context).abs()] if context else []))
    jacobians = torch.autograd.functional.jacobian(net, given)
    places = order or range(D)
    by_x = jacobians[0][0, :, 0].unflatten(0, (3, D))[:, places][:, :, places]
    before = torch.ones(D, D).tril(-1).bool()
    assert not by_x[:, ~before].any()
    if hidden != (3, 40):  # where three units cannot tell five features apart
        assert (by_x[:, before] != 0).all()
    if context:
        assert (jacobians[1] != 0).all()


def test_masked_networks_compute_in_training_what_they_compute_without_gradients():
    net = perturb(MaskedMLP(D, 2 * D, (16, 8), CONTEXT)).double()
    x, context = rows(7).requires_grad_(), rows(7, CONTEXT)
    out = net(x, context)
    with torch.no_grad():
        torch.testing.assert_close(net(x, context), out, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: net(x, context), (x,))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"outputs": 7}, "multiple"), ({"outputs": 6, "order": [0, 0, 1]}, "no permutation")],
)
def test_what_makes_no_masked_network_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MaskedMLP(3, **options)


def test_a_network_without_masks_is_refused():
    with pytest.raises(ValueError, match=r"MLP takes no order .* choose MaskedMLP"):
        diffeo.MAF(3, network=MLP)


# The map


@by_univariate
@pytest.mark.parametrize("order", ORDERS)
def test_the_jacobian_is_triangular_in_the_order(univariate, order):
    link, places = link_of(univariate, order), order or list(range(D))
    for function, x in ((link.forward, rows(1)), (link.inverse, link(rows(1))[0].detach())):
        jacobian = torch.autograd.functional.jacobian(lambda x, f=function: f(x)[0], x)[0, :, 0]
        jacobian = jacobian[places][:, places]
        assert not jacobian.triu(1).any()
        torch.testing.assert_close(
            jacobian.diagonal().log().sum(), function(x)[1][0], rtol=1e-10, atol=1e-10
        )


@by_univariate
@pytest.mark.parametrize("order", ORDERS)
def test_the_inverse_is_that_of_feature_by_feature(univariate, order):
    link, y = link_of(univariate, order), rows(50)
    x = torch.zeros_like(y)
    with torch.no_grad():
        for place in order or range(D):
            x[:, place] = univariate.inverse(y, link.conditioner(x))[0][:, place]
        ours, log_det = link.inverse(y)
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, -link(x)[1], rtol=1e-10, atol=1e-10)
    assert link.passes <= D


def test_the_inverse_stops_where_nothing_changes():
    y = rows(10)
    link = autoregressive(Affine(), MaskedMLP, D, (16,), 0).double()
    with torch.no_grad():
        assert torch.equal(link.inverse(y)[0], y)  # at its start it is the identity
        assert link.passes == 1
        # Only the third feature depends on others, which do not change.
        last = link.conditioner.layers[-1]
        last.weight[[2, D + 2]] = 0.5
        assert not torch.equal(link.inverse(y)[0], y)
        assert link.passes == 2  # the second, to see that nothing changes
    strong = link_of(Affine(), scale=1.0)
    strong.inverse(y)
    assert strong.passes == D


@by_univariate
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_gradients_of_the_inverse_are_those_of_its_passes(univariate, context):
    link, y = link_of(univariate, [2, 0, 4, 1, 3], context=context), rows(20)
    given = rows(20, context) if context else None
    inputs = [t.requires_grad_() for t in (y, given) if t is not None]
    weights = [*inputs, *link.parameters()]

    def gradients(pair):
        loss = (pair[0].sin() * rows(20, seed=5)).sum() + pair[1].square().sum()
        return torch.autograd.grad(loss, weights)

    ours = gradients(link.inverse(y, given))
    truth = gradients(link._unrolled(y, given))
    for one, other in zip(ours, truth, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_inverse_differentiates_under_torch_func():
    link, y = link_of(Affine()), rows(1)[0]
    jacobian = torch.func.jacrev(lambda y: link.inverse(y[None])[0][0])(y)
    truth = torch.func.jacrev(lambda x: link(x[None])[0][0])(link.inverse(y[None])[0][0])
    torch.testing.assert_close(jacobian @ truth, torch.eye(D).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", [diffeo.MAF, diffeo.NSF], ids=lambda model: model.__name__)
def test_huge_values_on_the_path_of_the_inverse_do_no_harm(model):
    flow = perturb(model(20, layers=2, hidden=(16,)), 1.0).eval()
    z = torch.randn(8, 20) * 1e6
    with torch.no_grad():
        x = flow.decode(z)
    assert x.isfinite().all()
    link = flow.bijection[1]
    y = torch.full((2, 20), 3e38)
    assert not link.inverse(y)[0].isnan().any()


@pytest.mark.parametrize("model", [diffeo.MAF, diffeo.IAF, diffeo.NSF])
def test_constant_memory_has_the_gradients_of_stored_activations(model):
    flow, x = perturb(model(3, layers=3, hidden=(8,)), 0.2).double(), rows(9, 3)
    found = []
    for memory in ("stored", "constant"):
        flow.set_memory(memory).zero_grad()
        flow.log_prob(x).sum().backward()
        found.append([p.grad.clone() for p in flow.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_orders_are_reversed_or_drawn_with_a_seed():
    def orders(**options):
        flow = diffeo.MAF(6, layers=4, **options)
        return [link.conditioner.arguments["order"] for link in list(flow.bijection)[1:]]

    up = [*range(6)]
    assert orders() == [up, up[::-1], up, up[::-1]]
    drawn = orders(shuffle=3)
    assert drawn == orders(shuffle=3) != orders(shuffle=4)
    assert len({tuple(order) for order in drawn}) == 4
    assert all(sorted(order) == up for order in drawn)


# Other libraries


def weights_from(theirs, ours, name="weight") -> None:
    """Give our layers the weights of theirs, in the same places."""
    for a, b in zip(list(ours.layers)[::2], theirs, strict=True):
        a.weight.data, a.bias.data = getattr(b, name).data.clone(), b.bias.data.clone()
        a.mask = b.mask.to(a.mask.dtype)


def feature_first(count: int) -> list[int]:
    """Where the outputs of ours are in theirs: of theirs, all of a feature's come first."""
    return torch.arange(D * count).view(D, count).t().flatten().tolist()


def reordered(layer, count: int) -> None:
    places = feature_first(count)
    layer.weight.data, layer.bias.data = layer.weight.data[places], layer.bias.data[places]
    layer.mask = layer.mask[places]


class AffineOfZuko(Affine):
    """Theirs has the shift first, and bounds the scale by another function."""

    def _log_scale_and_shift(self, parameters):
        shift, raw = parameters.chunk(2, dim=1)
        return raw / (1 + abs(raw / math.log(1e-3))), shift


class SplineOfZuko(RationalQuadraticSpline):
    """Theirs has no smallest width, and bounds the parameters before softmax and exponential."""

    def forward(self, x, parameters):
        bound = -math.log(1e-3)
        raw = parameters.unflatten(1, (self.parameters_each, D))
        widths, derivatives = raw.split([2 * BINS, BINS - 1], dim=1)
        widths = widths / (1 + 2 * abs(widths) / bound)
        derivatives = (derivatives / (1 + abs(derivatives) / bound)).exp()
        offset = math.log(math.expm1(1 - self.min_derivative))
        derivatives = (derivatives - self.min_derivative).expm1().log() - offset
        return super().forward(x, torch.cat((widths, derivatives), dim=1).flatten(1))


@pytest.mark.parametrize("name", ["MAF", "NSF"])
def test_flows_have_the_densities_of_those_of_zuko(name):
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    univariate = AffineOfZuko()
    if name == "NSF":
        univariate = SplineOfZuko(BINS, 5.0, min_width=1e-16, min_derivative=1e-12)
    options = {"bins": BINS} if name == "NSF" else {}
    theirs = getattr(zuko.flows, name)(
        D, CONTEXT, transforms=3, hidden_features=(16, 12), **options
    )
    perturb(theirs.double(), 0.3)
    ours = getattr(diffeo, name)(
        D, layers=3, hidden=(16, 12), univariate=univariate, context=CONTEXT
    ).double()
    for link, transform in zip(list(ours.bijection)[1:], theirs.transform.transforms, strict=True):
        weights_from(list(transform.hyper)[::2], link.conditioner)
        reordered(link.conditioner.layers[-1], univariate.parameters_each)
    x, context = rows(200) * 2, rows(200, CONTEXT)
    expected = theirs(context).log_prob(x)
    torch.testing.assert_close(ours.log_prob(x, context), expected, rtol=1e-10, atol=1e-10)


class AffineOfNflows(Affine):
    """Theirs has the scale from a softplus."""

    def _log_scale_and_shift(self, parameters):
        raw, shift = parameters.chunk(2, dim=1)
        return (torch.nn.functional.softplus(raw) + 1e-3).log(), shift


class SplineOfNflows(RationalQuadraticSpline):
    """Theirs starts at another slope."""

    def forward(self, x, parameters):
        raw = parameters.unflatten(1, (self.parameters_each, D))
        widths, derivatives = raw.split([2 * BINS, BINS - 1], dim=1)
        derivatives = derivatives - math.log(math.expm1(1 - self.min_derivative))
        return super().forward(x, torch.cat((widths, derivatives), dim=1).flatten(1))


@pytest.mark.parametrize("name", ["affine", "spline"])
def test_links_are_those_of_nflows(name):
    nflows = pytest.importorskip("nflows.transforms")
    torch.manual_seed(0)
    options = {"num_blocks": 1, "use_residual_blocks": False}
    if name == "affine":
        univariate = AffineOfNflows()
        theirs = nflows.MaskedAffineAutoregressiveTransform(D, 16, **options)
    else:
        univariate = SplineOfNflows(BINS, BOUND)
        theirs = nflows.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            D, 16, num_bins=BINS, tails="linear", tail_bound=BOUND, **options
        )
    perturb(theirs.double(), 0.3)
    link = autoregressive(univariate, MaskedMLP, D, (16, 16), 0).double()
    made = theirs.autoregressive_net
    layers = [made.initial_layer, *(block.linear for block in made.blocks), made.final_layer]
    weights_from(layers, link.conditioner)
    reordered(link.conditioner.layers[-1], univariate.parameters_each)
    x = rows(200) * 2
    for ours, expected in zip(link(x), theirs(x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_spline_couplings_are_those_of_nflows():
    nflows = pytest.importorskip("nflows.transforms")
    flow = perturb(diffeo.CouplingNSF(4, layers=1, hidden=(16,)), 0.5).double()
    coupling = flow.bijection[1]
    spline = coupling.univariate

    class Network(torch.nn.Module):
        """Ours, with the parameters of each feature in a row."""

        hidden_features = 1  # by whose root theirs divides

        def forward(self, a, context=None):
            out = coupling.conditioner(a).unflatten(1, (spline.parameters_each, 2))
            widths, derivatives = out.split([2 * spline.bins, spline.bins - 1], dim=1)
            derivatives = derivatives + math.log(math.expm1(1 - 1e-3))
            return torch.cat((widths, derivatives), dim=1).mT.flatten(1)

    theirs = nflows.PiecewiseRationalQuadraticCouplingTransform(
        torch.tensor([0, 0, 1, 1]),
        lambda inputs, outputs: Network(),
        num_bins=spline.bins,
        tails="linear",
        tail_bound=spline.bound,
    )
    x = rows(200, 4) * 2
    for ours, expected in zip(coupling(x), theirs(x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


# Users


@pytest.mark.parametrize("model", [diffeo.MAF, diffeo.IAF, diffeo.NSF, diffeo.CouplingNSF])
@pytest.mark.parametrize("columns", [1, 2])
def test_models_learn_two_clusters_and_a_curve(model, columns):
    torch.manual_seed(0)
    x = torch.randn(2000, columns)
    x[:, 0] = x[:, 0] / 2 + 4 * torch.randint(2, (2000,)) - 2
    truth = torch.stack([torch.distributions.Normal(m, 0.5).log_prob(x[:, 0]) for m in (-2, 2)])
    truth = truth.logsumexp(0) - math.log(2)
    if columns == 2:
        x[:, 1] = x[:, 1] / 2 + x[:, 0].square()
        truth = truth + torch.distributions.Normal(x[:, 0].square(), 0.5).log_prob(x[:, 1])
    flow = model(columns, layers=2, hidden=(32,)).initialize(x)
    before = flow.log_prob(x).mean()
    adam = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(150):
        adam.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        adam.step()
    gained = (flow.log_prob(x).mean() - before) / (truth.mean() - before)
    # Affine maps of one column are Gaussians.
    gaussian = columns == 1 and model in (diffeo.MAF, diffeo.IAF)
    assert gained < 0.1 if gaussian else gained > 0.4, gained


@pytest.mark.parametrize("model", ["MAF", "NSF"])
def test_runs_of_the_command_line_train_sample_and_export(model):
    torch.manual_seed(0)
    lines = ["a", *(f"{value:.4f}" for value in torch.randn(200).exp().tolist())]
    Path("one.csv").write_text("\n".join(lines), encoding="utf-8")
    words = f"train --model {model} --model.layers 2 --model.hidden [8] --data one.csv"
    assert main(f"{words} --trainer.max_epochs 2 --out run".split()) == 0
    config = json.loads(Path("run/model/config.json").read_text(encoding="utf-8"))
    assert model in json.dumps(config)
    assert main(["sample", "run", "-n", "5", "--out", "rows.csv"]) == 0
    assert len(Path("rows.csv").read_text(encoding="utf-8").splitlines()) == 6
    assert main(["export", "run", "--to", "torch", "--out", "files"]) == 0
    assert {path.name for path in Path("files").iterdir()} >= {"score.pt2", "sample.pt2"}
