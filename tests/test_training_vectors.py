"""Weights as vectors: what an optimizer does to them is what it does to single weights."""

import copy

import pytest
import torch
from torch import nn

from diffeo.training.vectors import Vectors


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    net[0].weight.data = net[0].weight.data.to(memory_format=torch.channels_last)
    return net


def groups(net):
    return [
        [p for p in net.parameters() if p.ndim > 1],
        [p for p in net.parameters() if p.ndim < 2],
    ]


def learn(net, adam, start, count):
    for seed in range(count):
        x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).double()
        start()
        net(x).square().sum().backward()
        adam.step()


def test_steps_on_vectors_are_those_on_single_weights():
    single, joined = network(), network()
    options = [{"weight_decay": 0.1}, {"weight_decay": 0.0}]
    one = torch.optim.Adam(
        [{"params": g} | o for g, o in zip(groups(single), options, strict=True)], lr=0.1
    )
    vectors = Vectors(groups(joined))
    many = torch.optim.Adam(
        [{"params": [v]} | o for v, o in zip(vectors.vectors, options, strict=True)], lr=0.1
    )
    learn(single, one, one.zero_grad, 5)
    learn(joined, many, vectors.start, 5)
    for left, right in zip(single.parameters(), joined.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)
    # A state of single weights goes on as one of vectors.
    resumes = Vectors(groups(again := copy.deepcopy(single)))
    resumed = torch.optim.Adam(
        [{"params": [v]} | o for v, o in zip(resumes.vectors, options, strict=True)], lr=0.1
    )
    resumed.load_state_dict(resumes.joined(copy.deepcopy(one.state_dict())))
    learn(single, one, one.zero_grad, 3)
    learn(again, resumed, resumes.start, 3)
    for left, right in zip(single.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_weights_keep_their_values_and_their_order_in_memory():
    net, before = network(), network()
    vectors = Vectors(groups(net))
    assert sum(len(v) for v in vectors.vectors) == sum(p.numel() for p in net.parameters())
    for weight, old in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, old)
        assert weight.stride() == old.stride() == weight.grad.stride()
    vectors.vectors[0].data.zero_()
    assert not net[0].weight.any() and net[0].bias.any()


def test_released_weights_have_memory_of_their_own():
    net = network()
    vectors = Vectors(groups(net))
    vectors.release()
    vectors.vectors[0].data.zero_()
    assert net[0].weight.any()
    assert all(weight.grad is None for weight in net.parameters())
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    sizes = [weight.untyped_storage().nbytes() / 8 for weight in net.parameters()]
    assert sizes == [weight.numel() for weight in net.parameters()]


@pytest.mark.parametrize("learns", [True, False])
def test_only_weights_that_learn_have_a_gradient(learns):
    net = network().requires_grad_(learns)
    vectors = Vectors([*groups(net), []])
    assert len(vectors.vectors) == 2
    assert all((v.grad is not None) == learns for v in vectors.vectors)
    vectors.start()
