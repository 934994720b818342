"""Weights as vectors: what an optimizer does to them is what it does to single weights."""

import copy

import pytest
import torch
from torch import nn

from diffeo import RealNVP
from diffeo.data import Split
from diffeo.training.adam import AveragedAdam
from diffeo.training.loop import Observer, Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
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


def loss(net, seed):
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).double()
    return net(x).square().sum()


def learn(net, adam, seeds, clip):
    """The norms of the gradients of steps of one of torch's optimizers."""
    norms = []
    for seed in seeds:
        adam.zero_grad()
        loss(net, seed).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), clip))
        adam.step()
    return norms


def learn_averaged(net, adam, seeds):
    norms = []
    for seed in seeds:
        adam.weights.start()
        loss(net, seed).backward()
        norms.append(adam.clip())
        adam.step(0.5)
    return norms


def assert_same_weights(one, other):
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_steps_are_those_of_adam_of_torch_and_go_on_from_its_state(l2):
    options = OptimizerOptions(l2=l2, schedule="constant", clip=4.0)
    single, ours = network(), network()
    theirs = torch.optim.Adam(options.groups(single), lr=0.1)
    adam = AveragedAdam(ours, copy.deepcopy(ours).requires_grad_(False), options, 0.1)
    norms = learn(single, theirs, range(5), 4.0)
    torch.testing.assert_close(learn_averaged(ours, adam, range(5)), norms)
    assert min(norms) < 4.0 < max(norms)
    assert_same_weights(single, ours)
    for state in (copy.deepcopy(theirs.state_dict()), copy.deepcopy(adam.state_dict())):
        again = copy.deepcopy(ours)
        resumed = AveragedAdam(again, copy.deepcopy(again).requires_grad_(False), options, 0.1)
        resumed.load_state_dict(state)
        twin = copy.deepcopy(single)
        other = torch.optim.Adam(options.groups(twin), lr=0.1)
        other.load_state_dict(copy.deepcopy(theirs.state_dict()))
        learn(twin, other, range(5, 8), 4.0)
        learn_averaged(again, resumed, range(5, 8))
        assert_same_weights(twin, again)


def test_averages_follow_the_weights():
    net = network()
    averaged = copy.deepcopy(net).requires_grad_(False)
    before = [weight.clone() for weight in net.parameters()]
    adam = AveragedAdam(net, averaged, OptimizerOptions(ema=0.5), 0.1)
    learn_averaged(net, adam, range(1))
    adam.average(step=100)
    for old, new, average in zip(before, net.parameters(), averaged.parameters(), strict=True):
        assert not torch.equal(old, new)
        torch.testing.assert_close(average, (old + new) / 2)


def test_a_state_of_other_weights_is_refused():
    small, large = nn.Linear(2, 3), nn.Linear(3, 3)
    adams = [
        AveragedAdam(net, copy.deepcopy(net).requires_grad_(False), OptimizerOptions(), 0.1)
        for net in (small, large)
    ]
    with pytest.raises(ValueError, match="6 weights are not 9"):
        adams[1].load_state_dict(adams[0].state_dict())


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


def test_a_training_that_is_run_again_goes_on():
    torch.manual_seed(0)
    rows = Split(torch.randn(200, 2) @ torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    flows = [RealNVP(2, layers=2, hidden=(8,)).initialize(rows.x)]
    flows.append(copy.deepcopy(flows[0]))

    class Interrupt(Observer):
        def on_epoch_end(self, training):
            if training.epoch == 2 and self not in done:
                done.append(self)
                raise KeyboardInterrupt

    done = []
    unbroken, broken = (
        Training(
            flow,
            rows,
            rows,
            optimizer=OptimizerOptions(),
            options=TrainerOptions(batch_size=50, device="cpu"),
            seed=0,
            steps=16,
            every=4,
            observers=observers,
        )
        for flow, observers in zip(flows, ([], [Interrupt()]), strict=True)
    )
    unbroken.run()
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert broken.epoch == 2
    broken.run()
    assert broken.history == unbroken.history
    assert_same_weights(*flows)


@pytest.mark.parametrize("learns", [True, False])
def test_only_weights_that_learn_have_a_gradient(learns):
    net = network().requires_grad_(learns)
    vectors = Vectors([*groups(net), []])
    assert len(vectors.vectors) == 2
    assert all((v.grad is not None) == learns for v in vectors.vectors)
    vectors.start()
