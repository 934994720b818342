"""What README and docs say can be done: each snippet runs, each option, name and link is there.

The blocks of a page run in order, Python in one namespace, commands in one folder, which holds
what a reader is supposed to bring: `my.csv`, `new.csv`, `photos/`. Trainings are cut to an epoch of
few rows, and Glow to few steps; `-m slow` lets them run to their end. A block that says `not run`
is skipped, with its reason, but its `diffeo` commands have to be understood.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from snippets import PAGES, ROOT, Block, anchors, blocks, inline_code, links, name_of, resolve

import diffeo
from diffeo.cli import COMMANDS, main
from diffeo.cli.parser import make_parser, parse

SHORT = ["--data.rows", "600"]
ONE_EPOCH = ["--trainer.max_epochs", "1"]
SHALLOW = ["--model.steps", "2"]  # a Glow
RUN = [page for page in PAGES if any(b.language in ("python", "console") for b in blocks(page))]
LEFT_OUT = [block for page in PAGES for block in blocks(page) if block.reason]
# Options of other programs, and what the list of changes says is gone.
ELSEWHERE = {"--logdir", "--trainer.precision", "--trainer.accelerator", "--trainer.strategy"}
ELSEWHERE |= {"--trainer.num_nodes", "--node-rank", "--no-deps"}
LANGUAGES = {"bash", "python", "console", "text", "yaml", "bibtex", ""}
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture
def belongings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what a reader brings along; what is imported from it is forgotten."""
    source = np.random.default_rng(0)
    for name, rows in (("my.csv", 400), ("new.csv", 50), ("people.csv", 5)):
        age = source.uniform(20, 60, rows)
        height = 150 + age / 2 + source.normal(0, 7, rows)
        weight = height / 2 - 15 + source.normal(0, 6, rows)
        table = pd.DataFrame({"height": height, "weight": weight, "age": age})
        table.to_csv(tmp_path / name, index=False)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        pixels = source.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("length", ["short", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_each_snippet_of_a_page_runs(page, length, belongings):
    namespace: dict[str, object] = {"__name__": "snippets_of_a_page"}
    for block in blocks(page):
        if block.language == "python" and not block.reason:
            _run_python(block, namespace, belongings)
        if block.language == "console":
            for words in block.commands:
                _understand(block, words)
                if not block.reason:
                    _run_command(block, words, short=length == "short")


def _run_python(block: Block, namespace: dict, folder: Path) -> None:
    if block.title:  # a file that the reader writes
        (folder / block.title).write_text(block.text, encoding="utf-8")
        importlib.invalidate_caches()
        return
    # Empty lines in front, so that a traceback names the line of the page.
    code = "\n" * (block.line - 1) + block.text
    exec(compile(code, str(block.page), "exec", dont_inherit=True), namespace)


def _run_command(block: Block, words: list[str], *, short: bool) -> None:
    program, *arguments = words
    assert program in {"diffeo", "python"}, f"{block}: say why `{program}` is not run"
    if program == "python":
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, *arguments], check=True, env=environment)
        return
    if short and arguments[0] == "train":
        # A MixedFlow, the default of tables, learns without epochs.
        mixed = "my.csv" in arguments and "--model" not in arguments
        arguments += SHORT + ([] if mixed else ONE_EPOCH)
        arguments += SHALLOW if "Glow" in arguments else []
    assert main(arguments) == 0, f"{block}: {' '.join(words)}"


def _understand(block: Block, words: list[str]) -> None:
    """Commands that are not run have to name what there is."""
    program, *arguments = words
    if program == "diffeo":
        if block.reason and "--resume" in arguments:  # of a run that is not there
            place = arguments.index("--resume")
            arguments[place : place + 2] = []
        parse(arguments[0], arguments[1:])
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in arguments if "=" not in word]
        for target in targets:
            assert f"\n{target}:" in makefile, f"{block}: there is no `make {target}`"
    if program == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
            assert set(extras.split(",")) <= set(known["optional-dependencies"]), f"{block}"


@pytest.mark.parametrize("block", LEFT_OUT, ids=str)
def test_what_is_left_out_says_why(block):
    assert len(block.reason.split()) >= 3
    pytest.skip(f"not run: {block.reason}")


@every_page
def test_a_block_says_what_it_is(page):
    """A misspelt language, or a mark that belongs to no block, would pass for a test."""
    assert {block.language for block in blocks(page)} <= LANGUAGES
    marks = len(re.findall("^<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert marks == sum(block.reason is not None for block in blocks(page))


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_options_in_prose_exist(page):
    known = _known_options()
    for code in inline_code(page):
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code):
            assert option in known, f"{name_of(page)}: `{code}`"


@functools.cache
def _known_options() -> set[str]:
    known = {"--data", "--preset", "--detect_anomaly", "--help", "--version", *ELSEWHERE}
    for command in COMMANDS:
        for action in make_parser(command)._actions:
            known |= {option for option in action.option_strings if option.startswith("--")}
    for model in diffeo.MODELS:
        names = getattr(diffeo, model).__init__.__annotations__
        known |= {f"--model.{name}" for name in names}
    folders = "benchmarks", "examples", "tests/robustness"
    scripts = [script for folder in folders for script in (ROOT / folder).glob("*.py")]
    for script in [*scripts, ROOT / "tests" / "mutation" / "__main__.py"]:
        known |= set(re.findall(r'"(--[a-z][\w-]*)"', script.read_text(encoding="utf-8")))
    return known


@every_page
def test_names_in_prose_exist(page):
    for code in inline_code(page):
        name = re.match(r"diffeo(\.[A-Za-z_]\w*)+", code)
        if name is not None:
            resolve(name[0])
