"""TarFlow: its mathematics token by token, the public code, its samples, and its noise."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import pytest
import torch
from constructors import perturb
from torch import Tensor
from torch.distributions import Normal

from diffeo import Flow, TarFlow
from diffeo.bijections import (
    Center,
    GaussianPixels,
    LocationScale,
    MixtureCDF,
    Patches,
    TokenAutoregressive,
    Univariate,
)
from diffeo.bijections.guidance import Guidance
from diffeo.context import ContextSpec
from diffeo.evaluation.likelihood import log_probs

PUBLIC = os.environ.get("DIFFEO_TARFLOW")


def uint8(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=source, dtype=torch.uint8)


def model(by: float = 0.1, **options: Any) -> TarFlow:
    """A small one, away from its start."""
    torch.manual_seed(0)
    settings = {"image_shape": (3, 4, 4), "patch": 2, "blocks": 2, "layers": 2, "margin": 0.0}
    flow = TarFlow(**(settings | {"hidden_channels": 16} | options))
    return perturb(flow, by).eval()


def blocks(flow: Flow) -> list[TokenAutoregressive]:
    return [part for part in flow.modules() if isinstance(part, TokenAutoregressive)]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The formulas, written again


def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean()
    return (
        centred / (centred.square().mean() + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def transformer(tokens: list[Tensor], context: Tensor, w: dict[str, Tensor], heads: int) -> Tensor:
    """What comes out for the last token, all of them being known."""
    h = [
        linear(x, w, "entry") + w["positions"][t] + w["embedding"].T @ context
        for t, x in enumerate(tokens)
    ]
    layers = sum(name.endswith("qkv.weight") for name in w)
    for i in range(layers):
        name = f"layers.{i}"
        parts = [
            linear(layer_norm(x, w, f"{name}.attention.norm"), w, f"{name}.attention.qkv")
            for x in h
        ]
        size = len(h[0]) // heads
        after = []
        for t in range(len(h)):
            out = []
            for head in range(heads):
                q, k, v = (slice(j * len(h[0]) + head * size, None) for j in range(3))
                scores = [parts[t][q][:size] @ parts[s][k][:size] for s in range(t + 1)]
                shares = (torch.stack(scores) / math.sqrt(size)).softmax(0)
                out.append(sum(shares[s] * parts[s][v][:size] for s in range(t + 1)))
            after.append(h[t] + linear(torch.cat(out), w, f"{name}.attention.proj"))
        h = []
        for x in after:
            inner = linear(layer_norm(x, w, f"{name}.norm"), w, f"{name}.mlp.0")
            gelu = inner * Normal(0.0, 1.0).cdf(inner)
            h.append(x + linear(gelu, w, f"{name}.mlp.2"))
    return linear(h[-1], w, "exit")


def encoded(flow: TarFlow, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Noise (C, H, W) and log-determinant of one image, pixel range [-1, 1]."""
    channels, height, width = x.shape
    size = flow.arguments["patch"]
    corners = [(i, j) for i in range(0, height, size) for j in range(0, width, size)]
    tokens = [x[:, i : i + size, j : j + size].flatten() for i, j in corners]
    log_det = x.new_zeros(())
    for number, block in enumerate(blocks(flow)):
        weights, tokens = dict(block.conditioner.state_dict()), tokens[:: (-1) ** number]
        mapped = tokens[:1]
        for t in range(1, len(tokens)):
            a, b = transformer(tokens[:t], context, weights, heads=2).chunk(2)
            mapped.append((tokens[t] - b) / a.exp())
            log_det = log_det - a.sum()
        tokens = mapped[:: (-1) ** number]
    z = torch.empty_like(x)
    for (i, j), token in zip(corners, tokens, strict=True):
        z[:, i : i + size, j : j + size] = token.view(channels, size, size)
    return z, log_det


def test_the_model_is_the_formula_of_the_paper_token_by_token():
    flow = model(by=0.02, hidden_channels=128, context=ContextSpec.classes(3)).double()
    x, classes = uint8(3, 3, 4, 4), torch.tensor([2, 0, 1])
    noise = torch.rand(x.shape, generator=generator(5), dtype=torch.float64)
    log_prob = flow.log_prob(x, classes, generator=generator(5))
    for i in range(3):
        row = torch.eye(3, dtype=torch.float64)[classes[i]]
        z, log_det = encoded(flow, 2 * (x[i] + noise[i]) / 256 - 1, row)
        truth = Normal(0.0, 1.0).log_prob(z).sum() + log_det + z.numel() * math.log(2 / 256)
        close(log_prob[i], truth)
        middle, _ = encoded(flow, 2 * (x[i].double() + 0.5) / 256 - 1, row)
        close(flow.encode(x, classes)[i], middle.flatten())


# Densities


@pytest.mark.parametrize("univariate", [LocationScale(), MixtureCDF(3)], ids=["affine", "mixture"])
def test_the_density_of_2_x_2_pixels_integrates_to_1(univariate: Univariate):
    flow = model(
        by=0.05, image_shape=(1, 2, 2), patch=1, layers=1, hidden_channels=8, univariate=univariate
    ).double()
    # The trapezoidal rule, which of a smooth density is exact but for its tails.
    axis = torch.linspace(-5.5, 5.5, 23, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis, axis)
    with torch.no_grad():
        total = 0.0
        for x in grid.split(100_000):
            x = (x.view(-1, 1, 2, 2) + 1) * 128
            z, log_det = flow.bijection(x)
            log_p = flow.base.log_prob(z) + log_det + 4 * math.log(128)
            total += log_p.exp().sum().item() * (11 / 22) ** 4
    assert flow.bijection(x)[1].std() > 0.05  # no Gaussian
    assert total == pytest.approx(1.0, abs=2e-3)


def test_images_come_back_bit_for_bit():
    x = uint8(64, 3, 4, 4)
    for options in ({}, {"univariate": MixtureCDF(4)}, {"noise_std": 0.05}, {"margin": 1e-3}):
        flow = model(**options)
        assert torch.equal(flow.decode(flow.encode(x)), x)


# Samples


def test_samples_token_by_token_are_those_of_the_network_run_on_all():
    flow = model(patch=1).double()
    for block in blocks(flow):
        y = torch.randn(3, 3, 16, dtype=torch.float64, generator=generator())
        x = torch.zeros_like(y)
        order = range(16)[:: -1 if block.flip else 1]
        with torch.no_grad():
            for t in order:
                read = x.flip(2) if block.flip else x
                parameters = block.conditioner(read)
                parameters = parameters.flip(2) if block.flip else parameters
                token = slice(t, t + 1)
                x[:, :, token], _ = block.univariate.inverse(
                    y[:, :, token], parameters[:, :, token]
                )
            close(block.inverse(y)[0], x)
        close(block.inverse(y)[0], x)  # with gradients, by other tensors


@pytest.mark.parametrize("group", [2, 5, 100])
def test_tokens_at_once_are_the_same_tokens(group: int):
    flow = model(by=0.03, patch=1).double()
    z = flow.noise(4, generator())
    truth = flow.invert(z)
    assert [block.passes for block in blocks(flow)] == [15, 15]
    x, log_det = flow.set_sampling(group).invert(z)
    close(x, truth[0])
    close(log_det, truth[1])
    assert all(block.passes <= 15 for block in blocks(flow))
    near, _ = flow.set_sampling(group, tolerance=1e-3).invert(z)
    assert 0 < (near - truth[0]).abs().max() < 1
    assert sum(block.passes for block in blocks(flow)) < (31 if group == 2 else 25)


def test_guidance_moves_all_parameters_away_from_those_without_a_class():
    flow = model(context=ContextSpec.classes(3), class_dropout=0.1).double()
    block = blocks(flow)[0]
    y = torch.randn(2, 12, 4, dtype=torch.float64, generator=generator())
    given = torch.eye(3, dtype=torch.float64)[[2, 0]]
    without = torch.full_like(given, 1 / 3)
    x = block.guided_inverse(y, given, Guidance(without, 1.5))
    seen, unseen = block.conditioner(x, given), block.conditioner(x, without)
    close(x, block.univariate.inverse(y, seen + 1.5 * (seen - unseen))[0])
    z = flow.noise(2, generator())
    close(flow.guided(z, given, 0.0), flow.invert(z, given)[0])
    assert not torch.equal(
        flow.sample(4, 1, generator=generator(), guidance=2.0),
        flow.sample(4, 1, generator=generator()),
    )


# Noise


def test_gaussian_noise_has_its_deviation_and_leaves_the_middle():
    dequantizer = GaussianPixels(0.05)
    x = uint8(20_000, 1, 1, 1)
    y, log_det = dequantizer.noisy(x, generator())
    noise = y - x - 0.5
    assert noise.std().item() == pytest.approx(6.4, rel=0.02)
    assert abs(noise.mean().item()) < 0.2
    assert not log_det.any()
    assert torch.equal(dequantizer.inverse(dequantizer(x)[0]), x)


def test_no_bound_is_claimed_of_noisy_images():
    flow, batch = model(noise_std=0.05), (uint8(4, 3, 4, 4), None)
    assert torch.cat([*log_probs(flow, [batch])]).isfinite().all()
    with pytest.raises(ValueError, match="noise beyond a cell"):
        list(log_probs(flow, [batch], samples=2))


def test_denoising_is_the_posterior_mean_where_that_is_known():
    """Of a Gaussian density of noisy pixels, which a flow at its start is."""
    flow = TarFlow((1, 2, 2), 1, 2, 1, 8, noise_std=0.5).double().eval()
    perturb(flow, 0.0)
    x = 128 + 30 * torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=generator())
    # Noisy pixels are N(128, 128^2), so clean ones have the variance (1 - 0.5^2) 128^2.
    close(flow.denoise(x), 128 + (1 - 0.25) * (x - 128))
    assert flow.sample(3, generator=generator()).dtype == torch.uint8
    raw = flow.sample(3, generator=generator(), denoise=False)
    assert not torch.equal(raw, flow.sample(3, generator=generator()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch": 3}, "divides both"),
        ({"patch": 4}, "fills the image"),
        ({"noise_std": 0.1, "bits": 5}, "8 bits"),
        ({"noise_std": 0.1, "margin": 0.1}, "margin 0"),
        ({"class_dropout": 0.1}, "needs classes"),
        ({"hidden_channels": 96}, "multiple of 64"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        model(**options)


def test_what_samples_cannot_have_is_refused():
    flow = model()
    with pytest.raises(ValueError, match="noise_std"):
        flow.denoise(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="class_dropout"):
        flow.sample(1, guidance=1.0)


# The public code


@pytest.mark.skipif(not PUBLIC, reason="set DIFFEO_TARFLOW to a copy of transformer_flow.py")
@pytest.mark.parametrize("classes", [0, 3])
def test_the_public_code_with_the_same_weights_gives_the_same_numbers(classes: int):
    assert PUBLIC is not None
    spec = importlib.util.spec_from_file_location("transformer_flow", PUBLIC)
    assert spec is not None and spec.loader is not None
    public = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(public)
    torch.manual_seed(0)
    theirs = public.Model(3, 8, 2, 128, num_blocks=3, layers_per_block=2, num_classes=classes)
    perturb(theirs, 0.02).eval()
    context = ContextSpec.classes(classes) if classes else None
    ours = TarFlow((3, 8, 8), 2, 3, 2, 128, margin=0.0, context=context).eval()
    for number, (block, other) in enumerate(zip(blocks(ours), theirs.blocks, strict=True)):
        weights = translated(other.state_dict(), flip=number % 2 == 1)
        block.conditioner.load_state_dict(weights)
    x, y = uint8(6, 3, 8, 8), torch.arange(6) % classes if classes else None
    with torch.no_grad():
        pixels = 2 * (x + 0.5) / 256 - 1
        z, _, log_det = theirs(pixels, y)  # the mean over all numbers
        tokens = Patches(8, 8, 2)
        given = None if y is None else torch.eye(classes)[y]
        links = list(ours.bijection)
        assert isinstance(links[0], Center)
        mine, my_log_det = links[1](pixels)
        for link in links[2:-2]:
            mine, step = link(mine, given)
            my_log_det = my_log_det + step
        close(mine, z.transpose(1, 2), 2e-5)
        close(my_log_det / 192, log_det, 1e-5)
        noise = ours.noise(6, generator(1))
        sample = theirs.reverse(tokens(noise.view(6, 3, 8, 8))[0].transpose(1, 2).clone(), y)
        close(links[0](ours.invert(noise, y)[0])[0], sample, 2e-5)
        if y is not None:
            guided = theirs.reverse(
                tokens(noise.view(6, 3, 8, 8))[0].transpose(1, 2).clone(), y, guidance=1.5
            )
            close(links[0](ours.guided(noise, y, 1.5))[0], guided, 5e-5)
            dropped, _, _ = theirs(pixels, None)
            without = torch.full((6, classes), 1 / classes)
            close(ours.encode(x, without).view(6, 3, 8, 8), theirs.unpatchify(dropped), 2e-5)


def translated(theirs: dict[str, Tensor], flip: bool) -> dict[str, Tensor]:
    """Weights of a block by our names; positions in the order in which tokens are read."""
    names = {
        "proj_in": "entry",
        "proj_out": "exit",
        "attn_blocks": "layers",
        "mlp.norm": "norm",
        "mlp.main": "mlp",
    }
    found = {}
    for name, tensor in theirs.items():
        if name in ("pos_embed", "class_embed", "attn_mask"):
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor
    positions = theirs["pos_embed"]
    found["positions"] = positions.flip(0) if flip else positions
    if "class_embed" in theirs:
        found["embedding"] = theirs["class_embed"][:, 0]
    return found
