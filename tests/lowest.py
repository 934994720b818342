"""The lower bounds of pyproject.toml as constraints for pip: `make lowest` tests with just these.

PyTorch stays as constraints.txt has it, since older builds for a CPU alone are on no registry. The
extra `explorer` and those of `diffeo.integrations` are left out: their bounds are the releases that
the other tests take, and need more of their neighbours than diffeo does.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("hub", "pyro", "onnx", "ode", "compression", "ray")


def bounds() -> dict[str, str]:
    """The oldest release allowed of each package that users get."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS:
        asked += project["optional-dependencies"][extra]
    found = {}
    for line in asked:
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", line)
        assert match, f"{line}: give it a lower bound"
        found[match[1]] = match[2]
    return found


def releases() -> dict[str, str]:
    """The release of each package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


if __name__ == "__main__":
    for name, version in (bounds() | {"torch": releases()["torch"]}).items():
        print(f"{name}=={version}")
