"""`diffeo doctor`."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from rich.table import Table

from diffeo.data.images.cache import default_folder
from diffeo.utils.console import size_text
from diffeo.utils.machine import check_compiler, find_device, free_memory, has_bfloat16
from diffeo.utils.version import __version__

PACKAGES = ["torch", "accelerate", "safetensors", "huggingface_hub", "numpy", "pandas", "pyarrow"]
PACKAGES += ["scikit-learn"]
# An extra and the package that it is for.
EXTRAS = {"explorer": "gradio", "onnx": "onnxruntime", "hub": "datasets", "ray": "ray"}
EXTRAS |= {"pyro": "pyro-ppl"}


def main() -> Iterator[Table]:
    """Print versions, devices, threads, memory and caches, for a report of a problem.

    It also says whether there is a compiler. It names no data, and no folder but those of caches.
    """
    table = Table("what", "found", title=f"diffeo {__version__}")
    for name, found in [
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
        *(("package", f"{name} {version(name)}") for name in PACKAGES),
        *(("extra", _extra(extra, package)) for extra, package in EXTRAS.items()),
        *_devices(),
        ("threads", _threads()),
        ("memory", f"{size_text(free_memory('cpu'))} free"),
        ("compiler", _compiler()),
        ("images", _cache(default_folder(), "set DIFFEO_CACHE for another")),
        ("hub", _cache(Path(HF_HUB_CACHE), "set HF_HOME for another")),
    ]:
        table.add_row(name, found)
    yield table


def _extra(name: str, package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f'{package} is missing: pip install "diffeo[{name}]"'


def _devices() -> Iterator[tuple[str, str]]:
    chosen = find_device().type
    for name in ("cpu", "cuda", "mps"):
        try:
            device = find_device(name)
        except ValueError:
            yield "device", f"{name}: there is none"
            continue
        found = [name + " (auto)" * (name == chosen)]
        if name == "cuda":
            count = torch.cuda.device_count()
            found += [torch.cuda.get_device_name(i) for i in range(count)]
            found.append(f"{size_text(free_memory(device))} free")
        found.append("bfloat16" if has_bfloat16(device) else "no fast bfloat16")
        yield "device", ", ".join(found)


def _threads() -> str:
    from joblib import cpu_count

    limit = os.environ.get("OMP_NUM_THREADS")
    text = f"{torch.get_num_threads()} on {cpu_count()} cores"
    return text if limit is None else f"{text}, OMP_NUM_THREADS is {limit}"


def _compiler() -> str:
    try:
        check_compiler(find_device().type)
    except ValueError as error:
        return f"none: {error}"
    return os.environ.get("CXX") or shutil.which("c++") or "found"


def _cache(folder: Path, remedy: str) -> str:
    home = Path.home()
    name = f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = size_text(sum(path.stat().st_size for path in files)) if files else "empty"
    return f"{name}, {size} ({remedy})"
