"""Each dependency has a reason that is written down, a bound, and a place where it is imported."""

import ast
import re
import subprocess
import sys
import tempfile
import tomllib

import pytest
from lowest import EXTRAS as LOWEST
from lowest import ROOT, bounds, releases
from packaging.version import Version
from wheel_check import BY_HAND, THREE

SOURCE = ROOT / "src" / "diffeo"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where what is imported is called otherwise than what is installed.
INSTALLED = {
    "PIL": "pillow",
    "pyro": "pyro-ppl",
    "sklearn": "scikit-learn",
    "fastapi": "gradio",  # which is made of it
    "keras": "bayesflow",
    "starlette": "gradio",
    "yaml": "pyyaml",
}
# Extras whose bounds are the very releases that are tested, and so not lowest ones.
NEWEST = ("explorer", "sbi", "nessai", "pocomc", "madnis", "bayesflow", "sdv")
# Packages that are handed a flow, and which only tests import.
HANDED = {"pocomc", "madnis"}
# Modules of a package that import another one, which is needed for them alone.
IMPORTED_BY = {"torch.utils.tensorboard": "tensorboard"}
# Rooms in which an extra may be imported as the module is: they are themselves imported late.
OF_EXTRAS = dict.fromkeys(("fastapi", "gradio", "starlette"), "explorer")


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0]


ALWAYS = {name_of(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    name_of(line)
    for extra in (*LOWEST, *NEWEST)
    for line in PROJECT["optional-dependencies"][extra]
}


def imports(path):
    """The packages that a file imports, and whether at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for name in names:
            yield IMPORTED_BY.get(name, name.partition(".")[0]), node in tree.body


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    used = {name for path in SOURCE.rglob("*.py") for name, _ in imports(path)}
    used -= {*sys.stdlib_module_names, "diffeo"}
    assert {INSTALLED.get(name, name) for name in used} == (ALWAYS | EXTRAS) - HANDED


def test_extras_are_imported_where_they_are_used():
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0]
        for name, at_top in imports(path):
            if INSTALLED.get(name, name) in EXTRAS and OF_EXTRAS.get(name) != room:
                assert not at_top, f"{path} imports {name} for everybody"


def test_each_has_its_reason():
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    reasons = {
        name for row in re.findall(r"^\|.*", text, re.M) for name in re.findall("`(.+?)`", row)
    }
    assert reasons >= ALWAYS | EXTRAS
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for name in ALWAYS:
        assert any(re.match(rf' +"{re.escape(name)}[\[>].*# ', line) for line in lines), name


def test_no_bound_is_above_what_is_releases():
    known = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in releases().items()}
    newest = {name_of(line) for extra in NEWEST for line in PROJECT["optional-dependencies"][extra]}
    assert {*bounds()} == (ALWAYS | EXTRAS) - newest
    for name, version in bounds().items():
        assert Version(version) <= Version(known[re.sub(r"[-_.]+", "-", name).lower()]), name


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_no_bound_is_an_upper_one(line):
    assert not set(line) & {"<", "=="}


def test_the_mathematics_need_three_packages():
    """As far as imports see, the others are not there; `tests/wheel_check.py` leaves them out."""
    others = [module for module in (*INSTALLED, *map(module_of, ALWAYS)) if module not in THREE]
    absent = f"import sys\nsys.modules.update(dict.fromkeys({sorted(set(others))!r}))\n"
    program = [sys.executable, "-W", "ignore", "-c", absent + BY_HAND]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "learned by hand" in done.stdout


def module_of(package):
    return {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}.get(package, package)
