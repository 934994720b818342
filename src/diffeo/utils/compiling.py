"""How `torch.compile` is called."""

from __future__ import annotations

from typing import Any

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

        options = {"cpp_wrapper": True, "post_grad_custom_post_pass": ByOneDNN()}
        usual["options"] = options | (chosen.pop("options", None) or {})
    return usual | chosen
