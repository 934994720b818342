"""Images through the commands: trained, evaluated, drawn, scored, reconstructed, refused."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import refused
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

import diffeo
from diffeo.bijections import BatchNorm, Coupling
from diffeo.cli import main
from diffeo.cli.commands.train import unwrapped
from diffeo.cli.parser import make_parser, parse
from diffeo.context import Category, Number
from diffeo.data import Batches, DataOptions, ImageOptions, load_data, load_gallery, load_images
from diffeo.evaluation.likelihood import evaluate, log_probs
from diffeo.run import Run, presets, train
from diffeo.training.options import OptimizerOptions, TrainerOptions

QUICK = ["--trainer.max_epochs=2", "--trainer.figure_every=100", "--data.rows=300"]
SMALL = ["--model.hidden_channels=8", "--model.blocks=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Small runs on digits: the default model, and NICE."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data=digits", "--out=digits", *SMALL, *QUICK]) == 0
        nice = ["--model=NICE", "--model.hidden=[16]", "--out=nice"]
        assert main(["train", "--data=digits", *nice, *QUICK]) == 0
    return folder


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "nice"])
def test_the_run_folder_of_images(run, name):
    names = {str(path.relative_to(run / name)) for path in (run / name).rglob("*")}
    kinds = ("samples", "reconstructions", "latents")
    assert {f"figures/{kind}.png" for kind in kinds} <= names
    assert {f"figures/{kind}-epoch-00002.png" for kind in kinds} <= names
    assert {"figures/curve.png", "figures/training.gif", "model/model.safetensors"} <= names
    header, *lines = (run / name / "metrics.csv").read_text().splitlines()
    assert header == "epoch,step,train_bpd,val_bpd,lr"
    # A uniform density has 8 bits/dim; NICE begins above it, since its base is wider than pixels.
    first, last = (float(line.split(",")[3]) for line in (lines[0], lines[-1]))
    assert 3 < last < first < 16
    results = json.loads((run / name / "results.json").read_text())
    test = results["test"]
    assert test["bits_per_dim"] == pytest.approx(test["nll"] / 64 / math.log(2))
    assert test["bits_stderr"] == pytest.approx(test["stderr"] / 64 / math.log(2))


def test_the_loss_in_the_file_is_that_of_the_model(run):
    """The recalibrated statistics are saved, and eval mode has no jump."""
    flow = diffeo.Flow.from_pretrained("digits/model")
    images = load_images(ImageOptions(rows=300))
    rows = pd.read_csv("digits/metrics.csv")
    score = evaluate(flow, images, "val")
    assert score.bits_per_dim == pytest.approx(rows.val_bpd.min(), rel=0.01)
    # Batch statistics, which training sees, say nearly the same.
    flow.train()
    with torch.no_grad():
        batch = flow.bits_per_dim(images.val.all()).mean()
    assert batch == pytest.approx(score.bits_per_dim, rel=0.1)


def test_recalibration_makes_running_averages_those_of_the_batches(run):
    flow = diffeo.Flow.from_pretrained("digits/model")
    images = load_images(ImageOptions(rows=300))
    norms = [module for module in flow.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.running_mean.fill_(3.0)
        norm.running_var.fill_(30.0)
    broken = evaluate(flow, images, "train").bits_per_dim
    generator = torch.Generator().manual_seed(0)
    flow.recalibrate(Batches(images.train, 64, seed=0), generator=generator)
    assert not flow.training
    assert evaluate(flow, images, "train").bits_per_dim < broken - 1
    x, _ = next(iter(Batches(images.train, 64, seed=0)))
    flow.recalibrate([(x, None)], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        eval_mode = flow.log_prob(x, generator=torch.Generator().manual_seed(1))
        train_mode = flow.train().log_prob(x, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(eval_mode, train_mode, rtol=1e-4)


def test_a_model_without_batch_norm_passes_recalibration_unchanged(run):
    flow = diffeo.Flow.from_pretrained("nice/model")
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    assert flow.recalibrate(iter([])) is flow
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())


def test_l2_presses_on_magnitudes_and_not_on_directions():
    flow = diffeo.ImageRealNVP((1, 4, 4), hidden_channels=4, blocks=1)
    held, free = OptimizerOptions(l2=0.1).groups(flow)
    assert (held["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    held = {id(p) for p in held["params"]}
    for name, p in flow.named_parameters():
        magnitude_or_plain = p.ndim > 1 and "original1" not in name
        assert (id(p) in held) == magnitude_or_plain, name


def test_networks_in_bfloat16_train_and_the_saved_model_is_float32(tmp_path):
    folder = train(
        lambda shape: diffeo.ImageRealNVP(shape, hidden_channels=8, blocks=1),
        DataOptions("digits", rows=200),
        tmp_path / "run",
        precision="bf16",
        trainer=TrainerOptions(max_epochs=1, batch_size=50),
        console=Console(quiet=True),
    )
    assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == "bf16"
    flow = diffeo.Flow.from_pretrained(folder / "model")
    assert {p.dtype for p in flow.parameters()} == {torch.float32}
    couplings = [module for module in flow.modules() if isinstance(module, Coupling)]
    assert couplings and all(module.precision is None for module in couplings)
    x = load_images(ImageOptions(rows=200)).test.all()
    exact = flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    flow.set_precision(torch.bfloat16)
    assert all(module.precision == torch.bfloat16 for module in couplings)
    near = flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert torch.allclose(near, exact, atol=0.1)


def test_what_is_learned_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.max_epochs=1", "--data.rows=100", "--trainer.figure_every=9"]
    assert main(["train", "--model=ImageRealNVP", "--out=a", *SMALL, *quick]) == 0
    assert yaml.safe_load((tmp_path / "a/config.yaml").read_text())["data"]["source"] == "digits"
    assert main(["train", "--config=a/config.yaml", "--out=b"]) == 0
    one, two = ((tmp_path / name / "metrics.csv").read_bytes() for name in "ab")
    assert one == two


def test_the_images_of_training_are_drawn_at_the_chosen_temperature(run):
    quick = ["--trainer.max_epochs=1", "--data.rows=100", "--trainer.temperature=0"]
    assert main(["train", "--data=digits", "--out=cold", *SMALL, *quick]) == 0
    grid = np.asarray(Image.open("cold/figures/samples.png"))
    flow = diffeo.Flow.from_pretrained("cold/model")
    with torch.no_grad():
        (mode,) = flow.sample(1, temperature=0.0)
    cell = grid[:64, :64, 0].reshape(8, 8, 8, 8)[:, 0, :, 0]
    assert (cell == mode[0].numpy()).all()
    # All alike.
    assert (grid[:64, :64] == grid[66:130, 66:130]).all()


def assert_made_with(arguments, chosen):
    """Arguments are what YAML says of them, which has lists alone, and objects by their class."""
    for option, value in chosen.items():
        part = arguments[option]
        if isinstance(value, dict):
            assert value["class_path"].endswith(f".{type(part).__name__}")
            assert_made_with(part.arguments, value["init_args"])
        else:
            assert (list(part) if isinstance(part, tuple) else part) == value


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_settings_that_the_parser_takes(name):
    parser = make_parser("train")
    chosen = yaml.safe_load(presets.find(name).read_text())["model"]["init_args"]
    source = "iris" if "moons" in name else "digits"
    words = ["--preset", name, "--data", source, "--trainer.max_epochs=7"]
    config = parse("train", words, parser)
    side = next((size for size in (64, 24) if f"{size}" in name), 32)
    with torch.device("meta"):
        shape = 4 if source == "iris" else (1, side, side)
        flow = unwrapped(parser.instantiate(config).model)(shape)
    assert f"diffeo.{type(flow).__name__}" == config.model.class_path
    assert_made_with(flow.arguments, chosen)
    assert (config.data.source, config.trainer.max_epochs) == (source, 7)


# Commands -----------------------------------------------------------------------------------------


def test_eval_prints_bits_per_dim_with_their_error(run, capsys):
    assert main(["eval", "digits"]) == 0
    out = capsys.readouterr().out
    images = load_images(ImageOptions(rows=300))
    flow = diffeo.Flow.from_pretrained("digits/model")
    bits = -torch.cat(list(log_probs(flow, Batches(images.test, 8192)))) / 64 / math.log(2)
    assert "bits/dim" in out
    assert f"{bits.mean():.4f}" in out
    assert f"{bits.std() / len(bits) ** 0.5:.4f}" in out


def test_the_importance_weighted_bound_is_labelled_and_tighter(run, capsys):
    assert main(["eval", "digits", "--data=digits", "--samples=8"]) == 0
    assert "importance-weighted bound, 8 samples" in capsys.readouterr().out
    images = load_images(ImageOptions(rows=300))
    flow = diffeo.Flow.from_pretrained("digits/model")
    one, many = (evaluate(flow, images, "test", samples) for samples in (1, 8))
    assert "8 samples" in str(many) and "samples" not in str(one)
    # By hand, in float64: the mean likelihood of eight noisy copies, which Jensen's inequality
    # puts above the likelihood of the mean log.
    x, noise = images.test.all(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        copies = torch.stack([flow.log_prob(x, generator=noise) for _ in range(8)]).double()
    top = copies.max(0).values
    by_hand = -(top + (copies - top).exp().mean(0).log()).mean()
    assert many.nll == pytest.approx(by_hand.item(), rel=1e-6)
    assert many.nll < -copies.mean()


def test_eval_refuses_samples_where_nothing_is_drawn(run, capsys):
    refused(["eval", "digits", "--samples=0"], capsys, "--samples is 0")


def test_samples_in_a_grid_in_a_folder_and_as_an_array(run):
    for out in ("s.png", "s.npz", "s.npy", "folder"):
        assert main(["sample", "digits", "-n", "9", "--seed=3", f"--out={out}"]) == 0
    pixels = np.load("s.npy")
    assert pixels.shape == (9, 1, 8, 8) and pixels.dtype == np.uint8
    assert (np.load("s.npz")["images"] == pixels).all()
    files = sorted((run / "folder").iterdir())
    assert len(files) == 9
    assert (np.stack([np.asarray(Image.open(f)) for f in files])[:, None] == pixels).all()
    flow = diffeo.Flow.from_pretrained("digits/model")
    with torch.no_grad():
        expected = flow.sample(9, generator=torch.Generator().manual_seed(3))
    assert (expected.numpy() == pixels).all()
    grid = np.asarray(Image.open("s.png"))
    assert (grid[0, 0] == pixels[0, 0, 0, 0]).all()
    assert main(["sample", "digits"]) == 0
    assert (run / "samples.png").is_file()


def test_scores_name_their_images(run):
    folder = run / "new"
    folder.mkdir()
    digits = load_images(ImageOptions(rows=300)).test.all()
    for i in range(5):
        Image.fromarray(digits[i, 0].numpy()).save(folder / f"d{i}.png")
    (folder / "notes.txt").write_text("not an image")
    assert main(["score", "digits", "--data=new", "--out=scores.csv"]) == 0
    scores = pd.read_csv("scores.csv")
    assert scores.image.tolist() == [f"d{i}.png" for i in range(5)]
    flow = diffeo.Flow.from_pretrained("digits/model")
    with torch.no_grad():
        expected = flow.log_prob(digits[:5], generator=torch.Generator().manual_seed(0))
    assert np.allclose(scores.log_prob, expected.numpy(), rtol=1e-5)
    assert np.allclose(scores.bits_per_dim, -scores.log_prob / 64 / math.log(2))
    for ending in ("parquet", "npz", "npy"):
        assert main(["score", "digits", "--data=new", f"--out=s.{ending}"]) == 0
    assert pd.read_parquet("s.parquet").image.tolist() == scores.image.tolist()
    assert np.allclose(np.load("s.npz")["log_prob"], scores.log_prob)
    assert np.load("s.npy").shape == (5, 2)


@pytest.mark.parametrize("kind", [None, "samples", "reconstructions", "latents", "curve"])
def test_plot_draws_each_kind(run, kind):
    options = [] if kind is None else [f"--kind={kind}"]
    assert main(["plot", "digits", "--out=p.png", *options]) == 0
    assert np.asarray(Image.open("p.png").convert("L")).std() > 1


def test_reconstruct(run):
    assert main(["reconstruct", "digits", "--out=r.png"]) == 0
    assert main(["reconstruct", "nice", "--data=digits", "-n=3", "--out=q.png"]) == 0
    assert np.asarray(Image.open("r.png").convert("L")).std() > 1


def test_commands_refuse_what_does_not_fit(run, capsys):
    table = run / "t.csv"
    table.write_text("a,b\n" + "".join(f"{i * 3 % 7},{i * i % 7}\n" for i in range(50)))
    refused(["score", "digits", "--data=t.csv"], capsys, "t.csv")
    refused(["plot", "digits", "--kind=corner"], capsys, "not for images")
    refused(["sample", "digits", "-n=0"], capsys, "-n is 0")
    refused(["sample", "digits", "--out=s.tiff"], capsys, "s.tiff")
    refused(["reconstruct", "digits", "--out=r.txt"], capsys, ".png")
    refused(["train", "--model=RealNVP", "--data=digits", "--out=x"], capsys, "images")
    refused(["train", "--model=ImageRealNVP", "--data=t.csv", "--out=x"], capsys, "2 columns")
    refused(["train", "--data=t.csv", "--data.flip=true", "--out=x"], capsys, "--data.flip")
    refused(["train", "--data=digits", "--data.noise=1", "--out=x"], capsys, "--data.noise")
    refused(["train", "--data=digits", "--model.scales=4", "--out=x"], capsys, "multiples of 16")
    refused(["train", "--preset=nothing", "--out=x"], capsys, "mnist-cpu")
    assert not (run / "x").exists()


def test_a_folder_named_like_a_table_does_not_hide_it(run):
    (run / "moons").mkdir()
    assert load_data(DataOptions("moons", rows=50)).features == 2


# A folder as people have them ---------------------------------------------------------------------


@pytest.fixture
def messy(tmp_path):
    """200 good images of mixed sizes and modes, three broken ones, two texts."""
    folder = tmp_path / "messy"
    random = np.random.default_rng(0)
    modes = ("L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16")
    for i in range(200):
        mode, size = modes[i % len(modes)], (int(random.integers(12, 40)), 12 + i % 30)
        pixels = random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
        ending = "jpg" if mode in ("CMYK", "L", "RGB") and i % 3 == 0 else "png"
        ending = "tiff" if mode == "CMYK" and ending == "png" else ending
        path = folder / ("cats" if i % 2 else "dogs") / f"{i:03}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    good = (folder / "dogs" / "000.jpg").read_bytes()
    (folder / "dogs" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "cats" / "empty.png").write_bytes(b"")
    (folder / "cats" / "noise.png").write_bytes(bytes(random.integers(0, 255, 500, dtype=np.uint8)))
    (folder / "README.txt").write_text("images of noise")
    (folder / "cats" / "list.txt").write_text("a b c")
    return folder


def test_a_messy_folder_trains_and_says_what_it_left_out(messy, tmp_path, capsys):
    command = ["train", "--data", str(messy), "--data.size=8", *SMALL, *QUICK[:2]]
    assert main([*command, f"--out={tmp_path / 'run'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    message = [line for line in lines if "left out" in line]
    assert len(message) == 1
    assert "left out 5 of 205 files: 4 no images (README.txt, cats/empty.png, " in message[0]
    assert "1 broken (dogs/cut.jpg)" in message[0]
    assert any("from 160 images (20 to validate, 20 to test)" in line for line in lines)
    assert json.loads((tmp_path / "run/model/config.json").read_text())["metadata"]["labels"] == [
        "cats",
        "dogs",
    ]
    # Another folder is brought to the same size.
    assert main(["score", str(tmp_path / "run"), "--data", str(messy), f"--out={messy}.csv"]) == 0
    assert len(pd.read_csv(f"{messy}.csv")) == 200


def test_strict_names_all_that_is_wrong_and_trains_nothing(messy, tmp_path, capsys):
    strict = ["train", "--data", str(messy), "--data.size=8", "--data.strict=true"]
    names = ("cut.jpg", "empty.png", "noise.png", "README.txt", "list.txt")
    refused([*strict, f"--out={tmp_path / 'run'}"], capsys, *names)
    assert not (tmp_path / "run").exists()


def test_a_gallery_keeps_the_order_of_its_source(messy):
    gallery = load_gallery(ImageOptions(str(messy), size=8))
    assert gallery.names == sorted(gallery.names) and len(gallery.names) == 200
    assert torch.equal(gallery.images.all(3), gallery.images.batch(torch.arange(3)))


# Glow, and models with a context ------------------------------------------------------------------

GLOW = ["--model=Glow", "--model.levels=2", "--model.steps=1", "--model.hidden_channels=8"]


def shapes_run(tmp_path):
    """A conditional run of a few small shapes."""
    data = ["--data=shapes", "--data.size=8", "--data.context=filled,colour"]
    arguments = ["train", *GLOW, *data, "--out=shapes", *QUICK]
    assert main(arguments) == 0
    return tmp_path / "shapes"


def test_glow_is_trained_resumed_and_used_by_the_commands(tmp_path, capsys):
    assert main(["train", *GLOW, "--data=digits", "--out=g", *QUICK]) == 0
    rows = pd.read_csv("g/metrics.csv")
    assert rows["val_bpd"].iloc[-1] < rows["val_bpd"].iloc[0]
    flow = diffeo.Flow.from_pretrained("g/model")
    assert isinstance(flow, diffeo.Glow)
    assert len(flow.latent_shapes) == 2
    assert main(["train", "--resume=g", "--trainer.max_epochs=3"]) == 0
    assert len(pd.read_csv("g/metrics.csv")) == 3
    assert main(["eval", "g"]) == 0
    assert main(["levels", "g", "-n=3", "--out=levels.png"]) == 0
    assert main(["interpolate", "g", "--pairs=2", "--out=i.png"]) == 0
    assert main(["edit", "g", "--attribute=label=3", "--out=e.png"]) == 0
    assert main(["sample", "g", "--temperatures=0,1", "--out=t.png"]) == 0
    refused(["edit", "g", "--attribute=label=3", "--kind=condition"], capsys, "takes no context")


def test_a_model_of_images_is_conditional_on_what_is_named(tmp_path, capsys):
    run = shapes_run(tmp_path)
    flow = diffeo.Flow.from_pretrained(run / "model")
    columns = ["filled", "colour=blue", "colour=green", "colour=red"]
    assert flow.context_features == 4
    values = ("blue", "green", "red")
    assert flow.context.variables == (Number("filled"), Category("colour", values))
    assert flow.context.columns == columns
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["context"] == [
        "filled",
        "colour",
    ]
    data = load_data(DataOptions("shapes", size=8, rows=300, context=["filled", "colour"]))
    assert data.context.columns == columns
    assert main(["eval", "shapes"]) == 0
    assert main(["sample", "shapes", "-n=4", "--context=filled=1,colour=red", "--out=s.npz"]) == 0
    assert np.load("s.npz")["images"].shape == (4, 3, 8, 8)
    # What is left unsaid is drawn from the training.
    with pytest.MonkeyPatch.context() as patch:
        contexts = []
        sampled = diffeo.Flow.sample
        patch.setattr(
            diffeo.Flow,
            "sample",
            lambda flow, n, c, **rest: contexts.append(c) or sampled(flow, n, c, **rest),
        )
        assert main(["sample", "shapes", "-n=40", "--context=colour=red", "--out=s.npz"]) == 0
    (context,) = contexts
    assert context[:, 1:].tolist() == [[0.0, 0.0, 1.0]] * 40
    assert 0 < context[:, 0].mean() < 1
    refused(["sample", "shapes", "--context=filled=1,colour=pink"], capsys, "colour=pink", "red")
    assert main(["edit", "shapes", "--attribute=filled", "--strengths=0,1", "--out=e.png"]) == 0
    assert main(["reconstruct", "shapes", "--out=r.png"]) == 0
    assert main(["interpolate", "shapes", "--pairs=1", "--frames=3", "--out=i.png"]) == 0
    capsys.readouterr()
    assert main(["score", "shapes", "--data=shapes", "--out=scores.csv"]) == 0
    # Images without those attributes cannot be scored.
    refused(["score", "shapes", "--data=digits"], capsys, "filled")
    refused(["train", *GLOW, "--data=shapes", "--data.context=fild", "--out=x"], capsys, "filled")


def test_an_edit_by_condition_decodes_the_same_noise_under_another_context(tmp_path):
    run = shapes_run(tmp_path)
    flow = diffeo.Flow.from_pretrained(run / "model")
    for p in flow.parameters():
        p.data += 0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    flow.save_pretrained(run / "model")
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            diffeo.figures, "image_grid", lambda x, *words: drawn.append((x, words)) or Figure()
        )
        arguments = ["edit", "shapes", "--attribute=filled", "-n=5", "--out=e.png"]
        assert main([*arguments, "--strengths=-1,0,1"]) == 0
        assert main([*arguments, "--strengths=0,1", "--kind=mean"]) == 0
    data = Run(run).data()
    x, context = data.test.take(torch.arange(5))
    grid, (labels, caption) = drawn[0]
    assert labels == ["\N{MINUS SIGN}1", "0", "1"]
    assert "condition" in caption
    assert torch.equal(grid[:, 1], x)
    for column, value in ((0, 0.0), (2, 1.0)):
        other = context.clone()
        other[:, 0] = value
        with torch.no_grad():
            wanted = flow.decode(flow.encode(x, context), other)
        assert torch.equal(grid[:, column], wanted)
    assert (grid[:, 0] != grid[:, 2]).any()
    grid, (_, caption) = drawn[1]
    assert "mean" in caption
    assert torch.equal(grid[:, 0], x)


def test_a_missing_context_is_refused_with_where_to_name_it(capsys):
    arguments = ["train", *GLOW, "--data=digits", "--out=x", *QUICK]
    refused([*arguments, "--model.context=10"], capsys, "wants 10 columns", "--data.context")
    refused([*arguments, "--model.num_classes=10"], capsys, "no longer", "--data.context label")
    assert main([*arguments, "--data.context=label"]) == 0
    assert main(["sample", "x", "-n=3", "--label=3", "--out=three.png"]) == 0


def test_a_weight_that_cannot_be_inverted_is_named_on_the_command_line(tmp_path, capsys):
    flow = diffeo.Glow((1, 8, 8), 1, 1, 4)
    flow.bijection[1][1].conv.log_s.data[0] = -60.0
    flow.save_pretrained("m")
    refused(
        ["sample", "m", "--out=s.png"], capsys, "layer bijection.links.1.links.1.conv ", "learning"
    )
    assert not (tmp_path / "s.png").exists()
