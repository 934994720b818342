"""How numbers lie in memory and how precise they are changes the speed, never the answer."""

import copy

import pytest
import torch
import torch.distributed as dist
from constructors import checkerboard, coupling, perturb
from torch import nn

from diffeo import ImageRealNVP
from diffeo.bijections import Chain
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.normalization import ActNorm, BatchNorm
from diffeo.networks.resnet import ConvNet, ResNet

LAYOUTS = (torch.contiguous_format, torch.channels_last)
COUPLINGS = {
    "compact": lambda: checkerboard("compact", "main"),
    "masked": lambda: checkerboard("masked", "main"),
    "table": lambda: coupling("first", 5),
}
every_coupling = pytest.mark.parametrize("name", COUPLINGS)


def made(name: str) -> tuple[Coupling, torch.Tensor]:
    """A coupling away from its start that has seen batches, in training mode, and data for it."""
    shape = (5,) if name == "table" else (2, 8, 8)
    link, x = perturb(COUPLINGS[name]()), torch.randn(16, *shape)
    for part in link.modules():
        if isinstance(part, BatchNorm):
            part.restart()
    link(x)
    return link, x


def close(one, other, tolerance: float = 1e-10) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Layout


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("make", [ResNet, ConvNet])
def test_networks_take_any_layout_and_convolve_in_one(make, train):
    net = perturb(make(3, 5, 4)).double().train(train)
    laid_out = []
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _, inputs: laid_out.append(inputs[0]))
    answers = []
    for layout in LAYOUTS:
        net.zero_grad()
        x = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(1)).double()
        x = x.to(memory_format=layout).requires_grad_()
        y = net(x)
        y.square().sum().backward()
        answers.append((y, x.grad, *(p.grad for p in net.parameters())))
    close(*answers)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in laid_out)
    assert len(laid_out) >= 6


@pytest.mark.parametrize("kind", ["compact", "masked"])
@pytest.mark.parametrize("train", [True, False])
def test_a_flow_takes_any_layout(kind, train):
    flow = perturb(ImageRealNVP((3, 8, 8), 2, 4, 1, checkerboard=kind)).double().train(train)
    x = torch.rand(6, 3, 8, 8).double() * 255
    answers = [flow.bijection(x.to(memory_format=layout)) for layout in LAYOUTS]
    close(*answers)
    back = [flow.bijection.inverse(z) for z, _ in answers]
    close(*back)


# Batch normalization by PyTorch's kernel


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernel_is_the_formula(train, layout):
    written = BatchNorm(3).double()
    written.restart()
    written(torch.randn(20, 3, 4, 5).double() * 2 + 1)
    kernel = copy.deepcopy(written)
    results = []
    for norm, call in ((written, lambda x: written(x)[0]), (kernel, kernel.normalize)):
        norm.train(train)
        x = torch.randn(20, 3, 4, 5, generator=torch.Generator().manual_seed(1)).double() * 3 - 2
        x = x.to(memory_format=layout).requires_grad_()
        y = call(x)
        (gradient,) = torch.autograd.grad((y * torch.arange(5)).sin().sum(), x)
        again = call(x / 2)
        results.append((y, gradient, again, *norm.buffers()))
    close(*results)


def test_statistics_stay_in_float32():
    norm, x = BatchNorm(2), torch.randn(16, 2, 8, 8) * 3 + 5
    rounded = x.bfloat16()
    norm.restart()
    for train in (True, False):
        norm.train(train)
        assert norm.normalize(rounded).dtype == torch.bfloat16
        assert {b.dtype for b in norm.buffers()} == {torch.float32}
    var, mean = torch.var_mean(rounded.float(), (0, 2, 3), correction=0)
    close((norm.running_mean, norm.running_var), (mean, var), 1e-5)


def normalized() -> Chain:
    """Batch normalization in a network and between couplings, and actnorm, old and new."""
    old = ActNorm(2).train()
    old.initialize(torch.randn(9, 2, 4, 4, generator=torch.Generator().manual_seed(2)) * 3)
    return Chain(perturb(checkerboard("compact", "main")), BatchNorm(2), old, ActNorm(2)).double()


def one_of_two(rank: int, folder: str, state: dict) -> None:
    """A process with half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    link = normalized()
    link.load_state_dict(state["link"])
    torch.save(results_of(link, state["x"].chunk(2)[rank], rank), f"{folder}/{rank}")
    dist.destroy_process_group()


def results_of(link: nn.Module, x: torch.Tensor, half: int | None = None) -> dict[str, list]:
    link.initialize(x)
    y, log_det = link(x)
    weights = torch.linspace(-1, 1, 16, dtype=y.dtype).view(16, 1, 1, 1)
    weights = weights if half is None else weights.chunk(2)[half]
    ((y * weights).sum() + log_det.square().sum()).backward()
    gradients = [p.grad for p in link.parameters()]
    if half is not None:
        for gradient in gradients:
            dist.all_reduce(gradient)
    shared = [t.detach().to(y.dtype) for t in (*gradients, *link.buffers(), *link.parameters())]
    return {
        "rows": [y.detach(), log_det.detach()],
        "all": shared,
        "old": list(link[2].parameters()),
    }


def test_two_processes_are_one_of_twice_the_batch(tmp_path):
    link, x = normalized(), torch.randn(16, 2, 4, 4).double() + 1
    state = copy.deepcopy({"link": link.state_dict(), "x": x})
    whole = results_of(link, x)
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path), state), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}") for rank in range(2)]
    rows = zip(*(half["rows"] for half in halves), strict=True)
    close([torch.cat(parts) for parts in rows], whole["rows"])
    for half in halves:
        close(half["all"], whole["all"])
        close(half["old"], normalized()[2].parameters(), 0)
    y, _ = whole["rows"]
    close((y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)), (y.new_zeros(2), y.new_ones(2)))


# Precision of the networks


@every_coupling
@pytest.mark.parametrize("train", [True, False])
def test_a_coupling_is_undone_whatever_its_networks_precision(name, train):
    link, x = made(name)
    link.train(train).precision = torch.bfloat16
    parameters, layers = [], []
    link.conditioner.register_forward_hook(lambda _, inputs, y: parameters.append(y))
    for part in link.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(lambda _, inputs, y: layers.append(y.dtype))
    y, log_det = link(x)
    back, undone = link.inverse(y)
    assert set(layers) == {torch.bfloat16}
    assert torch.equal(*parameters)
    assert y.dtype == log_det.dtype == back.dtype == undone.dtype == torch.float32
    close((back, undone), (x, -log_det), 1e-5)


@every_coupling
def test_training_in_bfloat16(name):
    link, x = made(name)
    link.precision = torch.bfloat16
    x.requires_grad_()
    y, log_det = link(x)
    (y.square().sum() - log_det.sum()).backward()
    for tensor in (x, *link.parameters()):
        assert tensor.grad.dtype == tensor.dtype == torch.float32
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    assert all(b.dtype == torch.float32 for b in link.buffers())


@every_coupling
def test_float64_is_as_it_was(name):
    link, x = made(name)
    link.double().eval()
    expected = link(x.double())
    assert {t.dtype for t in expected} == {torch.float64}
    # Autocast leaves float64 alone, so that a precision does no harm there.
    link.precision = torch.bfloat16
    close(link(x.double()), expected)


@pytest.mark.parametrize("kind", ["compact", "masked"])
def test_a_likelihood_in_bfloat16_is_nearly_that_of_float32(kind):
    flow = perturb(ImageRealNVP((3, 16, 16), 2, 8, 2, checkerboard=kind), 0.05)
    x = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    norms = [part for part in flow.modules() if isinstance(part, BatchNorm)]
    results = []
    for precision in (None, torch.bfloat16):
        for part in flow.modules():
            if isinstance(part, Coupling):
                part.precision = precision
        for norm in norms:
            norm.restart()
        for train in (True, False):
            flow.train(train)
            results.append(flow.log_prob(x, generator=torch.Generator().manual_seed(1)))
    for exact, rounded in zip(results[:2], results[2:], strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)
        assert not torch.equal(rounded, exact)
