"""What every test gets: checked shapes, a folder of its own, and fixed random numbers."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import hypothesis
import jaxtyping
import pytest
import torch
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis.configuration import set_hypothesis_home_dir

# Beartype knows `Self` only in classes that it decorates whole, but is handed single methods; and
# an int may stand where a float is asked for (PEP 484).
_conf = BeartypeConf(hint_overrides=FrozenDict({Self: Any}), is_pep484_tower=True)
not_checked: dict[str, str] = {}


def typecheck(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's annotations at each call; one that has no check is put on record."""
    try:
        return beartype(conf=_conf)(function)
    except BeartypeDecorHintException as error:
        not_checked[f"{function.__module__}.{function.__qualname__}"] = str(error).splitlines()[0]
        return function


# Before diffeo is imported: from here on each annotated shape and type is checked at each call.
# The mathematics only: elsewhere the wrapping would hide a generator from `torch.no_grad`, and
# the annotations of a constructor from the command line.
ROOMS = ["bijections", "networks", "flow", "latent", "models", "pretrained.storage"]
jaxtyping.install_import_hook([f"diffeo.{room}" for room in ROOMS], f"{__name__}.typecheck")

# Hypothesis keeps its notes out of the repository, and the same examples are tried each time.
_notes = tempfile.TemporaryDirectory()
set_hypothesis_home_dir(_notes.name)
hypothesis.settings.register_profile(
    "diffeo", deadline=None, max_examples=20, database=None, derandomize=True
)
hypothesis.settings.load_profile("diffeo")


# A shell lets those it starts in the background ignore Ctrl-C, which some tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes outside its own temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFEO_CACHE", str(tmp_path / ".cache"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder}, which is not there")
    return folder


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Calls go as a user's do, without the checks of annotations: our own refusals answer."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a module's `trained` made, in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path
