"""The structure of src/diffeo: what may import what, where modules stand, how long a file is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
LONGEST = 350

# A package may import those of the lines below its own (the layers of DESIGN.md).
LAYERS = [
    {"utils"},
    {"bijections", "networks", "bases", "context", "embedding", "schema", "data"} | {"mixed"},
    {"flow", "distribution", "mixture", "pretrained"},
    {"models"},
    {"training", "evaluation", "latent", "figures", "export", "losses", "answers"}
    | {"compression"},
    {"run", "sklearn"},
    {"explorer", "scale", "integrations"},
    {"cli"},
    {"__init__", "__main__"},
]
# Of its own line, it may import these.
NEIGHBOURS = {
    "bijections": {"bases", "context", "networks"},
    "networks": {"bijections", "context"},  # a network may hold an ActNorm
    "embedding": {"bijections", "context"},
    "mixed": {"bijections", "schema"},
    "data": {"context", "schema"},  # a table says which of its columns are the context
    "flow": {"distribution", "pretrained"},
    "answers": {"figures"},
    "mixture": {"flow", "pretrained"},
}
ROOT_MODULES = {"__init__", "__main__", "flow", "distribution", "mixture", "bases", "context"}
ROOT_MODULES |= {"embedding", "schema"}
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}


def find_modules(source: Path) -> dict[str, Path]:
    """The file of each module by its dotted name; a package's is its `__init__`."""
    files = {".".join(p.relative_to(source).with_suffix("").parts): p for p in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in files.items()}


def imported_names(tree: ast.Module) -> set[str]:
    """Dotted names that a file imports, under `TYPE_CHECKING` and in functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            names |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return names


def package_of(module: str) -> str:
    """`data` of `diffeo.data.tables.table`; `__init__` of `diffeo`."""
    return (*module.split("."), "__init__")[1]


def findings(source: Path) -> set[str]:
    """One sentence for each violation; the source is read and not imported."""
    modules = find_modules(source)
    found, graph = set(), {}
    for module, path in modules.items():
        file, text = path.relative_to(source / "diffeo"), path.read_text(encoding="utf-8")
        tree, package = ast.parse(text), package_of(module)
        if (lines := text.count("\n")) > LONGEST:
            found.add(f"{file} has {lines} lines, more than {LONGEST}")
        if len(file.parts) == 1 and path.stem not in ROOT_MODULES:
            found.add(f"{file} is no module that may stand at the root")
        elif package not in LAYER:
            found.add(f"{package}/ is in no layer")
        if path.stem == "__init__" and not ast.get_docstring(tree):
            found.add(f"{file} has no docstring that says what belongs there")
        graph[module] = set()
        for name in imported_names(tree):
            if name.startswith("."):
                found.add(f"{file} imports {name}, by a relative name")
            elif name.split(".")[0] == "diffeo":
                while name not in modules:  # a function or a class of a module
                    name = name.rpartition(".")[0]
                graph[module].add(name)
                other = package_of(name)
                below = LAYER.get(other, -1) < LAYER.get(package, 0)
                if not (below or other == package or other in NEIGHBOURS.get(package, ())):
                    found.add(f"{file} imports {name}, which is not below {package}")
    return found | cycles(graph)


def cycles(graph: dict[str, set[str]]) -> set[str]:
    """One sentence for each import that closes a cycle, which is taken away to find the others."""
    graph, found = {module: sorted(graph[module]) for module in sorted(graph)}, set()
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return found
        except CycleError as error:
            circle = error.args[1][::-1]  # each imports the next; the last is the first
            graph[circle[0]].remove(circle[1])
            found.add(f"import cycle: {' -> '.join(circle)}")


def test_the_structure_is_that_of_the_design():
    found = findings(SOURCE)
    assert not found, "\n".join(sorted(found))


IMPORT_EACH = """
import importlib, os, sys
import torch, numpy  # once, since they take the longest; each child inherits them
failed = []
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # an extra that is not installed
            os._exit(str(error.name).startswith("diffeo"))
        except ImportError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(*failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
def test_each_module_can_be_the_first_that_is_imported():
    packages = sorted({".".join(name.split(".")[:2]) for name in find_modules(SOURCE)})
    run = [sys.executable, "-c", IMPORT_EACH, *packages]
    assert subprocess.check_output(run, text=True).split() == []


def test_violations_are_found(tmp_path):
    files = {
        "__init__.py": '"""Flows."""',
        "helpers.py": "",
        "flow.py": "def load():\n    from diffeo.models import Glow",
        "models/__init__.py": '"""Models."""\nfrom diffeo.models.glow import Glow',
        "models/glow.py": """
            from typing import TYPE_CHECKING
            from diffeo.data.table import read
            if TYPE_CHECKING:
                from diffeo.models import Glow
        """,
        "data/__init__.py": "",
        "data/table.py": "from ..flow import Flow\n" + "\n" * 350,
        "things/__init__.py": '"""Things."""\nimport_module("diffeo.cli")',
        "cli/__init__.py": '"""The command line."""\nimport diffeo.things',
    }
    for name, text in files.items():
        path = tmp_path / "diffeo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    assert findings(tmp_path) == {
        "helpers.py is no module that may stand at the root",
        "flow.py imports diffeo.models, which is not below flow",
        "import cycle: diffeo.models.glow -> diffeo.models -> diffeo.models.glow",
        "data/__init__.py has no docstring that says what belongs there",
        "data/table.py imports ..flow.Flow, by a relative name",
        "data/table.py has 351 lines, more than 350",
        "things/ is in no layer",
        "things/__init__.py imports diffeo.cli, which is not below things",
        "import cycle: diffeo.cli -> diffeo.things -> diffeo.cli",
    }
