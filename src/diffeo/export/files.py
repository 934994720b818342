"""Programs traced, written as ONNX or by `torch.export`, and compared with the flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from diffeo.bijections.dequantization import PixelDequantize
from diffeo.export.programs import Inputs, Program
from diffeo.flow import eval_mode

Format = Literal["onnx", "torch"]
Call = Callable[[Inputs], Tensor]
TRACED = 3  # events of the example
# How far a file may be from the flow: in nats, of each log-probability and relative to it; of each
# feature of a table, relative to its spread; and the share of pixels that rounding may put into a
# neighbouring grey level.
NATS, RELATIVE, SPREAD, PIXELS = 1e-3, 1e-4, 1e-3, 0.01


def trace(program: Program) -> ExportedProgram:
    """Trace a program for batches of any size.

    Raises:
        ValueError: if it depends on values, or has operations of this PyTorch alone.
    """
    with eval_mode(program.flow):
        inputs, _ = program.example(TRACED)
        shapes = {name: {0: torch.export.Dim("batch")} for name in inputs}
        try:
            traced = torch.export.export(program, (), inputs, dynamic_shapes=shapes)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{program.name} of this flow cannot be traced: write its parts without branches "
                f"that depend on values ({reason})."
            ) from error
    for module in traced.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
            if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten":
                raise ValueError(
                    f"{program.name} has the operation {node.target}, which only this PyTorch has."
                )
    return traced


def write_torch(traced: ExportedProgram, path: Path) -> Call:
    """Write a `.pt2` file and return it as a function, read back."""
    torch.export.save(traced, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(**inputs)


def write_onnx(traced: ExportedProgram, path: Path) -> Call:
    """Write an `.onnx` file and return it as a function, read back."""
    import onnxruntime

    names = traced.graph_signature.user_inputs
    written = torch.onnx.export(
        traced, input_names=names, output_names=[path.stem], dynamo=True, verbose=False
    )
    assert written is not None
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(inputs: Inputs) -> Tensor:
        [result] = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        return torch.from_numpy(result)

    return call


WRITERS: dict[Format, tuple[str, Callable[[ExportedProgram, Path], Call]]] = {
    "onnx": (".onnx", write_onnx),
    "torch": (".pt2", write_torch),
}


def check(program: Program, call: Call, size: int) -> float:
    """How far a file is from the flow on a batch of some size, in `program.unit`.

    Raises:
        ValueError: if it is too far.
    """
    with eval_mode(program.flow):
        inputs, expected = program.example(size)
    result = call(inputs)
    if result.shape != expected.shape or result.dtype != expected.dtype:
        raise ValueError(
            f"the exported {program.name} gives {describe('', result)}, not "
            f"{describe('', expected)}."
        )
    apart = (result.double() - expected.double()).abs()
    if not apart.isfinite().all():
        apart = torch.where(result == expected, 0.0, math.inf)
    dequantizer = program.flow.dequantizer
    if program.name == "score":
        error = float(apart.max())
        right = bool((apart <= NATS + RELATIVE * expected.abs()).all())
    elif isinstance(dequantizer, PixelDequantize):
        error = float((apart > 0).double().mean())
        right = error <= PIXELS and float(apart.max()) <= 2 ** (8 - dequantizer.bits)
    else:
        with eval_mode(program.flow):
            spread = program.example(100)[1].double().std(0)
        error = float((apart / spread).max())
        right = error <= SPREAD
    if right:
        return error
    raise ValueError(
        f"the exported {program.name} differs from the flow by {error:.2g} in a batch of {size}, "
        "and so nothing was written: the flow may amplify rounding errors; try the other format."
    )


def describe(name: str, value: Tensor) -> str:
    """Such as `x (batch, 2) float32`."""
    shape = ", ".join(map(str, ["batch", *value.shape[1:]]))
    return f"{name} ({shape}) {str(value.dtype).removeprefix('torch.')}".strip()


def require_onnx() -> None:
    """Refuse to write ONNX where a package is missing: a ValueError names it."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing, which ONNX needs: pip install 'diffeo[onnx]', or export to "
            "torch."
        ) from error
