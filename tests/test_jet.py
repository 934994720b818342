"""Jet: its mathematics in NumPy, the public code, and what it refuses."""

from __future__ import annotations

import importlib
import math
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch
from constructors import perturb
from numpy.typing import NDArray
from torch import Tensor

from diffeo import Flow, Jet
from diffeo.bijections import Coupling, Patches
from diffeo.context import ContextSpec

# A folder with jet.py and vit.py; flax and einops have to be installed.
PUBLIC = os.environ.get("DIFFEO_JET")
CYCLE = ("channels", "spatial")
Array = NDArray[np.float64]


def uint8(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=source, dtype=torch.uint8)


def model(by: float = 0.1, **options: Any) -> Jet:
    """A small one, away from its start."""
    torch.manual_seed(0)
    settings = {"image_shape": (3, 4, 8), "patch": 2, "couplings": 12, "cycle": CYCLE}
    settings |= {"layers": 2, "hidden_channels": 8, "margin": 0.0}
    return perturb(Jet(**(settings | options)), by).eval()


def couplings(flow: Flow) -> list[Coupling]:
    return [part for part in flow.modules() if isinstance(part, Coupling)]


# The formulas, written again


def norm(x: Array, w: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def transformer(x: Array, w: dict[str, Array], layers: int, heads: int) -> Array:
    """Of one sequence (tokens, channels)."""
    h = linear(x, w, "entry") + w["positions"]
    for i in range(layers):
        parts = np.split(linear(norm(h, w, f"layers.{i}.attention.norm"), w, attention(i)), 3, -1)
        out = []
        for q, k, v in zip(*(np.split(part, heads, -1) for part in parts), strict=True):
            scores = np.exp(q @ k.T / math.sqrt(q.shape[1]))
            out.append(scores / scores.sum(1, keepdims=True) @ v)
        h = h + linear(np.concatenate(out, 1), w, f"layers.{i}.attention.proj")
        u = linear(norm(h, w, f"layers.{i}.norm"), w, f"layers.{i}.mlp.0")
        gelu = u / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = h + linear(gelu, w, f"layers.{i}.mlp.2")
    return linear(norm(h, w, "norm"), w, "exit")


def attention(i: int) -> str:
    return f"layers.{i}.attention.qkv"


def encoded(flow: Jet, x: Array) -> tuple[Array, float]:
    """Tokens (tokens, channels) of noise and log-determinant of one image, pixels in [-1, 1]."""
    _, height, width = x.shape
    size = flow.arguments["patch"]
    rows, columns = height // size, width // size
    # A token has pixel after pixel, each with its colours.
    tokens = np.stack(
        [
            x[:, i * size : (i + 1) * size, j * size : (j + 1) * size].transpose(1, 2, 0).ravel()
            for i in range(rows)
            for j in range(columns)
        ]
    )
    log_det, spatial = 0.0, 0
    patterns = [lambda i, j: i + j, lambda i, j: j, lambda i, j: i]
    for number, part in enumerate(couplings(flow)):
        w = {name: tensor.numpy() for name, tensor in part.conditioner.state_dict().items()}
        half = tokens.shape[1] // 2
        if number % 2 == 0:
            order = part.split.permutation.order.numpy()
            a, b = tokens[:, order[:half]], tokens[:, order[half:]]
        else:
            odd = [
                patterns[spatial // 2](t // columns, t % columns) % 2 for t in range(len(tokens))
            ]
            chosen = np.array(odd) == spatial % 2
            a, b = tokens[chosen].reshape(-1, half), tokens[~chosen].reshape(-1, half)
            spatial = (spatial + 1) % 6
        raw, shift = np.split(transformer(a, w, 2, 4), 2, -1)
        scale = 2 / (1 + np.exp(-raw))
        b = (b + shift) * scale
        log_det += np.log(scale).sum()
        after = np.empty_like(tokens)
        if number % 2 == 0:
            after[:, order] = np.concatenate((a, b), 1)
        else:
            after[chosen] = a.reshape(-1, 2 * half)
            after[~chosen] = b.reshape(-1, 2 * half)
        tokens = after
    return tokens, log_det


def test_the_model_is_the_formula_of_the_paper():
    flow = model().double()
    x = uint8(3, 3, 4, 8)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    log_prob = flow.log_prob(x, generator=torch.Generator().manual_seed(5))
    for i in range(3):
        pixels = (2 * (x[i] + noise[i]) / 256 - 1).numpy()
        tokens, log_det = encoded(flow, pixels)
        truth = -0.5 * (tokens**2 + math.log(2 * math.pi)).sum() + log_det
        truth += tokens.size * math.log(2 / 256)
        assert log_prob[i].item() == pytest.approx(truth, abs=1e-9)
        tokens, _ = encoded(flow, (2 * (x[i].double() + 0.5) / 256 - 1).numpy())
        ours = Patches(4, 8, 2, pixels_first=True)(flow.encode(x[i : i + 1]).view(1, 3, 4, 8))[0]
        torch.testing.assert_close(ours[0].T, torch.tensor(tokens), rtol=1e-9, atol=1e-9)


# What else there is


def test_images_come_back_and_densities_are_normalized_by_sampling():
    """Over data drawn from another density q, the mean of p / q is 1."""
    flow = model(image_shape=(1, 2, 2), couplings=3, cycle=("channels",), bits=1)
    flow, source = flow.double(), torch.Generator().manual_seed(0)
    # Of the whole space, which images are a part of.
    wide = torch.distributions.Normal(1.0, 2.5)
    x = wide.icdf(torch.rand(200_000, 1, 2, 2, generator=source, dtype=torch.float64))
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        log_p = flow.base.log_prob(z) + log_det
    ratio = (log_p - wide.log_prob(x).flatten(1).sum(1)).exp()
    error = ratio.std().item() / len(x) ** 0.5
    assert error < 0.02
    assert ratio.mean().item() == pytest.approx(1.0, abs=4 * error)
    x = uint8(64, 3, 8, 8)
    flow = model(image_shape=(3, 8, 8))
    assert torch.equal(flow.decode(flow.encode(x)), x)


def test_constant_memory_has_the_same_gradients():
    flow, x = model(by=0.05, context=ContextSpec.classes(2)).double().train(), uint8(4, 3, 4, 8)
    found = []
    for memory in ("stored", "constant"):
        flow.set_memory(memory).zero_grad()
        noise = torch.Generator().manual_seed(0)
        flow.log_prob(x, torch.tensor([0, 1, 1, 0]), generator=noise).mean().backward()
        found.append([weight.grad.clone() for weight in flow.parameters()])
    for one, other in zip(*found, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_by_default_the_patch_leaves_a_grid_with_halves():
    for size, patch in ((8, 2), (28, 2), (32, 4), (64, 4), (4, 2)):
        assert Jet((3, size, size), couplings=1).arguments["patch"] == patch
    assert Jet((1, 28, 28), couplings=1).arguments["margin"] == 1e-5
    assert Jet((3, 8, 8), couplings=1).arguments["margin"] == 0.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_shape": (1, 28, 28), "patch": 4}, "7x7 tokens"),
        ({"image_shape": (1, 28, 28), "patch": 3}, "divides both"),
        ({"image_shape": (1, 4, 4), "patch": 1}, "cannot be halved"),
        ({"cycle": ()}, "the cycle is empty"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        model(couplings=5, **({"cycle": ("spatial",)} | options))


# The public code


@pytest.mark.skipif(not PUBLIC, reason="set DIFFEO_JET to a folder with jet.py and vit.py")
def test_the_public_code_with_the_same_weights_gives_the_same_numbers(monkeypatch):
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    monkeypatch.syspath_prepend(PUBLIC)
    public = importlib.import_module("jet")
    kinds = ("channels", "spatial")
    projections = ("checkerboard", "checkerboard-inv", "vstripes", "vstripes-inv")
    projections += ("hstripes", "hstripes-inv")
    theirs = public.Model(
        depth=12,
        block_depth=2,
        emb_dim=32,
        num_heads=4,
        ps=2,
        kinds=kinds,
        spatial_coupling_projs=projections,
    )
    x = uint8(5, 3, 8, 8)
    pixels = (2 * (x + 0.5) / 256 - 1).permute(0, 2, 3, 1).numpy()
    params = theirs.init(jax.random.key(0), pixels, method="forward")["params"]
    keys = iter(jax.random.split(jax.random.key(1), 1_000))
    params["couplings"] = jax.tree.map(
        lambda weight: weight + 0.05 * jax.random.normal(next(keys), weight.shape),
        params["couplings"],
    )
    ours = Jet((3, 8, 8), 2, 12, 2, 32, CYCLE, margin=0.0).eval()
    masks = np.asarray(params["channel_coupling_masks-FREEZE_ME"])
    for i, part in enumerate(couplings(ours)):
        weights = jax.tree.map(lambda weight, i=i: np.asarray(weight[i]), params["couplings"])
        part.conditioner.load_state_dict(translated(weights["dnn"]))
        if i % 2 == 0:
            order = torch.tensor(masks[i].argmax(0))
            part.split.permutation.load_state_dict({"order": order})
    z, log_det = theirs.apply({"params": params}, pixels, method="forward")
    with torch.no_grad():
        mine = ours.encode(x).view(5, 3, 8, 8).permute(0, 2, 3, 1)
        np.testing.assert_allclose(mine, z, rtol=2e-5, atol=2e-5)
        _, my_log_det = ours.bijection(x + 0.5)
        np.testing.assert_allclose(
            my_log_det - 192 * math.log(2 / 256), log_det, rtol=1e-5, atol=1e-3
        )
        noise = ours.noise(5, torch.Generator().manual_seed(1))
        images = noise.view(5, 3, 8, 8).permute(0, 2, 3, 1).numpy()
        sample, _ = theirs.apply({"params": params}, images, method="inverse")
        mine = 2 * ours.invert(noise)[0] / 256 - 1
        np.testing.assert_allclose(mine.permute(0, 2, 3, 1), sample, rtol=2e-5, atol=1e-4)
    sys.modules.pop("jet", None)


def translated(theirs: Any) -> dict[str, Tensor]:
    """Weights of a network by our names."""
    found = {}

    def linear(name: str, weight: Array, bias: Array) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = weight.T, bias

    def normal(name: str, part: Any) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = part["scale"], part["bias"]

    linear("entry", theirs["init_proj"]["kernel"], theirs["init_proj"]["bias"])
    found["positions"] = theirs["posemb"][0]
    encoder = theirs["vit"]
    for name, block in encoder.items():
        if not name.startswith("encoderblock"):
            continue
        layer = f"layers.{name.rpartition('_')[2]}"
        normal(f"{layer}.attention.norm", block["LayerNorm_0"])
        normal(f"{layer}.norm", block["LayerNorm_1"])
        part = block["MultiHeadDotProductAttention_0"]
        qkv = [part[which] for which in ("query", "key", "value")]
        width = qkv[0]["kernel"].shape[0]
        weight = np.concatenate([each["kernel"].reshape(width, -1) for each in qkv], 1)
        linear(f"{layer}.attention.qkv", weight, np.concatenate([e["bias"].ravel() for e in qkv]))
        out = part["out"]
        linear(f"{layer}.attention.proj", out["kernel"].reshape(-1, width), out["bias"])
        for which, dense in (("0", "Dense_0"), ("2", "Dense_1")):
            mlp = block["MlpBlock_0"][dense]
            linear(f"{layer}.mlp.{which}", mlp["kernel"], mlp["bias"])
    normal("norm", encoder["encoder_norm"])
    last = theirs["final_proj"]  # shifts come first there
    shift_and_scale = np.split(last["kernel"], 2, 1), np.split(last["bias"], 2)
    linear("exit", *(np.concatenate(parts[::-1], -1) for parts in shift_and_scale))
    return {name: torch.tensor(np.array(value)) for name, value in found.items()}
