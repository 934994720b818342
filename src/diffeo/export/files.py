"""Trace the programs of a flow, write them as files, and compare the files with the flow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.export import ExportedProgram

from diffeo.bijections.dequantization import PixelDequantize
from diffeo.export.programs import Inputs, Program, Sample, Score, prepare
from diffeo.flow import Flow, eval_mode
from diffeo.models.mixed import MixedFlow
from diffeo.utils.files import atomic_write

Format = Literal["onnx", "torch"]
What = Literal["score", "sample", "both"]
Call = Callable[[Inputs], Tensor]
TRACED, CHECKED = 3, (1, 5)  # batch sizes
# How far a file may be from the flow: in nats, of each log-probability and relative to it; of each
# feature of a table, relative to its spread; and the share of pixels that rounding may put into a
# neighbouring grey level.
NATS, RELATIVE, SPREAD, PIXELS = 1e-3, 1e-4, 1e-3, 0.01


@dataclass(frozen=True)
class Exported:
    """A file that was written, its inputs and its output (name, shape and dtype).

    `error` is its largest difference from the flow: of a log-probability in nats, of a feature in
    standard deviations, or the share of pixels off by a grey level; `unit` says which.
    """

    path: Path
    takes: str
    gives: str
    error: float
    unit: str


def export(
    flow: Flow, folder: Path | str, to: Format = "onnx", what: What = "both"
) -> list[Exported]:
    """Write `score` and `sample` into a folder, as `.onnx` or `.pt2`, checked against the flow.

        score:   x, [noise], [context] -> log p(x | context) (batch,), in nats
        sample:  z, [context] -> x

    Neither draws anything: the caller passes the noise. Inputs are given by name.

    - x `(batch, *shape)`: float32, or uint8 for images.
    - noise `(batch, *shape)`: only of a flow that dequantizes: where in its cell each value is put,
      from 0 to 1. Uniform draws give what `Flow.log_prob` gives, the bound that is published as
      bits/dim; 1/2 everywhere is the middle of each cell, which is the same each time and good for
      ranking, but no bound.
    - z `(batch, dims)`: draws from the base density, N(0, 1) by default, times a temperature if
      wanted; for the logistic base, `log(u / (1 - u))` of uniform u.
    - context `(batch, context_features)`, float32; of a class-conditional flow the classes
      `(batch,)`, int64 from 0 on.

    Batches may have any size. The computation is float32 on the CPU, whatever the flow is in, and
    in eval mode. The files hold no code and nothing of diffeo; they are used like this:

        session = onnxruntime.InferenceSession("score.onnx")
        [log_prob] = session.run(None, {"x": x})        # NumPy arrays

        sample = torch.export.load("sample.pt2").module()
        x = sample(z=torch.randn(100, 2))

    Each file is read back and compared with the flow on draws of its own, in batches of 1 and 5;
    it was traced with 3. Log-probabilities have to agree to 1e-3 nats + 1e-4 of their value,
    features to 1e-3 of their standard deviation, and 99 % of pixels exactly, the others to a grey
    level. Files of the same name are replaced, once all are right. ONNX needs the extra
    `diffeo[onnx]`.

    Raises:
        ValueError: if the flow cannot be exported, a file differs from it, or an extra is missing.
            Nothing is written then.
    """
    if to not in WRITERS or what not in get_args(What):
        raise ValueError(f"there is no export of {what!r} to {to!r}: see diffeo export --help.")
    if isinstance(flow, MixedFlow):
        raise ValueError(
            "a MixedFlow cannot be exported, since it computes in float64 and draws by a search: "
            "use it by diffeo, or export another model."
        )
    if to == "onnx":
        require_onnx()
    suffix, write = WRITERS[to]
    plain = prepare(flow)
    done = []
    with ExitStack() as files:
        for name in ("score", "sample") if what == "both" else (what,):
            program: Program = Score(plain) if name == "score" else Sample(plain)
            path = Path(folder) / f"{name}{suffix}"
            partial = files.enter_context(atomic_write(path))
            call = write(trace(program), partial)
            error = max(check(program, call, size) for size in CHECKED)
            inputs, output = program.example(1)
            takes = ", ".join(describe(*each) for each in inputs.items())
            gives = describe(program.output, output)
            done.append(Exported(path, takes, gives, error, program.unit))
    return done


def trace(program: Program) -> ExportedProgram:
    """Trace a program for batches of any size."""
    with eval_mode(program.flow):
        inputs, _ = program.example(TRACED)
        shapes = {name: {0: torch.export.Dim("batch")} for name in inputs}
        try:
            traced = torch.export.export(program, (), inputs, dynamic_shapes=shapes)
        except Exception as error:
            raise ValueError(
                f"{program.name} of this flow cannot be traced: {_cause(str(error))}."
            ) from error
    for module in traced.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
            if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten":
                raise ValueError(
                    f"{program.name} has the operation {node.target}, which only this PyTorch has."
                )
    return traced


def _cause(words: str) -> str:
    """What a tracer's error says, with the remedy where its cause is known."""
    known = {
        "data-dependent": "a part needs a value of a tensor in Python, such as `if x.sum() > 0` or "
        "`x.item()`: write it with operations on tensors, such as torch.where",
        "constant": "a part takes the number of rows for a constant, such as `len(x)`: write "
        "x.shape[0]",
    }
    remedies = [remedy for word, remedy in known.items() if word in words.lower()]
    return remedies[0] if remedies else f"PyTorch says: {' '.join(words.split())[:300].rstrip('.')}"


def write_torch(traced: ExportedProgram, path: Path) -> Call:
    """Write a `.pt2` file and return it as a function, read back."""
    torch.export.save(traced, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(**inputs)


def write_onnx(traced: ExportedProgram, path: Path) -> Call:
    """Write an `.onnx` file and return it as a function, read back."""
    import onnxruntime

    names = traced.graph_signature.user_inputs
    try:
        written = torch.onnx.export(
            traced, input_names=names, output_names=[path.stem], dynamo=True, verbose=False
        )
    except torch.onnx.errors.OnnxExporterError as error:
        words = f"{error} {error.__cause__}"
        found = re.findall(r"(?:op='|target=torch\.ops\.)([\w.]+?)(?:\.default)?['\]]", words)
        lacking = sorted({*found})
        reason = f"it lacks {', '.join(lacking)}" if lacking else _cause(str(error))
        raise ValueError(
            f"this flow cannot be written as ONNX, since {reason}: export to torch, or write that "
            "part with other operations."
        ) from error
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
    """How far a file is from the flow on a batch of some size, in `program.unit`."""
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
