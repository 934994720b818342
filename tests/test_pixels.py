"""Images as densities: restored bit for bit, bits/dim in closed form, both checkerboards."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from diffeo import Chain, Flow, ImageRealNVP
from diffeo.bases import Logistic
from diffeo.bijections import Flatten, Logit, PixelDequantize, Squeeze
from diffeo.bijections.base import Bijection
from diffeo.bijections.coupling import Coupling
from diffeo.bijections.normalization import BatchNorm
from diffeo.bijections.splits import CompactCheckerboard, MaskedCheckerboard, MaskedNetwork
from diffeo.bijections.univariate import Affine
from diffeo.models.image_realnvp import usual_settings
from diffeo.models.sizes import check_size


def uint8(*shape, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=source, dtype=torch.uint8)


def model(**options):
    """A small one, away from its start, with statistics of its own."""
    torch.manual_seed(0)
    flow = ImageRealNVP(**({"image_shape": (1, 8, 8), "hidden_channels": 8, "blocks": 1} | options))
    for p in flow.parameters():
        p.data += 0.05 * torch.randn_like(p)
    x = uint8(64, *flow.shape)
    context = torch.randn(64, flow.context_features) if flow.context_features else None
    flow.initialize(x, context)
    return flow.eval()


# The door


@pytest.mark.parametrize("bits", [8, 5, 1])
def test_each_value_of_a_pixel_survives(bits):
    dequantize = PixelDequantize(bits)
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    quantized = x // 2 ** (8 - bits) * 2 ** (8 - bits)
    assert torch.equal(dequantize.inverse(dequantize(x)[0]), quantized)
    for seed in range(20):
        y, log_det = dequantize.noisy(x, torch.Generator().manual_seed(seed))
        assert torch.equal(dequantize.inverse(y), quantized)
        assert y.min() >= 0
        assert y.max() < 2**bits
        assert not log_det.any()


def test_what_lies_outside_comes_back_as_the_nearest_pixel():
    y = torch.tensor([[-7.0, 31.99, 99.0, float("inf"), float("nan")]])
    assert PixelDequantize(5).inverse(y).tolist() == [[0, 248, 248, 248, 0]]
    assert PixelDequantize(8).inverse(y).tolist() == [[0, 31, 99, 255, 0]]


def test_noise_is_uniform_over_the_cell_and_follows_the_generator():
    dequantize, x = PixelDequantize(), torch.full((1, 1, 200, 200), 7, dtype=torch.uint8)
    y, _ = dequantize.noisy(x, torch.Generator().manual_seed(0))
    u = (y - 7).flatten().sort().values
    assert (u - torch.linspace(0, 1, len(u))).abs().max() < 0.02
    assert torch.equal(y, dequantize.noisy(x, torch.Generator().manual_seed(0))[0])


@pytest.mark.parametrize("bits", [8, 5, 1])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (4, 4, 8)])
@torch.no_grad()
def test_decode_of_encode_is_the_image(bits, shape):
    flow = model(image_shape=shape, bits=bits)
    images = [uint8(1000, *shape), torch.zeros(1, *shape), torch.full((1, *shape), 255)]
    x = torch.cat([p.to(torch.uint8) for p in images])
    quantized = x // 2 ** (8 - bits) * 2 ** (8 - bits)
    assert torch.equal(flow.decode(flow.encode(x)), quantized)
    assert torch.equal(flow.decode(flow.encode(x[:1])), quantized[:1])


@torch.no_grad()
def test_real_images_too(shared_data):
    import pyarrow.parquet as pq
    from PIL import Image

    column = pq.ParquetFile(shared_data / "mnist" / "test.parquet").read_row_group(0)["image"]
    from io import BytesIO

    images = [np.asarray(Image.open(BytesIO(p["bytes"]))) for p in column.to_pylist()[:1000]]
    x = torch.from_numpy(np.stack(images))[:, None]
    flow = model(image_shape=(1, 28, 28))
    assert torch.equal(flow.decode(flow.encode(x)), x)


def test_float_images_and_bad_options_are_refused():
    flow = model()
    with pytest.raises(ValueError, match="0 to 255"):
        flow.log_prob(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="1 to 8"):
        PixelDequantize(9)
    with pytest.raises(ValueError, match="shape"):
        flow.log_prob(uint8(2, 1, 8, 9))
    with pytest.raises(ValueError, match=r"multiples of 8, not 28x28: resize to 32x32"):
        ImageRealNVP((1, 28, 28), scales=3)


# Bits per dimension


class Independent(Flow):
    """Independent logistics over the grey levels: a density known in closed form."""

    def __init__(self, shape, mean, scale):
        super().__init__(
            Chain(Line(mean, scale), Flatten(*shape)),
            shape,
            base=Logistic(),
            dequantizer=PixelDequantize(),
        )


class Line(Bijection):
    """y = (x - mean) / scale."""

    def __init__(self, mean, scale):
        super().__init__()
        self.mean, self.scale = mean, nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x, context=None):
        log_det = -self.scale.log() * x[0].numel()
        return (x - self.mean) / self.scale, log_det.expand(len(x))

    def inverse(self, y, context=None):
        return y * self.scale + self.mean, self.scale.log() * y[0].numel() * torch.ones(len(y))


@torch.no_grad()
def test_bits_per_dim_of_independent_logistics():
    """The mean over the noise of log p(v + u) is an integral that SciPy knows."""
    from scipy.integrate import quad
    from scipy.stats import logistic

    shape, mean, scale = (3, 4, 4), 100.0, 25.0
    flow, x = Independent(shape, mean, scale), uint8(2, *shape)

    def expected(v):
        return quad(lambda u: logistic.logpdf(v + u, mean, scale), 0, 1)[0]

    truth = [-np.mean([expected(v) for v in row]) / math.log(2) for row in x.flatten(1).tolist()]
    draws = [flow.bits_per_dim(x, generator=torch.Generator().manual_seed(i)) for i in range(200)]
    torch.testing.assert_close(
        torch.stack(draws).mean(0), torch.tensor(truth).float(), atol=2e-3, rtol=0
    )
    log_prob = flow.log_prob(x, generator=torch.Generator().manual_seed(0))
    bits = flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, -log_prob / 48 / math.log(2))


@torch.no_grad()
def test_a_uniform_density_has_as_many_bits_as_the_pixel():
    """The logit of uniform noise is logistic, but for the margin."""

    class Uniform(Flow):
        def __init__(self):
            bijection = Chain(Logit(256.0, margin=0.0), Flatten(1, 8, 8))
            super().__init__(bijection, (1, 8, 8), base=Logistic(), dequantizer=PixelDequantize())
            self.register_buffer("like", torch.zeros(()))

    bits = Uniform().bits_per_dim(uint8(4, 1, 8, 8))
    torch.testing.assert_close(bits, torch.full((4,), 8.0))


@torch.no_grad()
def test_extreme_images_have_finite_densities():
    flow = model(image_shape=(4, 4, 4))
    x = torch.cat([torch.zeros(2, 4, 4, 4), torch.full((2, 4, 4, 4), 255), uint8(2, 4, 4, 4)])
    assert flow.log_prob(x.to(torch.uint8)).isfinite().all()
    assert flow.sample(3).dtype == torch.uint8
    z = 8 * torch.randn(50, flow.dims)
    assert flow.decode(z).shape == (50, 4, 4, 4)


@torch.no_grad()
def test_levels_of_the_latent_vector():
    flow = model(image_shape=(3, 8, 8), scales=3)
    assert flow.latent_shapes == [(6, 4, 4), (12, 2, 2), (12, 2, 2)]
    z = flow.encode(uint8(2, 3, 8, 8))
    levels = flow.split_latents(z)
    assert sum(level[0].numel() for level in levels) == flow.dims == 192
    assert torch.equal(torch.cat([level.flatten(1) for level in levels], 1), z)


# Checkerboards


def test_an_ordered_squeeze_parts_a_checkerboard():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    main, anti = Squeeze(ordered=True)(x)[0].chunk(2, dim=1)
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    assert sorted(main.flatten().tolist()) == x[0, 0][board == 0].tolist()
    assert sorted(anti.flatten().tolist()) == x[0, 0][board == 1].tolist()
    plain = Squeeze()(x)[0]
    assert torch.equal(plain, nn.functional.pixel_unshuffle(x, 2))


class Pointwise(nn.Module):
    """Scale and shift from the mean of the unchanged part, the same wherever that lies."""

    def __init__(self, channels, factor):
        super().__init__()
        self.channels, self.factor = channels, factor

    def forward(self, x, context=None):
        mean = x[:, : self.channels].mean(dim=(1, 2, 3), keepdim=True) * self.factor
        shape = (len(x), self.channels, *x.shape[2:])
        return torch.cat((mean.sin().expand(shape), mean.cos().expand(shape)), dim=1)


@pytest.mark.parametrize("keep", ["main", "anti"])
def test_masked_and_compact_are_the_same_map(keep):
    """With a network that does not see where a pixel lies, packing makes no difference."""
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    split = MaskedCheckerboard(keep)
    # Half of a masked image is zeros, so its mean is half as large.
    masked = Coupling(split, Affine(), MaskedNetwork(split, Pointwise(2, 2.0)))
    compact = Coupling(CompactCheckerboard(keep), Affine(), Pointwise(4, 1.0))
    for one, other in zip(masked(x), compact(x), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(masked.inverse(x), compact.inverse(x), strict=True):
        torch.testing.assert_close(one, other)


# Batch normalization


def test_batch_norm_in_training_mode():
    norm, x = BatchNorm(3).train().double(), torch.randn(20, 3, 4, 5).double() * 3 + 2
    y, log_det = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3).double())
    torch.testing.assert_close(
        y.var((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-4, atol=0
    )
    # Given its statistics, each row is mapped by itself: 20 pixels a channel.
    slope = norm(x)[0][0, :, 0, 0] - norm(x)[0][0, :, 0, 1]
    slope = slope / (x[0, :, 0, 0] - x[0, :, 0, 1])
    torch.testing.assert_close(log_det, (20 * slope.log().sum()).expand(20))
    back, undone = norm.inverse(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(undone, -log_det)


def test_running_statistics_follow_and_restart():
    norm = BatchNorm(1)
    batches = [torch.randn(50, 1) * 2 + 5 for _ in range(8)]
    norm(batches[0])
    assert norm.running_mean.item() == pytest.approx(0.1 * batches[0].mean().item(), rel=1e-5)
    norm.restart()
    for batch in batches:
        norm(batch)
    means = torch.stack([b.mean() for b in batches])
    assert norm.running_mean.item() == pytest.approx(means.mean().item(), rel=1e-5)
    before = norm.running_mean.clone()
    norm.eval()(batches[0])
    assert torch.equal(norm.running_mean, before)


def test_a_saved_model_in_float64_comes_back_in_it_whole(tmp_path):
    flow = model().double()
    flow.save_pretrained(tmp_path / "model")
    loaded = Flow.from_pretrained(tmp_path / "model")
    x, noise = uint8(4, 1, 8, 8), torch.Generator()
    one, two = (f.log_prob(x, generator=noise.manual_seed(0)) for f in (flow, loaded))
    assert two.dtype == torch.float64
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("size", "usual"),
    [
        ((8, 8), (2, 32, 1)),
        ((24, 24), (2, 32, 1)),
        ((28, 28), (2, 64, 8)),
        ((32, 32), (2, 64, 8)),
        ((64, 64), (5, 32, 2)),
        ((80, 64), (4, 32, 2)),
        ((10, 6), (1, 32, 1)),
    ],
)
def test_usual_settings_follow_the_size_and_fit_it(size, usual):
    assert usual_settings(*size) == usual
    check_size(*size, usual[0], "scale")


def test_a_model_remembers_the_settings_that_it_was_made_with():
    flow = ImageRealNVP((1, 8, 8), blocks=2)
    assert [flow.arguments[name] for name in ("scales", "hidden_channels", "blocks")] == [2, 32, 2]


@torch.no_grad()
def test_a_noisy_copy_is_encoded_where_a_generator_is_given():
    flow, x = model(), uint8(8, 1, 8, 8)
    z = [flow.encode(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(z[0], z[1])
    assert not torch.equal(z[0], z[2])
    assert not torch.equal(z[0], flow.encode(x))
    assert (flow.decode(z[0]) == x).float().mean() > 0.99
    noisy, _ = flow.dequantizer.noisy(x, torch.Generator().manual_seed(1))
    assert torch.equal(flow.bijection(noisy)[0], z[0])
