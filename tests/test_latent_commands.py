"""Moving about in latent space through the commands: what they write, and what they refuse."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from commands import refused
from PIL import Image
from test_latent import image_flow, pixels, table_flow

import diffeo
from diffeo import figures, latent
from diffeo.cli import main
from diffeo.cli.parser import parse
from diffeo.context import Category, ContextSpec, Number
from diffeo.data import Gallery, ImageOptions, ImageSplit, load_gallery, load_images
from diffeo.run import Run

DIGITS = "data:\n  source: digits\n  rows: 120\n  splits: [0.6, 0.2, 0.2]\n"
LABELS = [f"label={name}" for name in "0123456789"]


@pytest.fixture
def run(tmp_path):
    """A run of digits, one of a table, and models with contexts, none of them trained."""
    image_flow().save_pretrained("digits/model")
    (tmp_path / "digits/config.yaml").write_text(DIGITS)
    table_flow().save_pretrained("table")
    mixed = ContextSpec((Number("dark"), Category("shape", ("disc", "ring"))))
    for name, context in (("labels", ContextSpec.classes(10)), ("mixed", mixed)):
        image_flow(context=context).save_pretrained(name)
    return tmp_path


@dataclass(frozen=True)
class Conditional(ImageSplit):
    """Images with their labels as context."""

    def take(self, indices):
        return self.batch(indices), self.attributes[indices]


@pytest.fixture
def with_contexts(monkeypatch):
    """`--data digits`, with a context and an attribute that is not known of every image."""

    def gallery(run, source):
        found = load_gallery(ImageOptions(source, rows=120))
        parts = found.images
        split = Conditional(parts.pixels, parts.rows, parts.labels, parts.attributes)
        return Gallery(split, found.names, [], found.attributes)

    monkeypatch.setattr(Run, "gallery", gallery)


def flow_of(name):
    return diffeo.Flow.from_pretrained(name)


def digits():
    """What those runs say that they are trained on."""
    return load_images(ImageOptions(rows=120, splits=(0.6, 0.2, 0.2)))


def grid_of(path, count, columns):
    """The images of a grid `(count, 8, 8)`, taken from the middle of each square."""
    grid = np.asarray(Image.open(path).convert("RGB"))[..., 0]
    rows = count // columns
    scale = (grid.shape[1] - 2 * (columns - 1)) // (8 * columns)
    step, half = 8 * scale + 2, scale // 2
    places = [(i // columns * step, i % columns * step) for i in range(count)]
    assert grid.shape == (rows * step - 2, columns * step - 2)
    return np.stack(
        [
            grid[top + half : top + 8 * scale : scale, left + half : left + 8 * scale : scale]
            for top, left in places
        ]
    )


def figures_drawn(monkeypatch):
    """What is handed to `image_grid`, call by call."""
    calls, draw = [], figures.image_grid
    monkeypatch.setattr(figures, "image_grid", lambda *given: calls.append(given) or draw(*given))
    return calls


# Paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_a_grid_of_paths(run, kind):
    arguments = ["interpolate", "digits", "--pairs=3", "--frames=4", f"--kind={kind}"]
    assert main([*arguments, "--out=new/i.png"]) == 0
    drawn = grid_of("new/i.png", 12, 4)
    x = digits().test.all(6)
    assert (drawn[0::4] == x[::2, 0].numpy()).all()
    assert (drawn[3::4] == x[1::2, 0].numpy()).all()
    expected = latent.interpolate(flow_of("digits/model"), x[::2], x[1::2], 4, kind)
    assert (drawn == expected.flatten(0, 2).numpy()).all()


def test_a_grid_between_four(run):
    assert main(["interpolate", "digits", "--corners", "--frames=5", "--out=c.png"]) == 0
    drawn = grid_of("c.png", 25, 5)
    assert (drawn[[0, 4, 20, 24]] == digits().test.all(4)[:, 0].numpy()).all()


def test_a_moving_grid_goes_forth_and_back(run):
    arguments = ["interpolate", "digits", "--data=digits", "--pairs=2", "--frames=6"]
    assert main([*arguments, "--out=i.gif"]) == 0
    assert main([*arguments, "--out=i.png"]) == 0
    with Image.open("i.gif") as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("L")).astype(float))
        # Frames that are alike are one, shown longer.
        assert gif.n_frames in (10, 11)
        assert gif.info["loop"] == 0
    for one, other in ((1, 9), (2, 8), (4, 6)):
        assert np.abs(frames[one] - frames[other]).max() == 0
    assert np.abs(frames[0] - frames[5]).max() > 50


def test_paths_of_a_conditional_model(run, with_contexts):
    arguments = ["interpolate", "labels", "--data=digits", "--pairs=2", "--frames=3"]
    assert main([*arguments, "--out=i.png"]) == 0
    split = Run("labels").gallery("digits").images
    x, context = split.take(torch.arange(4))
    drawn = grid_of("i.png", 6, 3)
    assert (drawn[0::3] == x[::2, 0].numpy()).all()
    expected = latent.interpolate(
        flow_of("labels"), x[::2], x[1::2], 3, "spherical", (context[::2], context[1::2])
    )
    assert (drawn == expected.flatten(0, 2).numpy()).all()


# Attributes ---------------------------------------------------------------------------------------


def test_directions_of_all_attributes(run, capsys):
    assert main(["directions", "digits", "--out=d.safetensors"]) == 0
    printed = capsys.readouterr().out
    train = digits().train
    directions = latent.Directions.load("d.safetensors")
    assert directions.names == LABELS
    with torch.no_grad():
        z = flow_of("digits/model").encode(train.all()).double()
    for k, name in enumerate(LABELS):
        has = train.labels == k
        assert torch.allclose(directions[name], z[has].mean(0) - z[~has].mean(0), atol=1e-5)
        line = next(line for line in printed.splitlines() if name in line)
        length = f"{directions[name].norm():.3f}"
        assert all(str(word) in line for word in (has.sum().item(), (~has).sum().item(), length))


@pytest.mark.parametrize("strengths", [["--strengths", "-2,0,1.5"], ["--strengths=-2,0,1.5"]])
def test_edits_stand_next_to_the_image(run, strengths, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    assert main(["edit", "digits", "--attribute=label=3", *strengths, "-n=4", "--out=e.png"]) == 0
    ((x, labels, caption),) = drawn
    assert labels == ["\N{MINUS SIGN}2", "0", "1.5"] and "label=3" in caption
    assert torch.equal(x[:, 1], digits().test.all(4))
    flow, train = flow_of("digits/model"), digits().train
    with torch.no_grad():
        z = flow.encode(train.all())
        has = train.labels == 3
        apart = z[has].mean(0) - z[~has].mean(0)
        expected = flow.decode(flow.encode(x[:, 1]) - 2 * apart)
    assert (x[:, 0] != expected).float().mean() < 0.01
    assert (x[:, 0] != x[:, 1]).any()
    assert Image.open("e.png").size[0] > 3 * 112


@pytest.mark.parametrize("kind", ["mean", "partial", "discriminant"])
def test_edits_by_directions_from_a_file_or_found_anew(run, kind, monkeypatch):
    """Of one attribute alone; but a partial direction needs to know of the others."""
    assert main(["directions", "digits", f"--kind={kind}", "--out=d.safetensors"]) == 0
    drawn = figures_drawn(monkeypatch)
    arguments = ["edit", "digits", "--attribute", "label=0,label=3", "-n=3", f"--kind={kind}"]
    assert main([*arguments, "--out=a.png"]) == 0
    assert main([*arguments, "--directions=d.safetensors", "--out=b.pdf"]) == 0
    (one, _, _), (other, _, caption) = drawn
    assert (one != other).float().mean() < 0.01
    assert kind in caption
    # Both attributes were moved, by the same strength.
    directions = latent.Directions.load("d.safetensors")
    both = {"label=0": 2.0, "label=3": 2.0}
    flow, x = flow_of("digits/model"), digits().test.all(3)
    assert torch.equal(other[:, 4], latent.edit(flow, x, directions, both))


def test_with_directions_images_need_no_attributes(run):
    (run / "new").mkdir()
    for i, image in enumerate(pixels(3, 8, 8)):
        Image.fromarray(image.numpy()).save(run / "new" / f"{i}.png")
    assert main(["directions", "digits", "--out=d.safetensors"]) == 0
    arguments = ["edit", "digits", "--data=new", "--attribute=label=1", "--out=e.png"]
    assert main([*arguments, "--directions=d.safetensors"]) == 0
    assert (run / "e.png").is_file()


def test_edits_of_a_conditional_model(run, with_contexts, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    arguments = ["labels", "--data=digits", "--kind=mean"]
    assert main(["directions", *arguments, "--out=d.safetensors"]) == 0
    assert main(["edit", *arguments, "--attribute=label=3", "-n=5", "--out=e.png"]) == 0
    split = Run("labels").gallery("digits").images
    assert torch.equal(drawn[0][0][:, 2], split.take(torch.arange(5))[0])
    x, context = split.take(torch.arange(120))
    with torch.no_grad():
        z = flow_of("labels").encode(x, context).double()
    has = context[:, 3] == 1
    found = latent.Directions.load("d.safetensors")["label=3"]
    assert torch.allclose(found, z[has].mean(0) - z[~has].mean(0), atol=1e-5)
    assert main(["levels", "labels", "--data=digits", "-n=5", "--out=l.png"]) == 0
    assert main(["reconstruct", "labels", "--data=digits", "-n=5", "--out=r.png"]) == 0


def test_attributes_that_are_not_known_or_never_vary(run, monkeypatch, capsys):
    def gallery(run, source):
        found = load_gallery(ImageOptions(source, rows=120))
        attributes = found.images.attributes[:, :3].clone()
        attributes[:, 0], attributes[::2, 1] = 1.0, torch.nan
        split = replace(found.images, attributes=attributes)
        names = ContextSpec(tuple(map(Number, ["same", "some", "all"])))
        return Gallery(split, found.names, [], names)

    monkeypatch.setattr(Run, "gallery", gallery)
    assert main(["directions", "digits", "--data=digits", "--out=d.safetensors"]) == 0
    assert "'same' never varies" in capsys.readouterr().out
    directions = latent.Directions.load("d.safetensors")
    assert directions.names == ["some", "all"]
    assert [p + a for p, a in zip(directions.present, directions.absent, strict=True)] == [60, 120]
    edit = ["edit", "digits", "--data=digits", "--out=e.png"]
    refused([*edit, "--attribute=same"], capsys, "same", "none varies")
    refused([*edit, "--attribute=same,all"], capsys, "no direction of 'same'")
    refused([*edit, "--attribute=none"], capsys, "no attribute 'none'", "same, some, all")


# Levels and temperatures --------------------------------------------------------------------------


def test_levels_are_redrawn_one_by_one(run, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    for seed in (1, 1, 2):
        assert main(["levels", "digits", "-n=5", f"--seed={seed}", "--out=l.png"]) == 0
    (x, labels, caption), (again, _, _), (other, _, _) = drawn
    assert labels == ["data", "level 1\nredrawn", "level 2\nredrawn"]
    assert caption == "temperature 0.7"
    assert torch.equal(x[:, 0], digits().test.all(5))
    assert torch.equal(x, again) and not torch.equal(x, other)
    noise, flow = torch.Generator().manual_seed(1), flow_of("digits/model")
    for level in (1, 2):
        expected = latent.resample(flow, x[:, 0], [level], 0.7, generator=noise)
        assert torch.equal(x[:, level], expected[:, 0])


def test_one_noise_at_many_temperatures(run, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    arguments = ["sample", "digits", "--temperatures", "0,0.5,1.0", "--seed=3", "--out=t.png"]
    assert main(arguments) == 0
    assert main([*arguments, "-n=2"]) == 0
    (x, labels, caption), (few, _, _) = drawn
    assert x.shape == (8, 3, 1, 8, 8) and few.shape[:2] == (2, 3)
    assert labels == ["0", "0.5", "1"] and caption == "temperature"
    assert main(["sample", "digits", "-n=8", "--seed=3", "--out=s.npy"]) == 0
    assert (np.load("s.npy") == x[:, 2].numpy()).all()
    assert (x[:, 0] == x[0, 0]).all()


# Context of samples -------------------------------------------------------------------------------


def contexts_of(monkeypatch):
    """The context of each part that is drawn."""
    contexts, sample = [], diffeo.Flow.sample
    monkeypatch.setattr(
        diffeo.Flow,
        "sample",
        lambda flow, n, c=None, **k: contexts.append(c) or sample(flow, n, c, **k),
    )
    return contexts


def test_samples_of_one_label(run, monkeypatch):
    contexts = contexts_of(monkeypatch)
    for option in ("--label=3", "--context=label=3"):
        assert main(["sample", "labels", option, "-n=5", "--seed=1", f"--out={option}.npy"]) == 0
    assert main(["sample", "labels", "--label", "3", "-n=5", "--seed=1", "--out=c.npy"]) == 0
    expected = torch.nn.functional.one_hot(torch.tensor([3]), 10).float()
    assert all(torch.equal(context, expected) for context in contexts)
    assert (np.load("c.npy") == np.load("--label=3.npy")).all()
    assert main(["sample", "labels", "--label=4", "-n=5", "--seed=1", "--out=d.npy"]) == 0
    assert (np.load("c.npy") != np.load("d.npy")).any()


def test_labels_are_drawn_where_none_is_given(run, monkeypatch):
    contexts = contexts_of(monkeypatch)
    for seed in (1, 1, 2):
        assert main(["sample", "labels", "-n=4000", f"--seed={seed}", "--out=s.npy"]) == 0
    one, again, other = contexts
    assert torch.equal(one.sum(1), torch.ones(4000)) and set(one.unique().tolist()) == {0.0, 1.0}
    assert (one.mean(0) - 0.1).abs().max() < 0.02
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert main(["sample", "labels", "--temperatures=0,1", "--out=t.png"]) == 0


def test_numbers_and_classes_in_one_context(run, monkeypatch, capsys):
    contexts = contexts_of(monkeypatch)
    sample = ["sample", "mixed", "-n=50", "--seed=1", "--out=s.npy"]
    assert main([*sample, "--context=dark=0.5, shape=ring"]) == 0
    assert contexts[-1].tolist() == [[0.5, 0.0, 1.0]]
    assert main([*sample, "--context=dark=-1"]) == 0
    assert (contexts[-1][:, 0] == -1).all() and (contexts[-1][:, 1:].sum(1) == 1).all()
    assert 10 < contexts[-1][:, 1].sum() < 40
    refused([*sample, "--context=shape=ring"], capsys, "dark=VALUE", "shape=NAME")
    refused([*sample, "--context=dark=0.5,shape=cube"], capsys, "shape=cube", "disc, ring")
    refused([*sample, "--context=dark=much"], capsys, "dark=much", "a finite number")
    refused([*sample, "--label=3"], capsys, "dark=VALUE")
    refused(sample, capsys, "mixed does not say where its data are")


def test_contexts_that_there_are_not(run, capsys):
    out = "--out=s.png"
    refused(
        ["sample", "digits", "--label=3", out],
        capsys,
        "no context",
        "leave --context and --label out",
    )
    refused(["sample", "digits", "--context=a=3", out], capsys, "leave --context")
    refused(["sample", "table", "--label=3", "--out=s.csv"], capsys, "no context")
    refused(["sample", "labels", "--label=12", out], capsys, "label=12", "0, 1, 2")
    assert not (run / "s.png").exists()


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["interpolate", "digits", "--out=i.txt"], ["i.txt", ".gif"]),
        (["interpolate", "digits", "--out=i.gif", "--corners"], ["--corners", ".png"]),
        (["interpolate", "digits", "--out=i.png", "--pairs=0"], ["--pairs"]),
        (["interpolate", "digits", "--out=i.png", "--pairs=900"], ["24 images", "1800"]),
        (["interpolate", "digits", "--out=i.png", "--frames=1"], ["frames is 1"]),
        (["interpolate", "digits", "--out=i.png", "--kind=cubic"], ["cubic"]),
        (["interpolate", "table", "--out=i.png"], ["table"]),
        (["interpolate", "labels", "--out=i.png"], ["--data"]),
        (["edit", "digits", "--out=e.png"], ["attribute"]),
        (["edit", "digits", "--attribute=label=3", "--out=e.txt"], ["e.txt"]),
        (["edit", "digits", "--attribute=label=33", "--out=e.png"], ["label=33", "label=9"]),
        (["edit", "digits", "--attribute=label=3", "--out=e.png", "-n=0"], ["-n is 0"]),
        (["edit", "digits", "--attribute=label=3", "--strengths=a", "--out=e.png"], ["strengths"]),
        (["edit", "digits", "--attribute=label=3", "--strengths=", "--out=e.png"], ["strengths"]),
        (["edit", "digits", "--attribute=a", "--directions=d.npy", "--out=e.png"], ["d.npy"]),
        (
            ["edit", "digits", "--attribute=a", "--directions=d.safetensors", "--out=e.png"],
            ["d.safetensors is missing"],
        ),
        (["edit", "digits", "--data=new", "--attribute=a", "--out=e.png"], ["no attributes"]),
        (["directions", "digits", "--data=new", "--out=o.safetensors"], ["no attributes"]),
        (["directions", "digits", "--out=o.txt"], ["o.txt", ".safetensors"]),
        (["directions", "table", "--out=o.safetensors"], ["table"]),
        (["levels", "digits", "--out=l.png", "--temperature=-1"], ["temperature"]),
        (["levels", "table", "--out=l.png"], ["table"]),
        (["sample", "digits", "--temperatures=0,-1", "--out=t.png"], ["temperatures"]),
        (["sample", "digits", "--temperatures=0,1", "--out=t.npy"], ["t.npy"]),
        (
            ["sample", "digits", "--temperatures=0,1", "--temperature=0.5", "--out=t.png"],
            ["leave one out"],
        ),
        (["sample", "table", "--temperatures=0,1", "--out=t.csv"], ["--temperature"]),
    ],
)
def test_errors_are_one_sentence(run, capsys, arguments, words):
    (run / "new").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(run / "new/a.png")
    refused(arguments, capsys, *words)
    assert not any((run / name).exists() for name in ("i.png", "i.gif", "e.png", "l.png", "t.png"))


def test_directions_of_another_model_are_refused(run, capsys):
    assert main(["directions", "digits", "--out=d.safetensors"]) == 0
    other = diffeo.ImageRealNVP((1, 8, 8), scales=1, hidden_channels=4, blocks=1)
    other.save_pretrained("other")
    arguments = ["edit", "other", "--data=digits", "--attribute=label=3", "--out=e.png"]
    refused([*arguments, "--directions=d.safetensors"], capsys, "these directions are of")


def test_lists_may_begin_with_a_minus_sign():
    for given in (["--strengths", "-2,-1,0"], ["--strengths=-2,-1,0"]):
        options = parse("edit", ["r", *given, "--attribute", "a,label=3"])
        assert options.strengths == [-2.0, -1.0, 0.0]
        assert options.attribute == ["a", "label=3"]


# The labelled sheet -------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 32), (3, 32), (3, 64)])
def test_labels_stand_above_images_that_are_exact(channels, side):
    x = pixels(15, channels, side, side).unflatten(0, (3, 5))
    labels = ["data", "0.25", "a longer label", "two\nlines", "\N{MINUS SIGN}1"]
    figure = figures.image_grid(x, labels, "a caption in grey")
    words = {text.get_text(): text for text in figure.texts}
    assert set(words) == {"data", "0.25", "a longer label", "two", "lines", "\N{MINUS SIGN}1"} | {
        "a caption in grey"
    }
    figures.save(figure, "sheet.png")
    seen = np.asarray(Image.open("sheet.png").convert("RGB"))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    tall, wide = shown.shape[:2]
    # In the file each pixel of the sheet is one pixel: the whole of it is found, unchanged.
    top = next(i for i in range(len(seen)) if (seen[i : i + 1, 24 : 24 + wide] == shown[:1]).all())
    assert (seen[top : top + tall, 24 : 24 + wide] == shown).all()
    scale = (wide - 4 * 4) // (5 * side)
    assert (tall, wide) == (3 * scale * side + 2 * 4, 5 * scale * side + 4 * 4)
    last = x[2, 4].permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    assert (shown[-scale * side :, -scale * side :] == last).all()
    boxes = [words[label].get_window_extent() for label in ("data", "0.25", "a longer label")]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    size = figure.get_size_inches() * figure.dpi
    assert all(text.get_window_extent().x1 < size[0] for text in figure.texts)
    assert all(text.get_window_extent().y1 < size[1] for text in figure.texts)


def test_grids_that_cannot_be_labelled_are_refused():
    x = pixels(6, 1, 8, 8).unflatten(0, (2, 3))
    for wrong, labels in ((x, ["a"]), (x[0], list("abc")), (x[:0], list("abc")), (x[:, :0], [])):
        with pytest.raises(ValueError, match="expected images of shape"):
            figures.image_grid(wrong, labels)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        figures.image_grid(x.float(), list("abc"))
