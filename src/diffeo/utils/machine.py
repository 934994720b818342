"""What the machine offers: devices, precisions, a compiler, cores, and free memory."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bf16"]
COMPILERS = ("c++", "g++", "clang++", "cl")
MEMINFO, CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# The limit of this group of processes, its use, and what of that are files that nobody reads now:
# a cache, which makes room. In version 2 of cgroups and in version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def find_device(device: Device = "auto") -> torch.device:
    """The device of a name; for "auto" a GPU where there is one (CUDA, then MPS), else the CPU.

    Raises:
        ValueError: if the name is unknown, or this machine has no such device.
    """
    _check_choice("device", device, get_args(Device))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [*(name for name, there in available.items() if there), "cpu"]
    if device != "auto" and device not in found:
        raise ValueError(f"this machine has no {device} device: choose {', '.join(found)}.")
    return torch.device(found[0] if device == "auto" else device)


def widest(device: torch.device | str) -> torch.dtype:
    """The widest floats that a device computes: float64, but float32 on Apple's GPUs (mps)."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def networks_dtype(precision: Precision) -> torch.dtype | None:
    """What `Flow.set_precision` takes, to use a model: bfloat16 if it is asked for, or else None.

    "auto" is float32 on every machine, so that no reported figure depends on where it was computed:
    bfloat16 networks were measured to change the bits/dim of trained models by up to 0.026.

    Raises:
        ValueError: if there is no such precision.
    """
    _check_choice("precision", precision, get_args(Precision))
    return torch.bfloat16 if precision == "bf16" else None


def training_dtype(
    precision: Precision, images: bool, device: torch.device | str
) -> torch.dtype | None:
    """The same to train a flow of images or of tables.

    "auto" is bfloat16 for images if the device computes it. Validation and the saved model are
    float32 all the same.
    """
    if precision == "auto" and images and has_bfloat16(device):
        return torch.bfloat16
    return networks_dtype(precision)


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own, and does not emulate them.

    Known of x86 processors and of GPUs; False for all others.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    # The oldest torch that is supported has no such function.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def check_compiler(device: str) -> None:
    """Check that `torch.compile` finds what it needs for a kind of device.

    Raises:
        ValueError: if it does not.
    """
    if device == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("torch.compile needs Triton on a GPU: pip install triton.")
    elif not any(map(shutil.which, (os.environ.get("CXX", "c++"), *COMPILERS))):
        raise ValueError("torch.compile needs a C++ compiler, and there is none: install g++.")


def random_states(device: torch.device) -> list[Tensor]:
    """The states of torch's random generators: that of the CPU, and that of a device, if another.

    `torch.utils.checkpoint` has such a function, which Apple's GPUs lack what it takes for.
    """
    states = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


@contextmanager
def forked_random(device: torch.device, states: Sequence[Tensor] = ()) -> Iterator[None]:
    """A context that starts from some `random_states`, and leaves the generators as they were."""
    before = random_states(device)
    try:
        _set_random_states(device, states)
        yield
    finally:
        _set_random_states(device, before)


def limit_threads() -> None:
    """Use no more threads than there are cores for this process, as containers allot them."""
    from joblib import cpu_count
    from threadpoolctl import ThreadpoolController

    cores = cpu_count()
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    # Only ever fewer: a user who asked for one thread, to run two trainings at once, keeps it.
    for pool in ThreadpoolController().lib_controllers:
        if pool.num_threads is not None and pool.num_threads > cores:
            pool.set_num_threads(cores)


@contextmanager
def one_thread() -> Iterator[None]:
    """The fastest for small networks, and fair to other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_memory(device: torch.device | str) -> float:
    """How much memory is free on a device, in bytes; infinity where that is not known.

    On a GPU what its driver has, and what torch holds there in reserve. Elsewhere the least of
    what the machine can give and of what is left of the limit of this process's cgroup.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min((_machine(), *_cgroups()))


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step; call it before a loop.

    The C library of most Linux systems (glibc) gives large blocks back as soon as they are freed,
    and has to ask for them again, page by page. A step of training frees and takes the same blocks
    each time, and where pages are dear, as in virtual machines, that takes up to a third of a step.
    `diffeo train` calls this on a CPU. The process then holds what it held at most until it ends.

    Returns:
        Whether it was done: not without glibc, and not where the environment says how memory is
        to be handled (`MALLOC_...`, or `glibc.malloc` in `GLIBC_TUNABLES`).
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _c_function("mallopt")
    # -1 is never; and no block is mapped on its own, which would be unmapped when it is freed.
    return mallopt is not None and all((mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_MMAP_MAX, 0)))


def return_freed_memory() -> bool:
    """Give back to the system what this process has freed, holes between live blocks included.

    Used by several threads, glibc's heaps keep such holes, and a process that serves for days
    grows. `diffeo explore` calls this every few seconds: to have each large block mapped on its own
    would cost up to a half more time for an image, where pages are dear.

    Returns:
        Whether there was anything to give back: False without glibc.
    """
    trim = _c_function("malloc_trim")
    return trim is not None and bool(trim(0))


def _c_function(name: str) -> Any:
    """A function of the C library, or None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _set_random_states(device: torch.device, states: Sequence[Tensor]) -> None:
    for state in states[:1]:
        torch.set_rng_state(state)
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)


def _check_choice(what: str, name: str, choices: tuple[str, ...]) -> None:
    if name not in choices:
        raise ValueError(f"there is no {what} {name!r}: choose one of {', '.join(choices)}.")


def _machine() -> float:
    """What new programs could take without swapping, or all there is where that is unknown."""
    if MEMINFO.is_file() and "MemAvailable" in (known := _table(MEMINFO)):
        return known["MemAvailable"] * 1024
    for pages in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        if pages in getattr(os, "sysconf_names", ()):
            return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def _cgroups() -> Iterator[float]:
    """What is left of each limit that is set on this process's group."""
    for limit, use, stat, cache in CGROUP_FILES:
        try:
            most = (CGROUPS / limit).read_text().strip()
            if most != "max":
                used = int((CGROUPS / use).read_text()) - _table(CGROUPS / stat).get(cache, 0)
                yield max(0, int(most) - used)
        except (OSError, ValueError):
            continue  # There is none, or none that may be read.


def _table(path: Path) -> dict[str, int]:
    """The names and numbers of a file of the kernel's, a pair a line."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value, *_ in rows}
