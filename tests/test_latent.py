"""Arithmetic on latents against closed forms: paths, levels, temperatures, directions, contexts."""

import json
import math

import numpy as np
import pytest
import torch
from constructors import perturb
from safetensors.torch import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import diffeo
from diffeo import latent
from diffeo.context import Category, ContextSpec, Number
from diffeo.latent.arithmetic import path

DIMS = 5


def pixels(n, *shape, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *shape), generator=source, dtype=torch.uint8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def image_flow(bits=8, context=None, shape=(1, 8, 8)):
    """Away from the identity at which its last layers begin."""
    torch.manual_seed(0)
    flow = diffeo.ImageRealNVP(shape, hidden_channels=4, blocks=1, bits=bits, context=context)
    perturb(flow, 0.05)
    x = pixels(64, *shape)
    rows = torch.randn(64, flow.context.width) if flow.context else None
    return flow.initialize(x, rows).eval()


def table_flow(context_features=0):
    torch.manual_seed(0)
    flow = diffeo.RealNVP(DIMS, layers=2, hidden=(8,), context=context_features)
    x = torch.randn(100, DIMS) * 3 + 1
    flow.initialize(x, torch.randn(100, context_features) if context_features else None)
    return perturb(flow, 0.2).double().eval()


def rows(n, seed=0):
    return torch.randn(n, DIMS, generator=seeded(seed), dtype=torch.float64) * 3 + 1


# Paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "spherical"])
@pytest.mark.parametrize(("bits", "context_features"), [(8, 0), (5, 0), (8, 3)])
def test_the_ends_of_a_path_between_images_are_those_images(kind, bits, context_features):
    flow = image_flow(bits, context_features)
    start, end = pixels(7, 1, 8, 8, seed=1), pixels(7, 1, 8, 8, seed=2)
    context = (torch.randn(7, 3), torch.randn(1, 3)) if context_features else None
    frames = latent.interpolate(flow, start, end, 5, kind, context)
    assert frames.shape == (7, 5, 1, 8, 8) and frames.dtype == torch.uint8
    grain = 2 ** (8 - bits)
    assert torch.equal(frames[:, 0], start // grain * grain)
    assert torch.equal(frames[:, -1], end // grain * grain)
    assert (frames[:, 2] != frames[:, 0]).any() and (frames[:, 2] != frames[:, -1]).any()


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_the_path_between_rows_is_that_of_their_latents(kind):
    flow, a, b = table_flow(), rows(4, 1), rows(4, 2)
    frames = latent.interpolate(flow, a, b, 4, kind)
    assert torch.allclose(frames[:, 0], a, rtol=0, atol=1e-10)
    assert torch.allclose(frames[:, -1], b, rtol=0, atol=1e-10)
    with torch.no_grad():
        z, z_a, z_b = (flow.encode(x) for x in (frames[:, 1], a, b))
    if kind == "linear":
        expected = (2 * z_a + z_b) / 3
    else:
        size_a, size_b = z_a.norm(dim=1), z_b.norm(dim=1)
        angle = ((z_a * z_b).sum(1) / size_a / size_b).acos()
        round_a = (angle * 2 / 3).sin() / angle.sin() / size_a
        round_b = (angle / 3).sin() / angle.sin() / size_b
        direction = round_a[:, None] * z_a + round_b[:, None] * z_b
        expected = direction * ((2 * size_a + size_b) / 3)[:, None]
    assert torch.allclose(z, expected, rtol=0, atol=1e-9)


def test_a_spherical_path_turns_evenly_and_its_length_grows_evenly():
    a, b = (torch.randn(6, 50, generator=seeded(s), dtype=torch.float64) * s for s in (1, 3))
    z = path(a, b, 9, "spherical")
    assert torch.equal(z[:, 0], a) and torch.equal(z[:, -1], b)
    lengths = z.norm(dim=2)
    assert torch.allclose(lengths.diff(dim=1).diff(dim=1), torch.zeros(6, 7).double(), atol=1e-12)
    unit = z / lengths[..., None]
    angles = (unit[:, 1:] * unit[:, :-1]).sum(2).acos()
    whole = (unit[:, 0] * unit[:, -1]).sum(1).acos()
    assert torch.allclose(angles, (whole / 8)[:, None].expand(6, 8), atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_a_path_in_float32_is_rounded_once(kind):
    a, b = (torch.randn(6, 50, generator=seeded(s)) for s in (1, 2))
    exact = path(a.double(), b.double(), 9, kind)
    assert torch.equal(path(a, b, 9, kind), exact.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_there_is_nothing_to_turn_a_path_is_straight(dtype):
    a = torch.randn(1, 50, generator=seeded(), dtype=dtype)
    other = torch.randn(1, 50, generator=seeded(1), dtype=dtype)
    for start, end in ((a, a), (a, 2 * a), (a, 0 * a), (0 * a, a), (0 * a, 0 * a), (a, -a)):
        assert torch.equal(path(start, end, 5, "spherical"), path(start, end, 5, "linear"))
    # Hardly apart: on the sphere, all the same, and as the straight path says.
    near = a + 1e-5 * other
    assert torch.allclose(path(a, near, 5, "spherical"), path(a, near, 5, "linear"), atol=1e-6)
    z = path(a, other, 5, "spherical")
    assert torch.equal(z[:, 0], a) and torch.equal(z[:, -1], other) and z.dtype == dtype


def test_the_context_of_a_path_changes_linearly():
    flow, a, b = table_flow(2), rows(3, 1), rows(3, 2)
    first, last = (torch.randn(3, 2, generator=seeded(s), dtype=torch.float64) for s in (1, 2))
    frames = latent.interpolate(flow, a, b, 5, "linear", context=(first, last))
    with torch.no_grad():
        z = (flow.encode(a, first) * 3 + flow.encode(b, last)) / 4
        expected = flow.decode(z, (3 * first + last) / 4)
    assert torch.allclose(frames[:, 1], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "spherical"])
@pytest.mark.parametrize("context_features", [0, 2])
def test_four_images_stand_in_the_corners(kind, context_features):
    flow, corners = image_flow(context=context_features), pixels(4, 1, 8, 8)
    context = torch.randn(4, 2) if context_features else None
    surface = latent.between_four(flow, corners, 3, 5, kind, context)
    assert surface.shape == (3, 5, 1, 8, 8)
    for i, place in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        assert torch.equal(surface[place], corners[i])


def test_the_surface_between_four_rows():
    flow, corners = table_flow(2), rows(4)
    context = torch.randn(4, 2, generator=seeded(5), dtype=torch.float64)
    surface = latent.between_four(flow, corners, 4, 5, "linear", context=context)
    s, t = 1 / 3, 3 / 4
    weights = torch.from_numpy(np.outer([1 - s, s], [1 - t, t]).flatten())
    with torch.no_grad():
        expected = flow.decode(
            weights[None] @ flow.encode(corners, context), weights[None] @ context
        )
    assert torch.allclose(surface[1, 3], expected[0], rtol=0, atol=1e-10)
    edge = latent.between_four(flow, corners, 4, 5, "spherical", context)[:, 0]
    side = latent.interpolate(
        flow, corners[:1], corners[2:3], 4, "spherical", (context[:1], context[2:3])
    )
    assert torch.allclose(edge, side[0], rtol=0, atol=1e-10)


# Noise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[1], [2], [1, 2], [3, 1]])
def test_levels_are_drawn_again_and_the_others_stay(levels, monkeypatch):
    flow = diffeo.ImageRealNVP((1, 16, 16), scales=3, hidden_channels=4, blocks=1)
    perturb(flow, 0.05)
    flow.initialize(pixels(32, 1, 16, 16)).eval()
    decoded, decode = [], flow.decode
    monkeypatch.setattr(flow, "decode", lambda z, c=None: decoded.append(z) or decode(z, c))
    x = pixels(3, 1, 16, 16)
    result = latent.resample(flow, x, levels, 0.5, variants=4, generator=seeded(1))
    assert result.shape == (3, 4, 1, 16, 16)
    with torch.no_grad():
        before = [level.repeat_interleave(4, 0) for level in flow.split_latents(flow.encode(x))]
    after = flow.split_latents(torch.cat(decoded))
    noise = flow.split_latents(flow.noise(12, seeded(1)) * 0.5)
    for number, (old, new, drawn) in enumerate(zip(before, after, noise, strict=True), start=1):
        assert torch.equal(new, drawn if number in levels else old), number
    assert len({image.numpy().tobytes() for image in result[0]}) == 4


def test_redrawing_rows_follows_context_and_temperature():
    flow, x = table_flow(2), rows(200)
    context = torch.randn(200, 2, dtype=torch.float64)
    drawn = latent.resample(flow, x, [1], 0.5, variants=20, context=context, generator=seeded())
    with torch.no_grad():
        z = flow.encode(drawn.flatten(0, 1), context.repeat_interleave(20, 0))
    assert z.std().item() == pytest.approx(0.5, rel=0.02)
    same = latent.resample(flow, x, [], context=context)
    assert torch.allclose(same[:, 0], x, rtol=0, atol=1e-10)


def test_at_temperature_0_there_is_one_image_whatever_the_seed():
    flow = image_flow()
    one, other = (
        latent.at_temperatures(flow, 6, [0, 0.5, 1], generator=seeded(seed)) for seed in (1, 2)
    )
    assert one.shape == (6, 3, 1, 8, 8)
    assert torch.equal(one[:, 0], one[:1, 0].expand_as(one[:, 0]))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one[:, 2], other[:, 2])
    with torch.no_grad():
        assert torch.equal(one[:, 2], flow.decode(flow.noise(6, seeded(1))))


def test_temperature_scales_the_noise_of_every_level():
    flow, temperatures = table_flow(2), [0.25, 0.7, 1.5]
    context = torch.randn(500, 2, dtype=torch.float64)
    x = latent.at_temperatures(flow, 500, temperatures, context=context, generator=seeded())
    for i, temperature in enumerate(temperatures):
        with torch.no_grad():
            z = flow.encode(x[:, i].contiguous(), context)
        assert torch.allclose(z, flow.noise(500, seeded()) * temperature, rtol=0, atol=1e-8)


def test_temperature_scales_the_noise_of_every_level_of_images(monkeypatch):
    flow = image_flow()
    decoded, decode = [], flow.decode
    monkeypatch.setattr(flow, "decode", lambda z, c=None: decoded.append(z) or decode(z, c))
    latent.at_temperatures(flow, 2000, [0.7], generator=seeded())
    levels = flow.split_latents(torch.cat(decoded))
    assert len(levels) == 2
    for level in levels:
        assert level.std().item() == pytest.approx(0.7, rel=0.02)


# Directions ---------------------------------------------------------------------------------------


def attributes(n, seed=0):
    """Two of two values that go together, one of them with odd values, and a large number."""
    random = np.random.default_rng(seed)
    cause = random.normal(size=n)
    columns = [
        (cause + 0.5 * random.normal(size=n) > 0.3).astype(float),
        np.where(cause + 0.5 * random.normal(size=n) > -0.2, 7.0, -2.0),
        1990 + 20 * random.random(n) + 3 * cause,
    ]
    return torch.tensor(np.stack(columns, 1))


NAMES = ["one", "two", "year"]


def batches(x, a, size, context=None):
    parts = [range(i, min(i + size, len(x))) for i in range(0, len(x), size)]
    return [(x[list(p)], a[list(p)], None if context is None else context[list(p)]) for p in parts]


def found(kind="mean", n=300, size=64, a=None, **options):
    flow, x = table_flow(), rows(n)
    a = attributes(n) if a is None else a
    # Data that know of their attributes.
    x = x + torch.nan_to_num(a - torch.tensor([0.5, 2.0, 2000.0])) @ torch.tensor(
        [[1.0, 0, 1, 0, 0], [0, 0.1, 0, 0, 0.2], [0, 0.1, 0, 0.1, 0]], dtype=torch.float64
    )
    with torch.no_grad():
        z = flow.encode(x).numpy()
    return latent.find_directions(flow, batches(x, a, size), NAMES, kind, **options), z, a.numpy()


def test_a_direction_is_the_difference_of_two_means():
    directions, z, a = found()
    for name, k, high in (("one", 0, 1.0), ("two", 1, 7.0)):
        has = a[:, k] == high
        expected = z[has].mean(0) - z[~has].mean(0)
        np.testing.assert_allclose(directions[name], expected, rtol=0, atol=1e-11)
        assert directions.present[k] == has.sum() and directions.absent[k] == (~has).sum()
    assert (directions.present[2], directions.absent[2]) == (len(a), 0), "it is a number"
    slope = [np.polyfit(a[:, 2] - 2000, z[:, j], 1)[0] for j in range(DIMS)]
    expected = np.array(slope) * 2 * a[:, 2].std()
    np.testing.assert_allclose(directions["year"], expected, rtol=0, atol=1e-10)
    assert (directions.kind, directions.model) == ("mean", "diffeo.RealNVP")
    assert directions.notes == []


def test_of_balanced_values_both_measurements_agree():
    a = attributes(300)
    a[:, 0] = torch.arange(300) % 2
    directions, z, a = found(a=a)
    slope = np.array([np.polyfit(a[:, 0], z[:, j], 1)[0] for j in range(DIMS)])
    np.testing.assert_allclose(directions["one"], slope * 2 * a[:, 0].std(), rtol=0, atol=1e-11)


def test_a_partial_direction_is_least_squares_on_all_attributes():
    directions, z, a = found("partial")
    centred = np.column_stack([np.ones(len(a)), a - a.mean(0)])
    slopes = np.linalg.lstsq(centred, z, rcond=None)[0][1:]
    spans = np.array([1.0, 9.0, 2 * a[:, 2].std()])
    np.testing.assert_allclose(directions.vectors, slopes * spans[:, None], rtol=0, atol=1e-10)
    assert not np.allclose(directions["one"], found()[0]["one"], atol=0.05)


def test_partial_directions_of_the_classes_of_a_label():
    """They determine each other; the shortest solution is what sets each class off."""
    label = torch.arange(300) % 3
    a = torch.nn.functional.one_hot(label, 3).double()
    directions, z, _ = found("partial", a=a)
    means = np.stack([z[label == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(
        directions.vectors, means - means.mean(0), rtol=0, atol=1e-9
    )  # classes equally frequent


@pytest.mark.parametrize("shrinkage", [1e-9, 0.1, 0.6])
def test_a_discriminant_is_fishers(shrinkage):
    directions, z, a = found("discriminant", shrinkage=shrinkage)
    for name, k, high in (("one", 0, 1.0), ("two", 1, 7.0)):
        has = a[:, k] == high
        fisher = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        w = fisher.fit(z, has).coef_[0]
        w = w / np.linalg.norm(w)
        apart = z[has].mean(0) - z[~has].mean(0)
        np.testing.assert_allclose(directions[name], w * (w @ apart), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["mean", "partial", "discriminant"])
def test_batches_of_any_size_give_the_same(kind):
    a = attributes(300)
    a[::7, 0] = math.nan
    a[::11, 2] = math.nan
    whole = found(kind, size=300, a=a)[0]
    for size in (1, 64, 299):
        parts = found(kind, size=size, a=a)[0]
        assert torch.allclose(parts.vectors, whole.vectors, rtol=0, atol=1e-10)
        assert (parts.present, parts.absent) == (whole.present, whole.absent)


def test_what_is_not_known_is_left_out_for_that_attribute_alone():
    a = attributes(300)
    a[:9, 0], a[100:150, 2] = math.nan, math.nan
    directions, z, a = found(a=a)
    whole = found()[0]
    has, lacks = a[:, 0] == 1, a[:, 0] == 0
    expected = z[has].mean(0) - z[lacks].mean(0)
    np.testing.assert_allclose(directions["one"], expected, rtol=0, atol=1e-11)
    assert directions.present[0] + directions.absent[0] == 291
    known = ~np.isnan(a[:, 2])
    slope = [np.polyfit(a[known, 2] - 2000, z[known, j], 1)[0] for j in range(DIMS)]
    expected = np.array(slope) * 2 * a[known, 2].std()
    np.testing.assert_allclose(directions["year"], expected, rtol=0, atol=1e-10)
    assert whole.present[1] == directions.present[1]


@pytest.mark.parametrize("kind", ["partial", "discriminant"])
def test_where_attributes_meet_events_that_lack_one_are_left_out(kind):
    a = attributes(300)
    a[::3, 1] = math.nan
    directions, z, a = found(kind, a=a)
    flow, stored = table_flow(), ~np.isnan(a).any(1)
    with torch.no_grad():
        x = flow.decode(torch.tensor(z[stored]))
    few = latent.find_directions(flow, batches(x, torch.tensor(a[stored]), 64), NAMES, kind)
    assert torch.allclose(directions.vectors, few.vectors, rtol=0, atol=1e-8)
    assert directions.present == few.present


def test_what_never_varies_has_no_direction_but_a_note():
    a = attributes(300)
    a[:, 0], a[:, 2] = 1.0, math.nan
    directions = found(a=a)[0]
    assert directions.names == ["two"] and directions.vectors.shape == (1, DIMS)
    assert ["one" in note or "year" in note for note in directions.notes] == [True, True]
    with pytest.raises(ValueError, match="no direction of 'one': choose from two"):
        directions["one"]
    with pytest.raises(ValueError, match="none varies"):
        found(a=torch.ones(300, 3).double())
    a[:, 0] = attributes(300)[:, 0]
    with pytest.raises(ValueError, match="none varies among the events that have them all"):
        found("partial", a=a)


def test_directions_of_a_conditional_flow():
    flow, x, a = table_flow(2), rows(90), attributes(90)
    context = torch.randn(90, 2, dtype=torch.float64)
    directions = latent.find_directions(flow, batches(x, a, 40, context), NAMES)
    with torch.no_grad():
        z = flow.encode(x, context)
    expected = z[a[:, 0] == 1].mean(0) - z[a[:, 0] == 0].mean(0)
    assert torch.allclose(directions["one"], expected, rtol=0, atol=1e-11)
    edited = latent.edit(flow, x, directions, {"one": 1.5}, context)
    with torch.no_grad():
        assert torch.allclose(edited, flow.decode(z + 1.5 * expected, context), atol=1e-9)


# Editing and storage ------------------------------------------------------------------------------


def test_an_edit_adds_its_directions():
    flow, x, directions = table_flow(), rows(8, 3), found()[0]
    edited = latent.edit(flow, x, directions, {"one": 2.0, "year": -0.5})
    with torch.no_grad():
        moved = flow.encode(edited) - flow.encode(x)
    expected = 2 * directions["one"] - 0.5 * directions["year"]
    assert torch.allclose(moved, expected.expand(8, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("bits", [8, 3])
def test_at_strength_0_an_image_comes_back_bit_for_bit(bits):
    flow, x = image_flow(bits), pixels(40, 1, 8, 8)
    a = (x.flatten(1)[:, :2] > 127).float()
    directions = latent.find_directions(flow, [(x, a, None)], ["left", "right"])
    grain = 2 ** (8 - bits)
    for strengths in ({}, {"left": 0.0}, {"left": 0.0, "right": 0.0}):
        assert torch.equal(latent.edit(flow, x, directions, strengths), x // grain * grain)
    assert not torch.equal(latent.edit(flow, x, directions, {"left": 2.0}), x // grain * grain)


def test_directions_come_back_from_their_file(tmp_path):
    directions = found("partial")[0]
    directions.save(tmp_path / "new" / "d.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["d.safetensors"]
    loaded = latent.Directions.load(tmp_path / "new" / "d.safetensors")
    assert torch.equal(loaded.vectors, directions.vectors)
    for name in ("names", "present", "absent", "kind", "model", "latent_shapes", "notes"):
        assert getattr(loaded, name) == getattr(directions, name), name
    loaded.check(table_flow())


@pytest.mark.parametrize(
    "other", [diffeo.RealNVP(DIMS + 1), diffeo.NICE(DIMS), image_flow(shape=(1, 4, 4))]
)
def test_directions_of_another_model_are_refused(other):
    directions, x = found()[0], torch.zeros(2, *other.shape)
    with pytest.raises(ValueError, match=r"these directions are of a diffeo\.RealNVP"):
        latent.edit(other, x, directions, {"one": 1.0})


def test_files_that_hold_no_directions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is missing"):
        latent.Directions.load(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"\.safetensors"):
        found()[0].save(tmp_path / "d.npy")
    (tmp_path / "d.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="damaged or holds no directions"):
        latent.Directions.load(tmp_path / "d.safetensors")
    header = {"names": json.dumps(["one"])}
    save_file({"vectors": torch.zeros(1, 3)}, tmp_path / "e.safetensors", header)
    for name in ("e", "f"):
        save_file({"weights": torch.zeros(1, 3)}, tmp_path / "f.safetensors")
        with pytest.raises(ValueError, match="damaged or holds no directions"):
            latent.Directions.load(tmp_path / f"{name}.safetensors")


# Manners ------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_looking():
    flow, x = image_flow(), pixels(6, 1, 8, 8)
    flow.train()
    next(flow.children()).eval()
    modes = [module.training for module in flow.modules()]
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    a = torch.tensor([0.0, 1.0] * 3)[:, None]
    directions = latent.find_directions(flow, [(x, a, None)], ["a"])
    for result in (
        latent.interpolate(flow, x[:3], x[3:], 3),
        latent.between_four(flow, x[:4], 3, 3),
        latent.resample(flow, x, [1], generator=seeded()),
        latent.at_temperatures(flow, 3, [0.5], generator=seeded()),
        latent.edit(flow, x, directions, {"a": 1.0}),
        directions.vectors,
    ):
        assert not result.requires_grad
    assert modes == [module.training for module in flow.modules()]
    assert all(torch.equal(state[name], value) for name, value in flow.state_dict().items())


def test_events_pass_in_parts(monkeypatch):
    flow, x = table_flow(2), rows(23)
    context = torch.randn(23, 2, dtype=torch.float64)
    whole = latent.interpolate(flow, x, x.flip(0), 3, context=(context, context[:1]))
    sizes, encode = [], flow.encode
    monkeypatch.setattr(type(flow), "chunk", 5)
    monkeypatch.setattr(flow, "encode", lambda x, c=None: sizes.append(len(x)) or encode(x, c))
    parts = latent.interpolate(flow, x, x.flip(0), 3, context=(context, context[:1]))
    assert torch.allclose(parts, whole, rtol=0, atol=1e-10)
    assert max(sizes) == 5 and sum(sizes) == 46


def test_what_is_seen_is_not_changed_by_training_mode():
    """Which batch normalization would answer differently, and gradients would be kept."""
    flow, x = image_flow(), pixels(6, 1, 8, 8)
    frames = latent.interpolate(flow, x[:3], x[3:], 4)
    assert torch.equal(latent.interpolate(flow.train(), x[:3], x[3:], 4), frames)
    table = table_flow().train()
    assert not latent.interpolate(table, rows(2), rows(2, 1), 4).requires_grad
    assert not latent.at_temperatures(table, 2, [1.0]).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: latent.interpolate(f, x, x, 1), "frames is 1"),
        (lambda f, x: latent.interpolate(f, x, x, 3, "cubic"), "choose one of linear, spherical"),
        (lambda f, x: latent.interpolate(f, x, x[:2], 3), "as many of each"),
        (lambda f, x: latent.between_four(f, x, 3, 3), "5 corners"),
        (lambda f, x: latent.between_four(f, x[:4], 1, 3), "rows is 1"),
        (lambda f, x: latent.between_four(f, x[:4], 3, 1), "columns is 1"),
        (lambda f, x: latent.resample(f, x, [2]), "no level 2"),
        (lambda f, x: latent.resample(f, x, [0]), "levels is \\[0\\]"),
        (lambda f, x: latent.resample(f, x, [1], -1.0), "temperature is -1"),
        (lambda f, x: latent.resample(f, x, [1], variants=0), "variants is 0"),
        (lambda f, x: latent.at_temperatures(f, 3, []), "temperatures is empty"),
        (lambda f, x: latent.at_temperatures(f, 3, [math.inf]), "temperatures is"),
        (lambda f, x: latent.find_directions(f, [], ["a"], "median"), "choose one of mean"),
        (lambda f, x: latent.find_directions(f, [], ["a"], shrinkage=2.0), "shrinkage"),
        (lambda f, x: latent.find_directions(f, [(x, x, None)], ["a"]), "1 columns|5 events"),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(table_flow(), rows(5))
    assert str(error.value).count(". ") == 0


def test_a_discriminant_of_very_many_dimensions_is_refused():
    flow = diffeo.RealNVP(4097, layers=1, hidden=(1,))
    with pytest.raises(ValueError, match="at most 4,096"):
        latent.find_directions(flow, [], ["a"], "discriminant")


def test_a_discriminant_needs_more_than_two_events():
    a = torch.tensor([[0.0], [1.0]])
    with pytest.raises(ValueError, match="pass more"):
        latent.find_directions(table_flow(), [(rows(2), a, None)], ["a"], "discriminant")
    for n in (3, 4):
        a = torch.arange(n)[:, None] % 2.0
        few = latent.find_directions(table_flow(), [(rows(n), a, None)], ["a"], "discriminant")
        assert few.vectors.isfinite().all()


def test_a_discriminant_shrunk_to_the_end_is_the_difference_of_means():
    whole = found("discriminant", shrinkage=1.0)[0]
    assert torch.allclose(whole.vectors, found("mean")[0].vectors, rtol=0, atol=1e-10)


# Conditions ---------------------------------------------------------------------------------------

SPEC = ContextSpec((Number("dark"), Category("shape", ("disc", "ring", "star")), Number("size=cm")))


def contexts(n, seed=0):
    """Truth values, classes, and a number from 2 to 6, called "size=cm"."""
    source = seeded(seed)
    shape = torch.nn.functional.one_hot(torch.randint(3, (n,), generator=source), 3)
    dark = torch.randint(2, (n, 1), generator=source)
    size = torch.rand(n, 1, generator=source) * 4 + 2
    return torch.cat((dark, shape, size), dim=1)


def test_a_condition_moves_by_its_step_and_stays_in_its_range():
    known = contexts(4000)
    conditions = latent.Conditions.of(SPEC, known)
    context = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.5], [1.0, 0.0, 0.0, 1.0, 5.5]])
    before = context.clone()

    def moved(**strengths):
        names = {"size": "size=cm", "shape_ring": "shape=ring", "shape_disc": "shape=disc"}
        return conditions.moved(context, {names.get(k, k): v for k, v in strengths.items()})

    assert moved(dark=1)[:, 0].tolist() == [1, 1]
    assert moved(dark=-1)[:, 0].tolist() == [0, 0]
    assert moved(dark=0.25)[:, 0].tolist() == [0.25, 1]
    assert moved(shape_ring=1)[:, 1:4].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert moved(shape_ring=0.5)[:, 1:4].tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5]]
    assert torch.equal(moved(shape_disc=1)[0], context[0]), "it is of that class already"
    step = 2 * 4 / 12**0.5  # of uniform numbers
    size = moved(size=1)[:, 4]
    assert size[0].item() == pytest.approx(2.5 + step, rel=0.03)
    assert size[1] == known[:, 4].max()
    assert moved(size=-1)[0, 4] == known[:, 4].min()
    both = moved(dark=1, size=0.5)
    assert both[0, 0] == 1 and both[0, 4].item() == pytest.approx(2.5 + step / 2, rel=0.03)
    assert torch.equal(both[:, 1:4], context[:, 1:4])
    assert torch.equal(moved(dark=0, size=0), context)
    assert torch.equal(context, before)


def test_a_condition_that_is_none_is_refused():
    conditions = latent.Conditions.of(SPEC, contexts(50))
    with pytest.raises(ValueError, match="not conditional on 'bright': choose from dark, shape="):
        conditions.moved(contexts(2), {"bright": 1.0})
    with pytest.raises(ValueError, match="no events"):
        latent.Conditions.of(SPEC, contexts(0))


@pytest.mark.parametrize("bits", [8, 5])
def test_the_same_noise_under_another_context(bits):
    flow = image_flow(bits, context=5)
    x, context, other = pixels(6, 1, 8, 8), contexts(6, 1), contexts(6, 2)
    grain = 2 ** (8 - bits)
    assert torch.equal(latent.recondition(flow, x, context, context), x // grain * grain)
    changed = latent.recondition(flow, x, context, other)
    with torch.no_grad():
        assert torch.equal(changed, flow.decode(flow.encode(x, context), other))
    assert (changed != x // grain * grain).flatten(1).any(1).all()
    one = latent.recondition(flow, x, context, other[:1])
    assert torch.equal(one, latent.recondition(flow, x, context, other[:1].expand(6, -1)))


def test_a_row_comes_back_under_its_own_context():
    flow, x = table_flow(2), rows(5)
    context = torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(latent.recondition(flow, x, context, context), x, rtol=0, atol=1e-10)
