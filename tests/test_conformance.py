"""What holds for every bijection and every model, compared with automatic differentiation.

That forward and inverse log-determinants cancel proves little: two errors cancel as well, and at
the zero-initialised start all of them are zero. So each map is moved away from its start first.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from constructors import BIJECTIONS, ENTRIES, MODELS, Entry, another, subclasses
from torch import Tensor, nn

import diffeo
from diffeo import Flow
from diffeo.bases import Logistic, Normal
from diffeo.bijections import Affine, Bijection, Univariate

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-4}
every = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
every_bijection = pytest.mark.parametrize("entry", BIJECTIONS.values(), ids=BIJECTIONS.keys())
every_model = pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS.keys())
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def base_log_prob(flow: Flow, z: Tensor) -> Tensor:
    """Written otherwise than in the package."""
    if isinstance(flow.base, Normal):
        return torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(z).sum(1)
    if isinstance(flow.base, Logistic):
        return (-z - 2 * F.softplus(-z)).sum(1)
    return flow.base.log_prob(z)  # which tests/test_bases.py compares


def forward(module: nn.Module, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """A flow is read as a bijection: what its density has beyond the base's is log|det|."""
    if not isinstance(module, Flow):
        return module(x, context)
    z = module.encode(x, context)
    return z, module.log_prob(x, context) - base_log_prob(module, z)


def inverse(module: nn.Module, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(module, Flow):
        return module.inverse(z, context)
    x = module.decode(z, context)
    return x, base_log_prob(module, z) - module.log_prob(x, context)


def both_directions(module: nn.Module, x: Tensor, context: Tensor | None):
    """Each direction with a point of the space that it starts from."""
    return (forward, x), (inverse, forward(module, x, context)[0].detach())


def autodiff_log_det(function, x: Tensor, tolerance: float = 0.0) -> Tensor:
    """log|det| of each row's Jacobian; no row may depend on another, beyond the tolerance."""
    n = len(x)
    # Row by row, as training differentiates, and not by `torch.func`: gradients written by hand
    # have to be right too.
    jacobian = torch.autograd.functional.jacobian(function, x)
    jacobian = jacobian.reshape(n, x[0].numel(), n, x[0].numel())
    for i in range(n):
        for j in range(n):
            assert i == j or (jacobian[i, :, j].abs() <= tolerance).all()
    return torch.stack([torch.linalg.slogdet(jacobian[i, :, i])[1] for i in range(n)])


def refusal(call, *args, **options) -> str:
    """The one sentence with which a call is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        call(*args, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert not re.search(r"\w\. ", sentence)
    return sentence


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# The map and its log-determinant


@both_dtypes
@every
def test_log_det_is_the_jacobians(entry: Entry, dtype: torch.dtype):
    module, x, context = entry.ready(dtype), entry.x(4, dtype), entry.context(4, dtype)
    y, log_det = forward(module, x, context)
    close = {"rtol": DTYPES[dtype], "atol": DTYPES[dtype] * 10 ** isinstance(module, Flow)}
    close = {name: max(each, entry.tolerance) for name, each in close.items()}
    truth = autodiff_log_det(lambda x: forward(module, x, context)[0], x, entry.tolerance)
    if entry.exact:
        torch.testing.assert_close(log_det, truth, **close)
    _, back = inverse(module, y, context)
    truth = autodiff_log_det(lambda y: inverse(module, y, context)[0], y, entry.tolerance)
    if entry.exact:
        torch.testing.assert_close(back, truth, **close)
    assert log_det.shape == back.shape == (4,)
    assert log_det.dtype == back.dtype == y.dtype == dtype


@every
def test_log_det_is_away_from_zero_and_varies(entry: Entry):
    """Else the comparison above would compare nothing."""
    module, x, context = entry.ready(), entry.x(4), entry.context(4)
    y, log_det = forward(module, x, context)
    both = torch.stack([log_det, inverse(module, y, context)[1]])
    if entry.volume_preserving:
        assert not both.any()
        return
    assert (both.abs() > 1e-3).all()
    if entry.log_det == "varying":
        assert (both.std(1) > 1e-2).all()
    else:
        assert (both.std(1) < 1e-12).all()


@both_dtypes
@every
def test_round_trips(entry: Entry, dtype: torch.dtype):
    module, x, context = entry.ready(dtype), entry.x(5, dtype), entry.context(5, dtype)
    close = dict.fromkeys(("rtol", "atol"), max(DTYPES[dtype], entry.tolerance))
    y, there = forward(module, x, context)
    again, back = inverse(module, y, context)
    torch.testing.assert_close(again, x, **close)
    torch.testing.assert_close(back, -there, rtol=0, atol=close["atol"] * 10)
    # A point of noise that no data was encoded to.
    z = forward(module, entry.x(5, dtype, seed=8), context)[0].roll(1, 0)
    torch.testing.assert_close(
        forward(module, inverse(module, z, context)[0], context)[0], z, **close
    )
    # Not the identity, which would pass all of this. (A chain of no links is.)
    assert (
        not len(list(module.children()))
        or y.shape != x.shape
        or not torch.allclose(y, x)
        or entry.volume_preserving
    )


@every
def test_rows_stand_alone(entry: Entry):
    module, x, context = entry.ready(), entry.x(3), entry.context(3)
    for direction, start in both_directions(module, x, context):
        whole = direction(module, start, context)
        for i in range(3):
            row = slice(i, i + 1)
            part = direction(module, start[row], None if context is None else context[row])
            for a, b in zip(part, whole, strict=True):
                close = max(1e-11, entry.tolerance)
                torch.testing.assert_close(a, b[row], rtol=close, atol=close)
        nothing, log_det = direction(module, start[:0], None if context is None else context[:0])
        assert nothing.shape == whole[0][:0].shape
        assert log_det.shape == (0,)


@every
def test_context_conditions(entry: Entry):
    if not entry.context_features:
        return
    module, x = entry.ready(), entry.x(5)
    for direction, start in both_directions(module, x, entry.context(5)):
        one, other = (direction(module, start, entry.context(5, seed=seed)) for seed in (1, 2))
        # In a network of a few ReLUs a row may depend on none.
        assert (one[0] != other[0]).flatten(1).any(1).float().mean() > 0.7
        if entry.log_det == "varying":
            assert (one[1] != other[1]).float().mean() > 0.7


# Manners


@every
def test_input_and_random_state_are_left_alone(entry: Entry):
    module, x, context = entry.ready(), entry.x(5), entry.context(5)
    before, state = copy.deepcopy((x, context)), torch.get_rng_state()
    weights = copy.deepcopy(module.state_dict())
    y = forward(module.train(not entry.normalizes_batches), x, context)[0]
    inverse(module, y, context)
    assert torch.equal(x, before[0])
    assert context is None or torch.equal(context, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(weights.values(), module.state_dict().values())


@every
def test_training_mode_changes_no_number(entry: Entry):
    module, x, context = entry.ready(), entry.x(5), entry.context(5)
    if entry.normalizes_batches:
        pytest.skip("batch normalization differs by design: tests/test_pixels.py")
    for direction, start in both_directions(module, x, context):
        assert equal(
            direction(module.eval(), start, context), direction(module.train(), start, context)
        )


@every
def test_gradients_reach_every_parameter_and_the_input(entry: Entry):
    module, context = entry.ready(), entry.context(32)
    x = entry.x(32).requires_grad_()
    if isinstance(module, Flow):
        module.log_prob(x, context).sum().backward()
    else:
        y, log_det = module(x, context)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward(retain_graph=True)
        if log_det.requires_grad:
            log_det.sum().backward()
    for name, tensor in [*module.named_parameters(), ("x", x)]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.any(), name


@pytest.mark.parametrize("name", ["nested, context", "RealNVP Normal 3, context"])
def test_gradients_are_the_numerical_ones(name: str):
    entry = ENTRIES[name]
    module, x, context = entry.ready(), entry.x(2), entry.context(2)
    weights = {k: v.detach().requires_grad_() for k, v in module.named_parameters()}
    names = list(weights)

    def function(x: Tensor, *values: Tensor) -> Tensor:
        arguments = dict(zip(names, values, strict=True))
        method = "log_prob" if isinstance(module, Flow) else "forward"
        with torch.nn.utils.stateless._reparametrize_module(module, arguments):
            return getattr(module, method)(x, context)

    assert torch.autograd.gradcheck(
        function, (x.requires_grad_(), *weights.values()), fast_mode=True
    )


# Moving and keeping


@every
def test_double_copy_and_other_devices(entry: Entry):
    module, x, context = entry.ready(torch.float32), entry.x(4), entry.context(4)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in twin.double().parameters():
            p.zero_()
    assert all(p.any() for p in module.parameters())
    doubled = copy.deepcopy(module).double()
    y, log_det = forward(doubled, x, context)
    assert y.dtype == log_det.dtype == torch.float64
    single = forward(module, x.float(), None if context is None else context.float())
    torch.testing.assert_close(single[0].double(), y, rtol=1e-4, atol=1e-4)
    moved = copy.deepcopy(doubled).to("meta")
    assert all(t.is_meta for t in [*moved.parameters(), *moved.buffers()])
    # A tensor that is neither parameter nor buffer would stay behind.
    plain = [value for part in moved.modules() for value in vars(part).values()]
    assert not any(isinstance(value, Tensor) for value in plain)
    if entry.tolerance:
        return  # a solver that looks at its error
    for direction, start in both_directions(doubled, x, context):
        result = direction(moved, start.to("meta"), None if context is None else context.to("meta"))
        assert all(t.is_meta for t in result)


@every
def test_state_dict_carries_everything(entry: Entry):
    module, x, context = entry.ready(), entry.x(4), entry.context(4)
    loaded = another(entry).double()
    loaded.load_state_dict(module.state_dict())
    # What has been initialised stays as it is, whatever data it is initialised with again.
    loaded.train(not entry.normalizes_batches).initialize(entry.x(8, seed=5), entry.context(8))
    for direction, start in both_directions(module, x, context):
        assert equal(direction(loaded, start, context), direction(module, start, context))


@both_dtypes
@every_model
def test_pretrained_is_the_same_bit_for_bit(entry: Entry, dtype: torch.dtype):
    flow, x, context = entry.ready(dtype), entry.x(4, dtype), entry.context(4, dtype)
    flow.metadata = {"columns": ["a", "b"], "nested": {"one": 1.5}}
    copy.deepcopy(flow).save_pretrained("model")
    assert {path.name for path in Path("model").iterdir()} == {"config.json", "model.safetensors"}
    loaded = Flow.from_pretrained("model")
    assert type(loaded) is type(flow)
    assert not loaded.training
    assert loaded.metadata == flow.metadata
    for direction, start in both_directions(flow, x, context):
        assert equal(direction(loaded, start, context), direction(flow, start, context))
    assert all(p.requires_grad for p in loaded.parameters())
    assert equal(forward(loaded.train(), x * 9, context), forward(flow, x * 9, context))


# Refusals


@every_model
def test_what_does_not_fit_is_refused(entry: Entry):
    flow, x, context = entry.ready(), entry.x(3), entry.context(3)
    width = entry.shape[0]
    for method in (flow.log_prob, flow.encode, flow.decode):
        assert f"(batch, {width})" in refusal(method, x[:, 1:], context)
        assert f"(batch, {width})" in refusal(method, x[0], context)
        assert f"(batch, {width})" in refusal(method, x[None], context)
        assert "float32" in refusal(method, x.float(), context)
        assert "int64" in refusal(method, x.long(), context)
        if context is None:
            assert "no context" in refusal(method, x, torch.zeros(3, 2).double())
            continue
        assert "needs a context" in refusal(method, x)
        for wrong in (context[:2], context[:, :1], context[0], context[None]):
            assert "needs a context of shape (3, 2)" in refusal(method, x, wrong)
        assert "context is torch.float32" in refusal(method, x, context.float())
    if context is None:
        assert "no context" in refusal(flow.sample, 3, torch.zeros(3, 2).double())
        return
    for wrong in (None, context[:2], context[:, :1]):
        assert "needs a context" in refusal(flow.sample, 3, wrong)


def test_small_refusals():
    assert "at least 2" in refusal(lambda: diffeo.RealNVP(1))
    assert "0 to 100,000" in refusal(lambda: diffeo.RealNVP(2, context=-1))
    assert "bound" in refusal(lambda: diffeo.RealNVP(2, univariate=Affine(0.0)))
    assert "permutation" in refusal(lambda: diffeo.bijections.reshape.Permutation([0, 2]))
    link = diffeo.bijections.elementwise.Standardize(2)
    assert "at least 2 rows" in refusal(lambda: link.initialize(torch.ones(1, 2)))
    assert "feature 1" in refusal(lambda: link.initialize(torch.tensor([[1.0, 2.0], [2.0, 2.0]])))
    assert not link.initialized


def test_the_second_half_of_an_odd_width_is_the_wider():
    for keep, identity, transformed in (("first", 2, 3), ("second", 3, 2)):
        split = diffeo.bijections.splits.FeatureSplit(5, keep)
        assert (split.identity, split.transformed) == (identity, transformed)
        sizes = [part.shape[1] for part in split.split(torch.zeros(1, 5))]
        assert sizes == [identity, transformed]


def test_every_map_has_examples():
    for cls in {*subclasses(Bijection), *subclasses(Univariate)}:
        assert list(cls.examples()), f"{cls.__name__} has no examples"
