"""Networks of compiled programs, by blocks of rows: the numbers and gradients of autograd."""

import copy
import warnings

import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp, vmap

from diffeo import MAF, RealNVP
from diffeo.networks import MLP, MaskedMLP, mlp_blocks
from diffeo.utils.compiling import compile_options
from diffeo.utils.machine import check_compiler

try:
    check_compiler("cpu")
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)

SHAPES = [
    (1, 6, (3, 4, 5)),
    (5, 10, (64, 64)),
    (43, 86, (64, 64)),
    (7, 50, (130, 33)),
    (20, 3, (9,)),
    (0, 4, (8, 8)),
]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(inputs, outputs, hidden, masked=False):
    """One with weights that are not zero."""
    made = (MaskedMLP if masked else MLP)(inputs, outputs, hidden)
    with torch.no_grad():
        for i, weight in enumerate(made.parameters()):
            weight.add_(drawn(*weight.shape, seed=i), alpha=0.3)
    return made


@pytest.fixture(scope="module", autouse=True)
def library():
    """It is there: no warning says that it could not be compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not mlp_blocks.prepared():
            pytest.skip("the processor has no AVX2")


@pytest.fixture
def calls(monkeypatch):
    """The list grows each time that a network asks whether it is computed by blocks, and is."""
    found, exact = [], mlp_blocks.takes

    def asked(*given):
        answer = exact(*given)
        if answer:
            found.append(1)
        return answer

    monkeypatch.setattr(mlp_blocks, "takes", asked)
    return found


def weights(layers):
    linear = layers.layers[::2]
    masks = [getattr(layer, "mask", torch.ones(())) for layer in linear]
    return [part for m, p in zip(masks, linear, strict=True) for part in (p.weight * m, p.bias)]


@pytest.mark.parametrize(("inputs", "outputs", "hidden"), SHAPES)
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 500])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients_are_those_of_float64(inputs, outputs, hidden, rows, masked):
    if masked:
        inputs = 2 + min(inputs, outputs)  # of one feature there are no weights
        outputs = 2 * inputs
    given = [part.detach() for part in weights(network(inputs, outputs, hidden, masked))]
    x, by = drawn(rows, inputs).t(), drawn(outputs, rows, seed=1)
    found, true = (
        [part.detach().to(dtype).requires_grad_() for part in (x, *given)]
        for dtype in (torch.float32, torch.float64)
    )
    out, truth = mlp_blocks.by_blocks(*found), mlp_blocks.plain(*true)
    torch.testing.assert_close(out.double(), truth, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(mlp_blocks.by_blocks(*found), out)
    gradients = torch.autograd.grad(out, found, by)
    for part, same in zip(gradients, torch.autograd.grad(truth, true, by.double()), strict=True):
        assert part.shape == same.shape
        assert (part - same).norm() <= 1e-5 * same.norm() + 1e-6


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_the_rows(threads):
    before = torch.get_num_threads()
    given = weights(network(5, 10, (64, 64)))
    given = [part.detach().requires_grad_() for part in given]
    x = drawn(5, 5_001)
    try:
        torch.set_num_threads(threads)
        found = torch.autograd.grad(mlp_blocks.by_blocks(x, *given).square().mean(), given)
    finally:
        torch.set_num_threads(before)
    truth = torch.autograd.grad(mlp_blocks.plain(x, *given).square().mean(), given)
    for part, same in zip(found, truth, strict=True):
        torch.testing.assert_close(part, same, atol=1e-6, rtol=1e-4)


def test_x_may_lie_in_memory_in_any_order():
    given = [part.detach() for part in weights(network(6, 4, (8,)))]
    x = drawn(6, 100)
    truth = mlp_blocks.by_blocks(x, *given)
    turned = x.t().contiguous().t()
    torch.testing.assert_close(mlp_blocks.by_blocks(turned, *given), truth, rtol=0, atol=0)
    every_other = torch.stack([x, -x], dim=2)[:, :, 0]
    assert not every_other.is_contiguous()
    torch.testing.assert_close(mlp_blocks.by_blocks(every_other, *given), truth, rtol=0, atol=0)


def test_nan_stays_nan():
    given = [part.detach() for part in weights(network(3, 2, (8, 8)))]
    x = drawn(3, 70)
    x[1, 5] = torch.nan
    out = mlp_blocks.by_blocks(x, *given)
    assert out[:, 5].isnan().all()
    assert out.isfinite().sum() == out.numel() - len(out)


def test_it_can_be_differentiated_twice_and_by_each_row():
    given = [part.detach() for part in weights(network(3, 1, (16, 16)))]
    x = drawn(3, 1)

    def by(function, x):
        return function(x, *given).sum() + function(x, *given).square().sum()

    for derivative in (grad, hessian):
        found, truth = (
            derivative(lambda x, f=f: by(f, x))(x) for f in (mlp_blocks.by_blocks, mlp_blocks.plain)
        )
        torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    rows = drawn(8, 3, 1)
    found, truth = (
        vmap(lambda x, f=f: f(x, *given))(rows) for f in (mlp_blocks.by_blocks, mlp_blocks.plain)
    )
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    found, truth = (
        jvp(lambda x, f=f: f(x, *given), (x,), (rows[0],))[1]
        for f in (mlp_blocks.by_blocks, mlp_blocks.plain)
    )
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [RealNVP, MAF])
def test_a_compiled_flow_scores_by_it(make, calls):
    flow = make(4, layers=2, hidden=(8, 8))
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(drawn(*weight.shape), alpha=0.1)
    flow.eval()
    compiled = copy.deepcopy(flow).compile()
    for rows in (300, 7, 1):
        x = drawn(rows, 4)
        with torch.no_grad():
            torch.testing.assert_close(compiled.log_prob(x), flow.log_prob(x), atol=1e-4, rtol=1e-4)
    assert calls
    assert copy.deepcopy(compiled)._program is None  # a program is of one flow
    with torch.no_grad():  # what changes is seen
        for weight in compiled.parameters():
            weight.mul_(0.5)
    torch.testing.assert_close(compiled.log_prob(x), copy.deepcopy(compiled).log_prob(x))
    compiled.double()
    found = compiled.log_prob(x.double())
    torch.testing.assert_close(found, copy.deepcopy(compiled).log_prob(x.double()))


def test_gradients_of_a_compiled_function_are_those_without(calls):
    layers, x = network(3, 2, (8, 8)), drawn(50, 3)
    given = {name: weight.detach() for name, weight in layers.named_parameters()}

    def loss(given, x):
        return functional_call(layers, given, (x,)).square().mean()

    compiled = torch.compile(grad(loss), fullgraph=True, **compile_options("cpu"))
    found, truth = compiled(given, x), grad(loss)(given, x)
    assert calls
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], atol=1e-6, rtol=1e-4)


def test_a_compiler_that_fails_is_announced(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(CppCodeCache, "load", fail)
    with pytest.warns(UserWarning, match=r"could not be compiled \(OSError\)"):
        assert not mlp_blocks.prepared.__wrapped__()


def test_only_programs_in_float32_on_a_cpu_take_it():
    given = [part.detach() for part in weights(network(3, 2, (8, 8)))]
    assert not mlp_blocks.takes(drawn(9, 3), given)  # nothing is compiled
