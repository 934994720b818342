"""What the machine offers: a compiler for `torch.compile`."""

from __future__ import annotations

import importlib.util
import os
import shutil

COMPILERS = ("c++", "g++", "clang++", "cl")


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
