"""How `torch.compile` is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffeo.utils.machine import check_compiler


def compile_options(device: str, **chosen: Any) -> dict[str, Any]:
    """The arguments of `torch.compile` on a kind of device: one program for all batch sizes.

    On a CPU its operations are called from C++, which takes less time than from Python.

    Args:
        device: "cpu", "cuda" and so on.
        chosen: arguments that take the place of these.

    Raises:
        ValueError: if there is no compiler for the device.
    """
    check_compiler(device)
    usual: dict[str, Any] = {"dynamic": True}
    if device == "cpu" and not {"mode", "backend"} & {*chosen}:
        from diffeo.utils.compiled_products import ByOneDNN

        options = {
            "cpp_wrapper": True,
            "post_grad_custom_post_pass": ByOneDNN(),
            # Sizes follow from what is looked at before each call.
            "size_asserts": False,
            "alignment_asserts": False,
            "scalar_asserts": False,
        }
        usual["options"] = options | (chosen.pop("options", None) or {})
    return usual | chosen


class Program:
    """A function of tensors, compiled by its first call, once for all sizes of a batch.

    Nothing else than the first size of each tensor may change without another compilation; so
    numbers of the model become constants, and need not be passed each time.

    Args:
        function: of tensors, each `(batch, ...)`, or None.
        device: see `compile_options`.
        options: of `torch.compile`.
    """

    def __init__(
        self, function: Callable[..., Any], device: str, *args: Any, **options: Any
    ) -> None:
        options = compile_options(device, **{"dynamic": None} | options)
        self.compiled: Callable[..., Any] = torch.compile(function, *args, **options)

    def __call__(self, *tensors: Any) -> Any:
        """What the function returns."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self.compiled(*tensors)
