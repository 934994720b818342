"""What notebooks show of flows, runs and figures: complete, escaped, of bounded size."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import torch

import diffeo
from diffeo.context import Category, ContextSpec, Number
from diffeo.evaluation.likelihood import Score
from diffeo.figures import density_map
from diffeo.run import Run
from diffeo.utils import html

BAD = "<script>alert('a')</script>\x1b[31m"
VOID = {"br", "hr", "img"}


class Reader(HTMLParser):
    """Checks that each element is closed where it should be, and collects names and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_a_flow_is_shown_as_a_tree_with_weights_and_shapes():
    flow = diffeo.RealNVP(3, layers=2, hidden=(8,), context=2)
    read = Reader(flow._repr_html_())
    assert "events of 3 · 3 latents · given c0, c1" in read.words
    count = sum(parameter.numel() for parameter in flow.parameters())
    assert f"{count:,} weights" in read.words
    assert "links.1" in read.words
    assert "Coupling" in read.words
    assert "8 × 4" in read.words  # of the first weight of a network
    assert "details" in read.tags


def test_mixtures_and_bijections_are_shown_too():
    mixture = diffeo.FlowMixture(diffeo.RealNVP(2, layers=2), diffeo.RealNVP(2, layers=2))
    assert "flows.1" in Reader(mixture._repr_html_()).words
    assert "Coupling" in Reader(mixture.flows[0].bijection._repr_html_()).words
    assert "no weights" in Reader(diffeo.Flow(diffeo.Chain(), 2)._repr_html_()).words


def test_an_image_flow_says_the_shape_of_its_images():
    spec = ContextSpec([Category("label", ("a", "b")), Number("size")])
    flow = diffeo.Glow((1, 8, 8), levels=1, steps=1, hidden_channels=4, context=spec)
    words = Reader(flow._repr_html_()).words
    assert "events of 1 × 8 × 8 · 64 latents · given label, size" in words


def test_names_of_strangers_are_text():
    flow = diffeo.RealNVP(2, layers=2, context=ContextSpec([Number(BAD)]))
    shown = flow._repr_html_()
    assert "script" not in Reader(shown).tags
    assert "<script>alert('a')</script>\\x1b[31m" in Reader(shown).words
    table = html.table((BAD,), [(BAD,)])
    assert "script" not in Reader(table).tags


def test_of_a_large_module_the_deepest_parts_are_counted():
    inner = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(1, 1)) for _ in range(500))
    wide = torch.nn.Sequential(torch.nn.Sequential(*inner))
    words = Reader(html.tree(wide)).words
    assert "1,000 parts that are not listed" in words
    assert len(diffeo.load("mnist")._repr_html_()) < 300_000


@pytest.fixture
def run(tmp_path):
    flow = diffeo.RealNVP(2, layers=2).initialize(torch.randn(50, 2))
    flow.metadata |= {"columns": ["height", BAD], "form": {}}
    flow.save_pretrained(tmp_path / "model")
    (tmp_path / "config.yaml").write_text("data: {}\n")
    return tmp_path


def test_a_run_shows_scores_and_columns(run):
    entry = {"rows": 1234, "nll": 1.5, "stderr": 0.25}
    (run / "results.json").write_text(json.dumps({"test": entry, "training": {"seconds": 7.0}}))
    opened = Run(run)
    assert opened.scores() == {"test": Score(1234, 1.5, 0.25)}
    read = Reader(opened._repr_html_())
    for words in ("1,234", "NLL 1.5000 ± 0.2500 nats", "trained in 7.0 s", "2 columns", "height"):
        assert words in read.words
    assert "script" not in read.tags


def test_a_damaged_file_of_scores_is_named(run):
    (run / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: make it anew by training"):
        Run(run).scores()
    assert "results.json is damaged" in Reader(Run(run)._repr_html_()).words
    (run / "results.json").unlink()
    assert Run(run).scores() == {}
    assert '<th scope="col">score' not in Run(run)._repr_html_()


def test_figures_are_shown_without_pyplot():
    x = torch.randn(50, 2)
    figure = density_map(diffeo.RealNVP(2, layers=2).initialize(x), x)
    assert figure._repr_png_().startswith(b"\x89PNG")
