"""The worked problems: their answers are those of the truth, and a poor model is found out."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDS = {"posterior": {"pyro": "pyro"}, "lossless": {"constriction": "compression"}}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def example(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The script that `problem` names; skipped where a package that it needs is missing."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    name = request.param
    for package, extra in NEEDS.get(name, {}).items():
        pytest.importorskip(package, reason=f"needs {package}: pip install 'diffeo[{extra}]'")
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def problem(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


def drawn(path: Path) -> bool:
    return path.stat().st_size > 5_000


def test_each_problem_has_a_page_an_image_and_a_test():
    listed = (ROOT / "docs/examples/index.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for script in sorted((ROOT / "examples").glob("*.py")):
        name = script.stem.replace("_", "-")
        page = (ROOT / f"docs/examples/{name}.md").read_text(encoding="utf-8")
        assert f"../images/example-{name}.png" in page, name
        assert f"examples/{script.name}" in page, name
        assert f"]({name}.md)" in listed, name
        assert f'problem("{script.stem}")' in tests, name
        assert (ROOT / f"docs/images/example-{name}.png").stat().st_size < 150_000, name


@problem("boltzmann")
def test_the_free_energy_of_two_basins_is_that_of_a_grid(example, tmp_path):
    assert example.main(["--steps", "200", "--out", str(tmp_path / "b.png")]) == 0
    assert drawn(tmp_path / "b.png")
    # The grid is exact: twice as fine, it says the same.
    flow = example.learn(0)
    rough = example.solve(flow, 2_000)
    example.GRID *= 2
    assert example.solve(flow, 2_000).truth == pytest.approx(rough.truth, abs=1e-6)
    assert not rough.checks()["effective sample size above half of the draws"]
    # Draws without weights are not the answer: those of an untrained flow know no basin.
    assert abs(rough.unweighted - rough.truth) > 1


@problem("posterior")
def test_a_posterior_is_learned_and_its_ranks_are_looked_at(example, capsys):
    """tests/test_distribution.py learns it to the end, and compares it with a grid."""
    # After one step it is the prior, whose ranks are uniform as well; but not if it is narrowed.
    assert example.main(["--steps", "1", "--epidemics", "500"]) == 0
    assert example.main(["--steps", "1", "--epidemics", "500", "--width", "0.7"]) == 1
    assert "NOT calibrated" in capsys.readouterr().out
