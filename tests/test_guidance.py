"""Guidance: samples that are moved towards their class, by the probabilities of both networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from constructors import perturb
from torch.distributions import Normal

from diffeo import NSF, PixelFlow, TarFlow
from diffeo.bijections import PixelAutoregressive
from diffeo.cli import main
from diffeo.context import ContextSpec
from diffeo.run import Run

CLASSES = ContextSpec.classes(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_flow(by: float = 0.5, **options: Any) -> PixelFlow:
    torch.manual_seed(0)
    settings = {"image_shape": (2, 3, 2), "layers": 2, "hidden_channels": 6, "bits": 3}
    settings |= {"context": CLASSES, "class_dropout": 0.4}
    return perturb(PixelFlow(**(settings | options)), by).double().eval()


def tar_flow(**options: Any) -> TarFlow:
    torch.manual_seed(0)
    settings = {"image_shape": (3, 4, 4), "patch": 2, "blocks": 2, "layers": 2, "context": CLASSES}
    settings |= {"class_dropout": 0.4, "hidden_channels": 16}
    return perturb(TarFlow(**(settings | options)), 0.1).eval()


@pytest.mark.parametrize("head", ["logistics", "softmax"])
@pytest.mark.parametrize("weight", [0.7, 3.0])
def test_each_pixel_is_drawn_by_the_guided_probabilities(head, weight):
    """Its noise lies in its cell of them, by one pass of the whole network for each context."""
    flow = pixel_flow(head=head)
    z, labels = flow.noise(200, generator()).double(), torch.arange(200) % 3
    rows = torch.eye(3).double()[labels]
    x = flow.guided(z, rows, weight).floor()
    link = flow.bijection[0]
    assert isinstance(link, PixelAutoregressive)
    both = []
    for context in (rows, torch.full_like(rows, 1 / 3)):
        parameters = link.conditioner(link.scaled(x), flow.context_encoder(context)[0])
        # The elements of all images as rows of parameters, in the order of x.
        each = link.univariate.parameters_each
        flat = parameters.unflatten(1, (each, 2)).movedim(1, -1).reshape(-1, each)
        both.append(link.univariate.probabilities(flat).log())
    p = (both[0] + weight * (both[0] - both[1])).softmax(1)
    number = x.reshape(-1).long()
    upper = p.cumsum(1).gather(1, number[:, None])[:, 0]
    lower = upper - p.gather(1, number[:, None])[:, 0]
    level = Normal(0.0, 1.0).cdf(z.view(x.shape).reshape(-1))
    assert len(number.unique()) == 8
    # Up to the least probability that each number has.
    assert (lower - 1e-5 <= level).all()
    assert (level <= upper + 1e-5).all()


def test_no_guidance_is_the_density_itself():
    flow = pixel_flow()
    for weight in (0.0, 1e-9):
        drawn = flow.sample(50, 1, generator=generator(), guidance=weight)
        assert torch.equal(drawn, flow.sample(50, 1, generator=generator()))
    assert not torch.equal(drawn, flow.sample(50, 1, generator=generator(), guidance=2.0))


def test_guided_images_are_more_of_their_class():
    """By the model's own posterior of the class."""
    flow = pixel_flow()
    labels = torch.arange(600) % 3

    def share(weight: float) -> float:
        x = flow.sample(600, labels, generator=generator(), guidance=weight)
        with torch.no_grad():
            scores = [flow.log_prob(x, torch.full((600,), k)) for k in range(3)]
        return float((torch.stack(scores).argmax(0) == labels).double().mean())

    assert share(2.0) > share(0.0) + 0.05


@pytest.mark.parametrize("made", [pixel_flow, tar_flow])
def test_some_classes_are_dropped_in_training_alone(made):
    flow = made()
    x = torch.randint(256, (400, *flow.shape), generator=generator(), dtype=torch.uint8)
    labels = torch.ones(400, dtype=torch.long)
    _, rows, _ = flow.train().prepared(x, labels, generator(1))
    dropped = (rows == 1 / 3).all(1)
    assert 0.3 < dropped.float().mean() < 0.5
    assert (rows[~dropped] == torch.eye(3)[1]).all()
    assert torch.equal(flow.prepared(x, labels, generator(1))[1], rows)
    _, rows, _ = flow.eval().prepared(x, labels, generator(1))
    assert (rows == torch.eye(3)[1]).all()


def test_commands_guide_samples(tmp_path, capsys):
    pixel_flow(image_shape=(1, 8, 8), by=0.3).float().save_pretrained(tmp_path / "run")
    (tmp_path / "plain").mkdir()
    pixel_flow(image_shape=(1, 8, 8), class_dropout=0.0).save_pretrained(tmp_path / "plain")

    def drawn(name: str, *words: str) -> np.ndarray:
        out = tmp_path / f"{name}.npy"
        folder = str(tmp_path / "run")
        command = ["sample", folder, "--num", "20", "--seed", "1", "--label", "2", *words]
        assert main([*command, "--out", str(out)]) == 0
        return np.load(out)

    plain, guided = drawn("plain"), drawn("guided", "--guidance", "2")
    assert plain.shape == guided.shape
    assert not (plain == guided).all()
    assert (drawn("again", "--guidance", "2") == guided).all()
    assert (drawn("none", "--guidance", "0") == plain).all()
    capsys.readouterr()
    for words, text in (
        (["plain", "--guidance", "1"], "class_dropout"),
        (["run", "--guidance", "1", "--temperatures", "0,1"], "--guidance"),
        (["run", "--guidance", "-1"], "guidance"),
    ):
        assert main(["sample", str(tmp_path / words[0]), *words[1:]]) == 2
        assert text in capsys.readouterr().err
    # Before anything is computed of data, which are not there.
    words = ["eval", str(tmp_path / "plain"), "--data", "nothing.npy", "--quality", "9"]
    assert main([*words, "--guidance", "1"]) == 2
    assert "class_dropout" in capsys.readouterr().err


def test_the_explorer_guides_models_that_can_be_guided(tmp_path):
    gr = pytest.importorskip("gradio")
    from explored import make_subject

    from diffeo.explorer import sampling
    from diffeo.explorer.subject import Subject
    from diffeo.explorer.tabs import sample

    pixel_flow(image_shape=(1, 8, 8), by=0.3).float().save_pretrained(tmp_path / "run")
    subject, other = Subject(Run(tmp_path / "run")), make_subject("labels", tmp_path)
    values = [str(subject.flow.context.category.values[2])]
    x, context = sampling.sample(subject, 6, [3], 1.0, values, 2.0)
    assert torch.equal(x, Run(tmp_path / "run").sample(6, context=context, seed=3, guidance=2.0))
    with pytest.raises(ValueError, match="the guidance is"):
        sampling.sample(subject, 1, [0], 1.0, values, 5.0)
    for each, visible in ((subject, True), (other, False)):
        with gr.Blocks() as page:
            begun = sample.add(each)
        sliders = [part for part in page.blocks.values() if part.elem_id == "guidance"]
        assert [slider.visible for slider in sliders] == [visible]
        assert ("guidance" in begun.linked) == visible


def test_a_model_without_guidance_says_which_have_it(tmp_path):
    NSF(2, layers=1, hidden=(8,)).save_pretrained(tmp_path / "table")
    with pytest.raises(ValueError, match="NSF cannot be guided"):
        Run(tmp_path / "table").sample(2, guidance=1.0)


def test_what_cannot_be_guided_is_refused():
    for flow in (pixel_flow(class_dropout=0.0), tar_flow(class_dropout=0.0)):
        with pytest.raises(ValueError, match="class_dropout"):
            flow.sample(1, 0, guidance=1.0)
    with pytest.raises(ValueError, match="needs classes"):
        pixel_flow(context=2)
    with pytest.raises(ValueError, match="from 0 on"):
        pixel_flow().sample(1, 0, guidance=-1.0)
