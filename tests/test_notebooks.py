"""The notebooks of the documentation run from first cell to last, and hold no outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install diffeo[dev]")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install diffeo[dev]")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install diffeo[dev]")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Each figure, image and tree that a cell returns is shown."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    kinds = {kind for out in shown for kind in out["data"]}
    assert {"image/png", "text/html"} <= kinds
    for out in shown:
        assert out["data"].keys() & {"image/png", "text/html"}, out["data"]["text/plain"]


@every_notebook
def test_a_notebook_holds_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_each_notebook_is_on_the_page():
    text = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert f"](notebooks/{path.name})" in text
