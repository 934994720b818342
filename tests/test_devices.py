"""Whether everything computes on a GPU, shown without one: see `fake_device`."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from constructors import BIJECTIONS, MODELS, Entry
from fake_device import DeviceError, FakeDevice
from torch import Tensor

from diffeo import latent
from diffeo.bijections import Bijection, Chain, InvertibleConv1x1, Scale
from diffeo.context import ContextSpec
from diffeo.data import Split
from diffeo.evaluation.likelihood import evaluate_batches, log_probs, mixture_log_prob
from diffeo.evaluation.scores import Reference, score
from diffeo.flow import Flow
from diffeo.models import NICE, Glow, ImageRealNVP, RealNVP
from diffeo.training.loop import Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.machine import widest

KINDS = ("cuda", "mps")
as_on = pytest.mark.parametrize("kind", KINDS)
Batch = tuple[Tensor, Tensor | None]

glow = partial(Glow, (1, 4, 4), levels=2, steps=1, hidden_channels=4)
image_realnvp = partial(ImageRealNVP, (1, 4, 4), hidden_channels=4, blocks=1)
# Those that the conformance tests read as bijections, since they take pixels, or rounded numbers.
DISCRETE = {
    "Glow": glow,
    "Glow, dense": partial(glow, lu=False),
    "Glow, shuffle": partial(glow, permutation="shuffle", bits=5),
    "Glow, context": partial(glow, context=2),
    "Glow, classes": partial(glow, context=ContextSpec.classes(3)),
    "ImageRealNVP": image_realnvp,
    "ImageRealNVP, masked": partial(image_realnvp, checkerboard="masked"),
    "ImageRealNVP, classes": partial(image_realnvp, context=ContextSpec.classes(3)),
    "NICE of images": partial(NICE, (1, 4, 4), hidden=(8,)),
    "RealNVP, rounded": partial(RealNVP, 3, layers=2, hidden=(8,), steps=(0.1, 0, 2)),
}
# Of the others each class, with each base and each kind of context.
TABLES = {
    name: entry.make
    for name, entry in MODELS.items()
    if (entry.shape == (3,) or name.startswith("TableFlow")) and not entry.waits
}
FLOWS = TABLES | DISCRETE


def batch_for(flow: Flow, rows: int = 6) -> Batch:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *flow.shape, generator=source)
    if flow.takes_pixels:
        x = torch.randint(256, x.shape, generator=source).to(torch.uint8)
    elif flow.dequantizer is not None:
        x = torch.stack(((x[:, 0] * 10).round() / 10, x[:, 1], 2 * x[:, 2].round()), dim=1)
    context = None
    if flow.context.category is not None:
        context = torch.arange(rows) % flow.context.width
    elif flow.context:
        context = torch.randn(rows, flow.context.width, generator=source)
    return x, context


def made(name: str) -> tuple[Flow, Batch]:
    """A flow that is away from its start, in eval mode, and a batch for it."""
    torch.manual_seed(0)
    flow = FLOWS[name]()
    batch = batch_for(flow, 40)
    flow.train().initialize(*batch)
    flow.recalibrate([batch], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return flow.eval(), batch_for(flow)


def moved(kind: str, *parts):
    return [None if part is None else copy.deepcopy(part).to(kind) for part in parts]


def assert_same(ours: Tensor, expected: Tensor) -> None:
    assert ours.device.type in KINDS
    torch.testing.assert_close(ours.detach().cpu(), expected.detach(), rtol=2e-4, atol=2e-4)


# What users call


@as_on
@pytest.mark.parametrize("entry", BIJECTIONS.values(), ids=BIJECTIONS.keys())
def test_every_bijection_computes_on_the_device_alone(entry: Entry, kind):
    link, x, context = entry.ready(torch.float32), entry.x(4, torch.float32), entry.context(4)
    context = None if context is None else context.float()
    there = link(x, context)
    back = link.inverse(there[0], context)
    with FakeDevice(kind) as device, device.hot():
        with device.warm():
            link, x, context = moved(kind, link, x, context)
        with device.warm() if entry.waits else nullcontext():
            y = link(x, context)
            results = (*y, *link.inverse(y[0], context))
        for ours, expected in zip(results, (*there, *back), strict=True):
            with device.warm():
                assert_same(ours, expected)


@as_on
@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_scores_and_samples_on_the_device_alone(name, kind):
    flow, (x, context) = made(name)

    def results(flow, x, context, place):
        noise = [torch.Generator(place).manual_seed(seed) for seed in range(5)]
        z = flow.encode(x, context)
        yield z
        yield flow.encode(x, context, generator=noise[0])
        yield flow.decode(z, context)
        yield flow.log_prob(x, context, generator=noise[1])
        yield flow.bits_per_dim(x, context, generator=noise[2])
        yield flow.noise(len(x), noise[3])
        yield flow.sample(len(x), context, temperature=0.7, generator=noise[4])

    with torch.no_grad():
        expected = [*results(flow, x, context, "cpu")]
    with FakeDevice(kind) as device, torch.no_grad():
        flow, x, context = moved(kind, flow, x, context)
        with device.hot():
            ours = [*results(flow, x, context, kind)]
            assert flow.sample(2, None if context is None else context[:2]).device == flow.device
        for one, other in zip(ours, expected, strict=True):
            assert_same(one, other)
        assert (
            flow.log_prob(x, context, generator=torch.Generator().manual_seed(0)).isfinite().all()
        )


@as_on
@pytest.mark.parametrize("memory", ["stored", "constant"])
@pytest.mark.parametrize("name", FLOWS)
def test_a_step_of_training_computes_on_the_device_alone(name, memory, kind):
    flow, (x, context) = made(name)

    def gradients(flow, x, context, generator):
        flow.set_memory(memory).train()
        (-flow.log_prob(x, context, generator=generator).mean()).backward()
        return {name: weight.grad for name, weight in flow.named_parameters()}

    expected = gradients(copy.deepcopy(flow), x, context, torch.Generator().manual_seed(3))
    with FakeDevice(kind) as device:
        flow, x, context = moved(kind, flow, x, context)
        with device.hot():
            ours = gradients(flow, x, context, torch.Generator(kind).manual_seed(3))
        for weight, gradient in expected.items():
            if gradient is not None:
                assert_same(ours[weight], gradient)


@as_on
@pytest.mark.parametrize("name", ["RealNVP Normal 3, context", "TableFlow 5", *DISCRETE])
def test_a_flow_starts_from_data_on_the_device(name, kind):
    def started(place):
        torch.manual_seed(0)
        flow = FLOWS[name]()
        x, context = batch_for(flow, 40)
        flow, x, context = moved(place, flow, x, context)
        flow.initialize(x, context)
        flow.recalibrate([(x, context)], generator=torch.Generator(place).manual_seed(0))
        return flow.state_dict()

    expected = started("cpu")
    with FakeDevice(kind):
        for key, value in started(kind).items():
            assert_same(value, expected[key])


@as_on
def test_unknown_classes_are_nan_where_the_host_would_have_to_wait(kind):
    flow, (x, context) = made("Glow, classes")
    assert context is not None
    context[1] = 7
    with pytest.raises(ValueError, match="classes must be whole numbers from 0 to 2"):
        flow.log_prob(x, context)
    with FakeDevice(kind) as device:
        flow, x, context = moved(kind, flow, x, context)
        with device.hot(), torch.no_grad():
            log_prob = flow.log_prob(x, context)
        assert log_prob.isnan().tolist() == [False, True, False, False, False, False]


@as_on
@pytest.mark.parametrize("lu", [True, False])
def test_a_matrix_without_inverse_is_nan_where_the_host_would_have_to_wait(lu, kind):
    link = InvertibleConv1x1(4, lu).eval()
    if lu:
        link.log_s.data[0] = -40.0
    else:
        link.weight.data[0] = link.weight.data[1]
    y = torch.randn(2, 4, 3, 3)
    with pytest.raises(ValueError, match="cannot be inverted"):
        link.inverse(y)
    with FakeDevice(kind) as device, torch.no_grad():
        link, y = moved(kind, link, y)
        with device.hot():
            x, _ = link.inverse(y)
        assert x.isnan().all()


@as_on
def test_a_changed_weight_counts_at_once_on_the_device(kind):
    link, x = InvertibleConv1x1(4).eval(), torch.randn(2, 4, 3, 3)
    with FakeDevice(kind) as device, torch.no_grad():
        link, x = moved(kind, link, x)
        for _ in range(2):
            with device.hot():
                link.log_s.data.add_(0.3)
                back = link.inverse(link(x)[0])[0]
            assert_same(back, x.cpu())


# Latents and scores


@as_on
@pytest.mark.parametrize("name", ["Glow", "Glow, context", "RealNVP Normal 3, context"])
def test_latents_are_moved_about_on_the_device_alone(name, kind):
    flow, (x, context) = made(name)
    half = len(x) // 2

    def results(flow, x, context, place):
        two = None if context is None else (context[:half], context[half:])
        four = None if context is None else context[:4]
        for path in ("linear", "spherical"):
            yield latent.interpolate(flow, x[:half], x[half:], 3, path, two)
            yield latent.between_four(flow, x[:4], 3, 2, path, four)
        source = torch.Generator(place).manual_seed(5)
        yield latent.resample(flow, x, [1], 0.7, variants=2, context=context, generator=source)
        yield latent.at_temperatures(flow, 6, [0, 0.5, 1], context=context, generator=source)
        if context is not None:
            yield latent.recondition(flow, x, context, context.flip(0))

    expected = [*results(flow, x, context, "cpu")]
    with FakeDevice(kind) as device:
        flow, x, context = moved(kind, flow, x, context)
        with device.hot():
            ours = [*results(flow, x, context, kind)]
        for one, other in zip(ours, expected, strict=True):
            assert_same(one, other)
        if context is not None:
            conditions = latent.Conditions.of(flow.context, context)
            assert_same(conditions.moved(context, {"c0": 1.0})[:, 1], context[:, 1].cpu())


@as_on
def test_directions_are_found_on_the_device_and_followed_there(kind):
    flow, (x, _) = made("Glow")
    attributes = (torch.arange(len(x)) % 2).float()[:, None]

    def results(flow, x, attributes):
        found = latent.find_directions(flow, [(x, attributes, None)], ["odd"])
        return latent.edit(flow, x, found, {"odd": 1.0})

    expected = results(flow, x, attributes)
    with FakeDevice(kind):
        assert_same(results(*moved(kind, flow, x, attributes)), expected)


@as_on
@pytest.mark.parametrize("name", ["Glow", "Glow, classes", "RealNVP, rounded"])
def test_scores_are_those_of_the_cpu(name, kind):
    flow, (x, context) = made(name)

    def results(flow, x, context):
        known = Reference.measure(flow, [(x, context)])
        log_prob = torch.cat([*log_probs(flow, [(x, context)], samples=2)])
        yield log_prob
        yield torch.tensor(evaluate_batches(flow, [(x, context)]).nll)
        for wanted in ("typicality", "complexity"):
            yield score(flow, x, log_prob, wanted, known)
        if flow.context.category is not None:
            yield mixture_log_prob(flow, x, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        expected = [*results(flow, x, context)]
    with FakeDevice(kind), torch.no_grad():
        ours = [*results(*moved(kind, flow, x, context))]
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=2e-4, atol=2e-4)
        if flow.context.category is not None:
            assert mixture_log_prob(*moved(kind, flow, x)).isfinite().all()


# Training


def trained(place: str, name: str, memory: str, observers=()) -> Training:
    torch.manual_seed(0)
    flow = FLOWS[name]().set_memory(memory)
    x, context = batch_for(flow, 64)
    rows = Split(x, context)
    flow.initialize(x, context)
    options = TrainerOptions(max_epochs=1, batch_size=32, device=place)
    optimizer = OptimizerOptions()
    training = Training(
        flow, rows, rows, optimizer=optimizer, options=options, seed=0, observers=observers
    )
    return training.run()


@as_on
@pytest.mark.parametrize("memory", ["stored", "constant"])
@pytest.mark.parametrize("name", ["RealNVP Normal 3", "TableFlow 2, context", "Glow, context"])
def test_training_is_that_of_the_cpu(name, memory, kind):
    expected = trained("cpu", name, memory)
    with FakeDevice(kind):
        ours = trained(kind, name, memory)
        assert ours.flow.device.type == ours.averaged.device.type == kind
        assert [row["epoch"] for row in ours.history] == [1]
        for key, value in expected.averaged.state_dict().items():
            assert_same(ours.averaged.state_dict()[key], value)
        for loss, other in (
            (ours.train_loss, expected.train_loss),
            (ours.val_loss, expected.val_loss),
        ):
            assert math.isclose(loss, other, rel_tol=1e-3)
        state = ours.state_dict()
        ours.load_state_dict(state)


def test_a_step_of_the_training_loop_reads_one_value():
    with FakeDevice("mps") as device:
        training = trained("mps", "Glow", "stored")
        batch = training.place(training.calibration[0])
        device.reads.clear()
        training._take_step(batch, None)
        assert len(device.reads) == 1, device.reads


# The pretended device itself


class Faulty(Bijection):
    """y = 2 x, with a fault."""

    def __init__(self, fault) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.fault(x)
        return 2 * x, x.new_full((len(x),), math.log(2) * x.shape[1])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y / 2, y.new_full((len(y),), -math.log(2) * y.shape[1])


FAULTS = {
    "a copy to the CPU": lambda x: x.cpu(),
    "a number that is read": lambda x: x.sum().item(),
    "a list": lambda x: x.tolist(),
    "a branch": lambda x: 1 if (x > 0).any() else 2,
    "a comparison": lambda x: torch.equal(x, x),
    "a mask": lambda x: x[x > 0],
    "places": lambda x: x.nonzero(),
    "a solver that checks": lambda x: torch.linalg.inv(torch.eye(2, device=x.device)),
    "numbers made on the CPU": lambda x: torch.arange(3),
    "numbers moved there": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a tensor of the CPU": lambda x: x + torch.ones(3),
    "random numbers of the CPU": lambda x: torch.rand(3, generator=torch.Generator()).to(x.device),
    "a generator of the CPU": lambda x: torch.rand(3, generator=torch.Generator(), device=x.device),
}


@as_on
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_pretended_device_notices_what_a_gpu_would_wait_for_or_refuse(fault, kind):
    x = torch.randn(4, 3)
    flow = Flow(Chain(Faulty(lambda x: None), Scale(3)), 3)
    with FakeDevice(kind) as device:
        flow, x = moved(kind, flow, x)
        with device.hot():
            flow.log_prob(x)
            flow.bijection[0].fault = fault
            with pytest.raises(DeviceError):
                flow.log_prob(x)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x.double(),
        lambda x: torch.zeros(3, dtype=torch.float64, device=x.device),
        lambda x: torch.linalg.svdvals(x),  # of which torch has no kernel for mps
    ],
)
def test_the_pretended_mps_has_no_float64_and_no_other_kernels_than_its_own(fault):
    x = torch.randn(4, 3)
    with FakeDevice("cuda"):
        fault(x.to("cuda"))
    with FakeDevice("mps"), pytest.raises(DeviceError, match="mps"):
        fault(x.to("mps"))


def test_the_widest_floats_are_those_that_a_device_computes():
    assert widest("cpu") == widest("cuda") == widest(torch.device("cuda", 1)) == torch.float64
    assert widest("mps") == widest(torch.device("mps", 0)) == torch.float32
