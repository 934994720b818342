"""Use a built wheel in empty environments: `python tests/wheel_check.py dist constraints.txt`.

The first has torch, NumPy and safetensors alone, which the mathematics needs; the second has all
that the wheel asks for. Both run in a folder of their own, so that nothing of the repository is
imported, and without PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

THREE = ("torch", "numpy", "safetensors")
BY_HAND = """
import sys, torch, diffeo
torch.manual_seed(0)
x = torch.randn(500, 3) @ torch.randn(3, 3)
flow = diffeo.RealNVP(3).initialize(x)
before = -flow.log_prob(x).mean().item()
adam = torch.optim.Adam(flow.parameters(), 5e-3)
for _ in range(50):
    loss = -flow.log_prob(x).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
after = loss.item()
assert after < before, (after, before)
flow.eval().save_pretrained("model")
assert torch.equal(diffeo.load("model").log_prob(x), flow.log_prob(x))
assert not any(sys.modules.get(name) for name in ("pandas", "huggingface_hub", "yaml", "rich"))
print("Python", sys.version.split()[0], "with torch", torch.__version__)
print(f"RealNVP learned by hand: {before:.3f} to {after:.3f} nats")
"""
COMMANDS = (
    ("--version",),
    ("doctor",),
    ("sample", "mnist", "--label", "3", "--num", "4", "--out", "threes.png"),
    ("train", "--data", "my.csv", "--out", "run"),
    ("score", "run", "--data", "my.csv", "--out", "scores.csv"),
)


def install(folder: Path, *what: str) -> Path:
    """An empty environment with some packages, and its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *what)
    subprocess.run(pip, check=True)
    return python


def check_files(wheel: Path) -> None:
    """The wheel has each file of `src`, and none that was deleted there."""
    source = Path(__file__).resolve().parents[1] / "src"
    files = (path for path in (source / "diffeo").rglob("*") if path.is_file())
    written = {path.relative_to(source).as_posix() for path in files if path.suffix != ".pyc"}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("diffeo/")}
    assert packed == written, f"differ: {sorted(packed ^ written)}"
    print(f"{wheel.name}: {len(packed)} files of the package")


def main(dist: str, constraints: str) -> None:
    """Both environments."""
    os.environ.pop("PYTHONPATH", None)
    (wheel,) = Path(dist).resolve().glob("*.whl")
    check_files(wheel)
    pinned = ("-c", str(Path(constraints).resolve()))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        python = install(folder / "three", *pinned, *THREE)
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        subprocess.run((*pip, "--no-deps", str(wheel)), check=True)
        subprocess.run((str(python), "-c", BY_HAND), check=True, cwd=folder)
        python = install(folder / "all", *pinned, str(wheel))
        rows = "".join(f"{i % 7},{i % 3},{'ab'[i % 2]}\n" for i in range(200))
        (folder / "my.csv").write_text(f"count,level,kind\n{rows}", encoding="utf-8")
        for command in COMMANDS:
            subprocess.run((str(python.parent / "diffeo"), *command), check=True, cwd=folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
