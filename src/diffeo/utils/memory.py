"""The memory of this machine: how much is free, and whether freed memory is held for reuse."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

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


def _machine() -> float:
    """What new programs could take without swapping, or all there is where that is not told."""
    if MEMINFO.is_file():
        known = _table(MEMINFO)
        if "MemAvailable" in known:
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


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step; call it before a loop.

    The C library of most Linux systems (glibc) gives large blocks back as soon as they are freed,
    and has to ask for them again, page by page. A step of training, with constant memory above
    all, frees and takes the same blocks each time, and where pages are dear, as in virtual
    machines, that takes up to a third of a step. `diffeo train` calls this on a CPU. What the
    process held at most stays with it until it ends.

    Returns:
        Whether it was done: not without glibc, and not where the environment says how memory is
        to be handled (`MALLOC_...`, or `glibc.malloc` in `GLIBC_TUNABLES`).
    """
    # -1 is never; and no block is mapped on its own, which would be unmapped when it is freed.
    return _tell_malloc({M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0})


def return_freed_memory() -> bool:
    """Give back to the system what this process has freed, holes between live blocks included.

    Used by several threads, glibc's heaps keep such holes, and a process that serves for days
    grows. `diffeo explore` calls this every few seconds: to have each large block mapped on its own
    would cost up to a half more time for an image, where pages are dear.

    Returns:
        Whether there was anything to give back: False without glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))


def _tell_malloc(settings: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(bool(mallopt(name, value)) for name, value in settings.items())
