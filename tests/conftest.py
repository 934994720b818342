"""What every test gets: a folder of its own, and fixed random numbers."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from hypothesis.configuration import set_hypothesis_home_dir

if TYPE_CHECKING:
    from diffeo.models.mixed import MixedFlow

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
def one_thread() -> Iterator[None]:
    """Small tensors in many steps: a second thread would wait more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mixed() -> MixedFlow:
    """A model of a table of all kinds of columns; nothing may change it."""
    from mixed_tables import SCHEMA, changed_flow, mixed_table

    return changed_flow(SCHEMA, mixed_table())


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder}, which is not there")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a module's `trained` made, in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path
