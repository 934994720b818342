"""Products of matrices by oneDNN: the same numbers, gradients and programs as by PyTorch's own."""

import copy

import pytest
import torch
from torch.autograd import forward_ad

from diffeo import MAF
from diffeo.utils import products
from diffeo.utils.compiling import compile_options
from diffeo.utils.machine import check_compiler
from diffeo.utils.products import matmul

if not torch.backends.mkldnn.is_available():
    pytest.skip("PyTorch has no oneDNN here", allow_module_level=True)

ROWS, INPUTS, OUTPUTS = 1_100, 70, 60  # more multiplications than `LEAST`


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """On every processor oneDNN is taken; the list grows with each call of it."""
    found, exact = [], products.onednn

    def counted(*arguments):
        found.append(arguments[0].shape)
        return exact(*arguments)

    monkeypatch.setattr(products, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(products, "onednn", counted)
    return found


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def close(found, truth):
    scale = truth.abs().max()
    assert torch.allclose(found.double(), truth, atol=float(scale) * 1e-5)


@pytest.mark.parametrize("bias", [None, (OUTPUTS,), (ROWS, 1)])
def test_products_are_those_of_wider_floats(calls, bias):
    left, right = drawn(ROWS, INPUTS), drawn(OUTPUTS, INPUTS).t()
    bias = None if bias is None else drawn(*bias)
    truth = left.double() @ right.double() + (0 if bias is None else bias)
    close(matmul(left, right, bias), truth)
    close(matmul(left.t().contiguous().t(), right.contiguous(), bias), truth)
    assert len(calls) == 2
    close(matmul(left[:9], right), left[:9].double() @ right.double())
    assert torch.equal(matmul(left.double(), right.double()), left.double() @ right.double())
    assert len(calls) == 2  # few rows, and wider floats, are not for it


def test_nothing_that_is_differentiated_or_recorded_is_lost(calls):
    left, right = drawn(ROWS, INPUTS), drawn(INPUTS, OUTPUTS)
    learned = right.clone().requires_grad_()
    matmul(left, learned).square().sum().backward()
    exact = left.double() @ right.double()
    close(learned.grad, 2 * left.t().double() @ exact)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(left, 3 * left)
        close(forward_ad.unpack_dual(matmul(dual, right)).tangent, 3 * exact)
    pair = torch.stack((left, 2 * left))
    close(torch.vmap(lambda x: matmul(x, right))(pair), torch.stack((exact, 2 * exact)))
    slope = torch.func.grad(lambda w: matmul(left, w).sum())(right)
    close(slope, left.double().sum(0)[:, None].expand_as(right))
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul(left, right).dtype == torch.bfloat16
    assert not calls
    traced = torch.jit.trace(matmul, (left, right))
    assert "mkldnn" not in str(traced.graph)


def test_flows_have_the_same_densities_and_gradients(calls):
    torch.manual_seed(0)
    x = drawn(ROWS, 6)
    flow = MAF(6, layers=2).initialize(x)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    wide = copy.deepcopy(flow).double()
    for module, rows in ((flow, x), (wide, x.double())):
        module.log_prob(rows).mean().backward()
    assert calls
    for found, truth in zip(flow.parameters(), wide.parameters(), strict=True):
        if truth.grad is not None:
            close(found.grad, truth.grad)
    with torch.no_grad():
        close(flow.log_prob(x), wide.log_prob(x.double()))


@pytest.fixture
def in_rows(monkeypatch):
    """The sizes of products that compiled programs call from C++."""
    try:
        check_compiler("cpu")
    except ValueError as error:
        pytest.skip(str(error))
    from diffeo.utils import compiled_products

    found, exact = [], compiled_products.LinearUnary

    class Counted:
        @staticmethod
        def create(left, right, *others):
            found.append((*map(str, left.get_size()), *map(str, right.get_size())))
            return exact.create(left, right, *others)

    monkeypatch.setattr(compiled_products, "LinearUnary", Counted)
    with torch._inductor.config.patch(force_disable_caches=True):
        yield found


def test_compiled_programs_take_it_too(calls, in_rows):
    def loss(x, w):
        return (x @ w).relu().square().sum()

    x, w = drawn(ROWS, INPUTS), drawn(INPUTS, OUTPUTS).requires_grad_()
    truth = torch.autograd.grad(loss(x.double(), v := w.detach().double().requires_grad_()), v)[0]
    program = torch.compile(loss, **compile_options("cpu"))
    for rows in (ROWS, ROWS - 1):
        found = torch.autograd.grad(program(x[:rows], w), w)[0]
    assert calls  # of the gradient, whose rows are not contiguous
    assert in_rows
    truth = torch.autograd.grad(loss(x[: ROWS - 1].double(), v), v)[0]
    close(found, truth)


@pytest.mark.parametrize("layout", ["weights as they lie", "weights transposed"])
def test_products_called_from_cpp_are_those_of_wider_floats(in_rows, layout):
    """Of few columns too, and of any number of rows by one program."""
    wide, narrow = drawn(64, 64), drawn(64, 5)
    if layout == "weights transposed":
        wide, narrow = wide.t().contiguous().t(), narrow.t().contiguous().t()

    def scores(x, wide, narrow):
        return (x @ wide).relu() @ narrow

    program = torch.compile(scores, **compile_options("cpu"))
    for rows in (5_000, 4_096, 7_001):
        x = drawn(rows, 64)
        close(program(x, wide, narrow), scores(x.double(), wide.double(), narrow.double()))
    assert len(in_rows) == 2  # one program for all batch sizes
